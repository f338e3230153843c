"""Decoded images in memory that all processes of a data loader share."""

from __future__ import annotations

import logging
import math
import os
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from typing import TypeAlias

import numpy as np

from prunet_det.utils.env import free_shared_memory, local_processes, usable_cores
from prunet_det.utils.errors import InputError

logger = logging.getLogger(__name__)

Shape: TypeAlias = tuple[int, int]  # height and width


class SharedImages:
    """Images of a data set as uint8, decoded once into memory that processes share.

    Data loaders' processes, forked or spawned, read the same memory. It is given back when the
    process ends that decoded the images.

    Args:
        read: Decodes an image by its index to (H, W, 3) uint8; it is called in several threads.
        shapes: Height and width of each image; a decoded one may also lie on its side.

    Raises:
        InputError: If the images do not fit the memory that is free, or one is not uint8.
    """

    def __init__(self, read: Callable[[int], np.ndarray], shapes: Sequence[Shape]) -> None:
        sizes = np.array([math.prod(shape) * 3 for shape in shapes], np.int64)
        self._starts = np.concatenate([[0], sizes.cumsum()])
        self._shapes = np.array(shapes, np.int64)
        total = int(self._starts[-1])
        _check_fits(total, len(shapes))
        start = time.perf_counter()
        self._memory = SharedMemory(create=True, size=max(total, 1))
        self._finalizer = weakref.finalize(self, _unlink, self._memory, os.getpid())

        def decode(index: int) -> None:
            image = read(index)
            if image.dtype != np.uint8 or image.shape[2:] != (3,):
                raise InputError(
                    f"image {index} is decoded to {image.dtype} of shape {image.shape}, and the "
                    "cache is for uint8 with three channels: leave to_float32 and color_type out "
                    "of LoadImageFromFile, or leave the cache out."
                )
            self._shapes[index] = image.shape[:2]
            self._flat(index)[:] = image.reshape(-1)

        with ThreadPoolExecutor(usable_cores()) as pool:
            for _ in pool.map(decode, range(len(shapes))):
                pass  # an error is raised here
        logger.info(
            "%d images are decoded in memory: %.2f GB, %.1f s.",
            len(shapes),
            total / 1e9,
            time.perf_counter() - start,
        )

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns a read-only view of an image, (H, W, 3) uint8."""
        image = self._flat(index).reshape(*self._shapes[index], 3)
        image.flags.writeable = False
        return image

    def _flat(self, index: int) -> np.ndarray:
        """A view, made anew each time: memory can be closed only when no view is left."""
        start, end = self._starts[index : index + 2].tolist()
        return np.frombuffer(self._memory.buf, np.uint8, end - start, start)


def _check_fits(needed: int, count: int) -> None:
    """Refuses more than nine tenths of the free memory; the loader's batches need some, too."""
    # Each process of a distributed training has images of its own.
    processes = local_processes()
    free = free_shared_memory()
    if needed * processes > 0.9 * free:
        each = f" in each of {processes} processes" if processes > 1 else ""
        raise InputError(
            f"the cache of {count} decoded images needs {needed / 1e9:.1f} GB{each}, and "
            f"{free / 1e9:.1f} GB of memory are free to be shared (a container may need a larger "
            "--shm-size); leave the cache out, and the images are read from disk."
        )


def _unlink(memory: SharedMemory, owner: int) -> None:
    if os.getpid() == owner:
        memory.unlink()
