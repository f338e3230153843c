"""Detectors that tools/export.py has written, from pixels to boxes: MMDetection is not needed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prunet_det.inference.detector import Engine, Found
from prunet_det.runtime.onnx import open_session
from prunet_det.utils.errors import InputError, MissingFileError
from prunet_det.utils.letterbox import fit_square

_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}


class ExportedFile(Engine):
    """An ONNX file of scope e2e in ONNX Runtime.

    Args:
        path: The file. How images become squares, and the classes, are in its metadata.
        device: Torch device.
        batch: Images at once, if the file leaves that free.
        threads: Threads of a CPU; all cores by default.

    Attributes:
        classes: Class names, in the order of the labels.

    Raises:
        MissingFileError: If there is no such file.
        RuntimeMissingError: If ONNX Runtime is not installed, or has no CUDA.
        InputError: If it is no such file, or takes another batch.
    """

    runtime = "onnxruntime"

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: str = "cpu",
        batch: int = 1,
        threads: int | None = None,
    ) -> None:
        path = Path(path)
        if not path.is_file():
            raise MissingFileError(f"there is no file {path}.")
        try:
            self._session = open_session(path.read_bytes(), device, threads)
        except InputError as e:
            raise InputError(f"{path} cannot be used: {e}") from e
        about = self._session.get_modelmeta().custom_metadata_map
        if not {"letterbox", "classes"} <= about.keys():
            raise InputError(
                f"{path} does not go from pixels to boxes; write it with tools/export.py --scope "
                "e2e."
            )
        self._letterbox: dict[str, Any] = json.loads(about["letterbox"])
        self.classes: tuple[str, ...] = tuple(json.loads(about["classes"]))
        (given,) = self._session.get_inputs()
        self._input, self._type = given.name, _TYPES[given.type]
        self._fixed = isinstance(given.shape[0], int)
        if self._fixed and batch not in (1, given.shape[0]):
            raise InputError(f"{path} takes {given.shape[0]} images at once, not {batch}.")
        self.batch, self.device = given.shape[0] if self._fixed else batch, device

    def prepare(self, image: np.ndarray) -> Any:
        """Returns the square of an image, (H, W, 3) uint8 in BGR, in RGB, and what was done."""
        return fit_square(image[..., ::-1], **self._letterbox)

    def run(self, prepared: Sequence[Any]) -> list[Found]:
        """Finds the objects in images; a batch of one size is filled up with the last one."""
        squares = [square for square, _, _ in prepared]
        if self._fixed:
            squares += squares[-1:] * (self.batch - len(squares))
        pixels = np.stack(squares).transpose(0, 3, 1, 2).astype(self._type, order="C")
        boxes, scores, labels = self._session.run(None, {self._input: pixels})
        results = []
        for i, (_, factors, (height, width)) in enumerate(prepared):
            real = labels[i] >= 0
            corners = boxes[i][real].clip(0, np.array([width, height] * 2))
            scaled = corners / np.array(factors * 2)
            results.append(Found(scaled, scores[i][real], labels[i][real]))
        return results
