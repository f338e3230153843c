"""Videos, frame by frame, through OpenCV."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from prunet_det.utils.errors import InputError, UserError
from prunet_det.utils.extras import require
from prunet_det.utils.io import atomic_path

USUAL_RATE = 25.0  # frames a second, where a file does not say


class Video:
    """A video file that is read.

    Args:
        path: The file.

    Attributes:
        rate: Frames a second.
        size: Width and height in pixels.
        count: Number of frames as the file says it; 0 if it does not.

    Raises:
        InputError: If it cannot be read as a video.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._cv2, self._path = require("cv2", "det"), os.fspath(path)
        with self._opened() as capture:
            rate = capture.get(self._cv2.CAP_PROP_FPS)
            self.rate = rate if 0 < rate < 1000 else USUAL_RATE
            self.count = max(0, int(capture.get(self._cv2.CAP_PROP_FRAME_COUNT)))
            there, frame = capture.read()
            if not there:
                raise InputError(f"{self._path} is a video without a frame that can be read.")
            self.size = (frame.shape[1], frame.shape[0])

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        capture = self._cv2.VideoCapture(self._path)
        try:
            if not capture.isOpened():
                raise InputError(f"{self._path} is no video that OpenCV can read.")
            yield capture
        finally:
            capture.release()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Reads the frames, (H, W, 3) uint8 in BGR."""
        with self._opened() as capture:
            while True:
                there, frame = capture.read()
                if not there:
                    return
                yield frame


@contextlib.contextmanager
def writing_video(
    path: str | os.PathLike[str], rate: float, size: tuple[int, int]
) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes an MP4 file, whole or not at all.

    Args:
        path: File to write.
        rate: Frames a second.
        size: Width and height in pixels.

    Yields:
        A function that adds a frame, (H, W, 3) uint8 in BGR.

    Raises:
        UserError: If OpenCV cannot write it.
    """
    cv2 = require("cv2", "det")
    with atomic_path(Path(path)) as temporary:
        code = cv2.VideoWriter_fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(temporary), code, rate, size)
        try:
            if not writer.isOpened():
                raise UserError(f"OpenCV cannot write the video {os.fspath(path)}.")
            yield writer.write
        finally:
            writer.release()
