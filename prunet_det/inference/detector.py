"""A detector that is called with images."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from prunet_det.inference.detections import Detections
from prunet_det.inference.images import ChannelOrder, Image, as_pixels, is_batch, source_of
from prunet_det.utils.errors import InputError


class Found(NamedTuple):
    """What an engine has found in an image: see `Detections`."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Engine(ABC):
    """What finds objects in images, in one runtime.

    Attributes:
        runtime: Name of the runtime.
        device: Torch device that it runs on.
        batch: Number of images that it takes at once, at most.
    """

    runtime: str
    device: str
    batch: int = 1

    @abstractmethod
    def prepare(self, image: np.ndarray) -> Any:
        """Returns an image as `run` takes it; several threads may call this at once.

        Args:
            image: (H, W, 3) uint8 in BGR.
        """

    @abstractmethod
    def run(self, prepared: Sequence[Any]) -> list[Found]:
        """Finds the objects in images; one thread at a time may call this.

        Args:
            prepared: What `prepare` returned, for `batch` images or fewer.
        """


class Detector:
    """A trained detector; `prunet_det.load_detector` makes one.

    Several threads may call it: they read and resize images at the same time, and the network runs
    for one of them after the other.

    Args:
        engine: What runs the network.
        classes: Class names, in the order of the labels.
        score_thr: Minimum score of a detection, 0..1.
        max_per_img: Maximum number of detections in an image; None for as many as the engine gives.
        channel_order: Order in arrays and tensors: `bgr`, as OpenCV reads images, or `rgb`.

    Attributes:
        classes: Class names, in the order of the labels.
        runtime: Name of the runtime that was chosen.
        device: Torch device.
        batch: Number of images that are run at once.

    Raises:
        InputError: If an argument is out of its range.
    """

    def __init__(
        self,
        engine: Engine,
        classes: Sequence[str],
        *,
        score_thr: float = 0.3,
        max_per_img: int | None = None,
        channel_order: ChannelOrder = "bgr",
    ) -> None:
        check_selection(score_thr, max_per_img)
        if channel_order not in ("bgr", "rgb"):
            raise InputError(f"channel_order must be bgr or rgb, got {channel_order!r}.")
        self.classes = tuple(classes)
        self.runtime, self.device, self.batch = engine.runtime, engine.device, engine.batch
        self._engine, self._lock = engine, threading.Lock()
        self._score_thr, self._max_per_img = score_thr, max_per_img
        self._channel_order: ChannelOrder = channel_order

    def __repr__(self) -> str:
        classes = f"{len(self.classes)} class{'es' if len(self.classes) != 1 else ''}"
        return f"<Detector of {classes}, {self.runtime} on {self.device}, batch {self.batch}>"

    def __call__(self, images: Image | Sequence[Image]) -> Any:
        """Detects objects in an image, or in each of several.

        Args:
            images: A path; a Pillow image; an array (H, W, 3) uint8; or a tensor (3, H, W) uint8.
                Arrays and tensors are in the detector's `channel_order`, BGR by default. A list or
                tuple of these, or one array or tensor of N images, gives a list.

        Returns:
            Detections; or a list of them, in the order of the images.

        Raises:
            MissingFileError: If there is no such file.
            InputError: If it is no image.
        """
        if is_batch(images):
            return list(self.stream(images))
        (found,) = self.stream([images])
        return found

    def stream(self, images: Iterable[Image]) -> Iterator[Detections]:
        """Detects objects in one image after the other, without keeping them.

        Args:
            images: Images, as a call takes them; `batch` of them are taken at once. Each is copied
                when it is taken: the next may be in the same array.

        Yields:
            Detections of each image, in order.

        Raises:
            MissingFileError: If there is no such file.
            InputError: If it is no image.
        """
        waiting = map(self._take, images)
        while chunk := list(islice(waiting, self.batch)):
            prepared, sources = zip(*chunk, strict=True)
            with self._lock:
                results = self._engine.run(prepared)
            for found, source in zip(results, sources, strict=True):
                yield self._select(found, source)

    def _take(self, image: Image) -> tuple[Any, Any]:
        """Returns an image as the engine takes it, and what Detections keep of it."""
        pixels = as_pixels(image, self._channel_order)
        return self._engine.prepare(pixels), source_of(image, pixels)

    def _select(self, found: Found, source: Any) -> Detections:
        """Returns the detections that are good enough, best first."""
        order = np.argsort(-found.scores, kind="stable")
        order = order[found.scores[order] >= self._score_thr][: self._max_per_img]
        return Detections(
            boxes=found.boxes[order].astype(np.float32, copy=False),
            scores=found.scores[order].astype(np.float32, copy=False),
            labels=found.labels[order].astype(np.int64, copy=False),
            classes=self.classes,
            source=source,
        )


def check_selection(score_thr: float, max_per_img: int | None) -> None:
    """Refuses a threshold or a number of detections that is out of its range.

    Raises:
        InputError: If one is.
    """
    if not 0 <= score_thr <= 1:
        raise InputError(f"score_thr must lie in 0..1, got {score_thr}.")
    if max_per_img is not None and max_per_img < 1:
        raise InputError(f"max_per_img must be at least 1, got {max_per_img}.")
