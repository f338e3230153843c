"""Decoded images in shared memory: the same in all processes, refused where they do not fit."""

from __future__ import annotations

from multiprocessing.shared_memory import SharedMemory

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from prunet_det.datasets import cache
from prunet_det.datasets.cache import SharedImages
from prunet_det.utils.env import free_shared_memory
from prunet_det.utils.errors import UserError

SHAPES = [(4, 6), (3, 3), (5, 2)]


def read(index):
    height, width = SHAPES[index]
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3) + index


class Items(Dataset):
    """The images of a cache."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index].tolist()


@pytest.mark.parametrize("start", [None, "fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_every_process_sees_the_same_images(start):
    images = SharedImages(read, SHAPES)
    loader = DataLoader(
        Items(images),
        batch_size=None,
        num_workers=0 if start is None else 1,
        multiprocessing_context=start,
    )
    assert [np.array(image).tolist() for image in loader] == [read(i).tolist() for i in range(3)]


def test_images_are_read_once_and_cannot_be_changed():
    calls = []
    images = SharedImages(lambda i: calls.append(i) or read(i), SHAPES)
    for _ in range(3):
        assert np.array_equal(images[1], read(1))
    assert sorted(calls) == [0, 1, 2] and len(images) == 3
    with pytest.raises(ValueError, match="read-only"):
        images[1][0] = 0


def test_memory_is_given_back():
    images = SharedImages(read, SHAPES)
    name = images._memory.name
    del images
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)


def test_an_image_on_its_side_is_fine_and_another_one_is_not():
    images = SharedImages(lambda i: read(i).transpose(1, 0, 2), SHAPES)
    assert np.array_equal(images[2], read(2).transpose(1, 0, 2))
    with pytest.raises(ValueError, match="broadcast"):  # who knows the file's name refuses it
        SharedImages(lambda i: read(2 if i == 1 else i), SHAPES)


@pytest.mark.parametrize("change", [lambda i: i.astype(np.float32), lambda i: i[..., 0]])
def test_images_that_are_not_uint8_of_three_channels_are_refused(change):
    with pytest.raises(UserError, match="image 0 is decoded to .*uint8 with three channels"):
        SharedImages(lambda i: change(read(i)), SHAPES)


@pytest.mark.parametrize(
    ("variable", "processes", "sentence"),
    [
        ("LOCAL_WORLD_SIZE", "1", "12.0 GB, "),
        ("LOCAL_WORLD_SIZE", "4", "12.0 GB in each of 4"),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "4", "12.0 GB in each of 4"),
        ("SLURM_STEP_TASKS_PER_NODE", "8(x16),6", "12.0 GB in each of 8"),
    ],
)
def test_what_does_not_fit_is_refused(variable, processes, sentence, monkeypatch):
    monkeypatch.setattr(cache, "free_shared_memory", lambda: int(13e9))
    monkeypatch.setenv(variable, processes)
    with pytest.raises(UserError, match=f"of 4000 decoded images needs {sentence}.*13.0 GB"):
        SharedImages(read, [(1000, 1000)] * 4000)
    monkeypatch.setattr(cache, "free_shared_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"leave the cache out|read from disk"):
        SharedImages(read, [(100, 100)])


def test_free_memory_is_some():
    assert free_shared_memory() > 2**20
