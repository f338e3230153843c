"""The halves of the data on the device: who is in them, and what a batch holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from PIL import Image

from prunet_det.search.data import halves, kept_classes, load_crops, load_halves
from prunet_det.utils.errors import InputError, UserError
from tests.training.test_crops import AUGMENTED, PLAIN, numbers


@DATASETS.register_module(force=True)
class NumberedImages:
    """Images whose one colour says their number; `counts` of each class."""

    data_hash = "hash"

    def __init__(self, counts, transform):
        self.metainfo = {"classes": tuple("abcdefghij"[: len(counts)])}
        self.labels = np.repeat(np.arange(len(counts)), counts).tolist()

    def read(self, index):
        return Image.new("RGB", (12, 10), (index, index, 255 - index)), self.labels[index]


def config(counts=(20, 20, 20), classes=None, transform=PLAIN, **more):
    dataset = dict(type="NumberedImages", counts=counts, transform=dict(transform))
    return dict(dataset=dataset, classes=classes, **more)


def test_the_halves_share_no_image_and_hold_all():
    seen = []
    for name, crops in load_halves(config(), 3).items():
        assert crops.part == ("weights", "architecture").index(name) and len(crops) == 30
        epochs = [
            numbers(torch.cat([crops.batch(s, 6)[0] for s in e])) for e in (range(5), range(5, 10))
        ]
        assert len(set(epochs[0])) == 30 and set(epochs[0]) == set(epochs[1])
        assert epochs[0] != epochs[1]
        seen.append(set(epochs[0]))
    assert seen[0] & seen[1] == set() and seen[0] | seen[1] == set(range(60))


def test_labels_belong_to_their_images():
    crops = load_halves(config(), 0)["architecture"]
    images, labels = crops.batch(4, 7)
    assert [n // 20 for n in numbers(images)] == labels.tolist()
    everything = list(crops.scored(8))
    assert [len(labels) for _, labels in everything] == [8, 8, 8, 6]
    assert [n // 20 for i, _ in everything for n in numbers(i)] == crops.labels.tolist()


def test_a_subset_of_the_classes():
    crops = load_halves(config(classes=["c", "a"]), 0)["weights"]
    assert crops.classes == ("c", "a")
    images, labels = crops.batch(0, 20)
    assert {(n // 20, y) for n, y in zip(numbers(images), labels.tolist(), strict=True)} == {
        (2, 0),
        (0, 1),
    }
    assert load_halves(config(classes=2), 0)["weights"].classes == ("a", "b")


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (["z", "a"], "no class 'z'"),
        (["a"], "less than two"),
        ("a", "less than two"),
        (["a", "b", "a"], "named twice"),
        (1, "the first 1 of 3 classes cannot be kept"),
        (4, "the first 4 of 3 classes cannot be kept, .* the classes are a, b, c"),
        (-1, "the first -1 of 3"),
        (0, "the first 0 of 3"),
    ],
)
def test_classes_that_make_no_search(classes, sentence):
    with pytest.raises(UserError, match=sentence):
        load_halves(config(classes=classes), 0)
    assert kept_classes(("a", "b", "c"), None) == ("a", "b", "c")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "counts", [[4] * 40, [20, 20, 20, 2], [2] * 7, [3] * 9, [1000, 2, 3, 500, 2], [2, 2]]
)
def test_both_halves_hold_every_class(counts, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    first, second = halves(np.arange(len(labels)), labels, seed)
    for half in (first, second):
        assert set(labels[half]) == set(range(len(counts)))
    assert not set(first) & set(second) and len(first) + len(second) == sum(counts)
    assert 0 <= len(first) - len(second) <= 1


def test_halves_that_hold_every_class_are_drawn_from_all_images():
    """As ever, so that searches of before were of the same halves."""
    order = np.random.default_rng(3).permutation(100)
    first, _ = halves(np.arange(100), np.repeat([0, 1], 50), 3)
    assert first.tolist() == sorted(order[::2].tolist())


def test_a_class_of_one_image_is_named():
    with pytest.raises(UserError, match="has 1 of the class 'b'.*one of each class in both"):
        load_halves(config((9, 1, 9)), 0)
    assert len(load_halves(config((9, 1, 9), classes=["a", "c"]), 0)["weights"]) == 9
    assert len(load_crops(config((9, 0, 10)))) == 19


def test_a_span_is_a_part_of_each_class():
    first, rest = (
        numbers(torch.cat([images for images, _ in load_crops(config(span=span)).scored()]))
        for span in ((0.0, 0.8), (0.8, 1.0))
    )
    assert rest == [*range(16, 20), *range(36, 40), *range(56, 60)]
    assert sorted(first + rest) == list(range(60))
    with pytest.raises(InputError, match="span must be a part of 0..1"):
        load_crops(config(span=(0.8, 0.8)))


def test_more_than_the_memory_holds_keeps_some_of_each_class(caplog):
    stored = 3 * 8 * 8
    few = load_halves(config((60, 20, 4), memory_gb=2 * 30 * stored / 1e9), 0)
    counts = [torch.bincount(crops.labels).tolist() for crops in few.values()]
    assert all(count[0] == 10 and 1 <= count[1] <= 10 and 1 <= count[2] <= 3 for count in counts)
    assert caplog.text.count("at most 10 of each class") == 2
    caplog.clear()
    assert (
        len(load_halves(config((60, 20, 4), memory_gb=2 * 43 * stored / 1e9), 0)["weights"]) == 42
    )
    assert not caplog.text


@pytest.mark.parametrize("key", ["re_prob", "auto_augment", "hflipp"])
def test_a_transform_that_the_device_does_not_do_is_refused(key):
    with pytest.raises(InputError, match=f"transform of the search data: unknown key '{key}'"):
        load_halves(config(transform={**PLAIN, key: 0.5}), 0)


def test_a_folder_of_images_of_any_shape(tmp_path):
    rng = np.random.default_rng(0)
    for name, shape in (("dog", (40, 20)), ("cat", (3, 90)), ("emu", (7, 7))):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(3):
            image = rng.integers(0, 255, (*shape, 3), np.uint8)
            Image.fromarray(image).save(tmp_path / "train" / name / f"{i}.png")
    transform = dict(AUGMENTED, scale=(0.8, 1.0), input_size=(3, 16, 24))
    dataset = dict(type="ImageFolder", data_root=str(tmp_path), split="train", transform=transform)
    crops = load_halves(dict(dataset=dataset), 0)
    assert crops["weights"].classes == ("cat", "dog", "emu")
    assert sum(len(half) for half in crops.values()) == 9
    assert crops["weights"].images.shape[1:] == (3, 18, 27)
    assert crops["weights"].batch(0, 5)[0].shape == (5, 3, 16, 24)
