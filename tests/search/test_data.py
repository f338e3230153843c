"""The halves of the data on the device: who is in them, and what a batch holds."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from PIL import Image

from prunet_det.classification.data import imagenet_statistics
from prunet_det.search.data import (
    Augmentation,
    DeviceCrops,
    halves,
    kept_classes,
    load_crops,
    load_halves,
)
from prunet_det.utils.errors import InputError, UserError
from tests.dispatched import dispatched

PLAIN = dict(input_size=(3, 8, 8), scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0, color_jitter=None)


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
    return dict(dataset=dataset, classes=classes, batch_size=4, num_workers=1, **more)


def pixels(images):
    """Images of a batch as they are stored, 0..255."""
    mean, std = imagenet_statistics()
    return (images * std + mean) * 255


def numbers(images):
    return pixels(images)[:, 0].mean((1, 2)).round().int().tolist()


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


def test_a_batch_may_be_larger_than_the_data():
    crops = load_crops(config((3, 2)))
    assert sorted(numbers(crops.batch(0, 10)[0])) == sorted([*range(5), *range(5)])


def test_labels_belong_to_their_images():
    crops = load_halves(config(), 0)["architecture"]
    images, labels = crops.batch(4, 7)
    assert [n // 20 for n in numbers(images)] == labels.tolist()
    everything = list(crops.scored(8))
    assert [len(labels) for _, labels in everything] == [8, 8, 8, 6]
    assert [n // 20 for i, _ in everything for n in numbers(i)] == crops.labels.tolist()


AUGMENTED = dict(PLAIN, scale=(0.3, 1.0), ratio=(0.7, 1.4), hflip=0.5, color_jitter=0.4)


def test_a_step_alone_says_what_comes():
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    crops = load_halves(config(transform=AUGMENTED), 0)
    straight = [crops["weights"].batch(s, 9)[0] for s in range(8)]
    other = load_halves(config(transform=AUGMENTED), 0)
    for step in (7, 2, 5):
        assert torch.equal(other["weights"].batch(step, 9)[0], straight[step])
    reseeded = crops["weights"].with_seed(1).batch(2, 9)[0]
    assert not torch.equal(reseeded, straight[2])
    assert torch.equal(crops["weights"].batch(2, 9)[0], straight[2])
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert state == after


def test_processes_share_a_batch():
    whole = load_halves(config(transform=AUGMENTED), 0)["weights"]
    parts = [dataclasses.replace(whole, rank=rank, world_size=2) for rank in range(2)]
    for step in (0, 5):
        images, labels = whole.batch(step, 8)
        shared = [part.batch(step, 4) for part in parts]
        assert torch.equal(torch.cat([i for i, _ in shared]), images)
        assert torch.equal(torch.cat([y for _, y in shared]), labels)


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


def ramp(transform, side):
    """Crops of one image whose pixels are all different."""
    image = torch.arange(3 * side * side, dtype=torch.uint8).reshape(1, 3, side, side)
    return DeviceCrops(
        images=image,
        labels=torch.tensor([0]),
        classes=("a", "b"),
        augmentation=Augmentation.of(transform),
    )


def test_a_crop_is_a_part_of_its_image():
    """Where its pixels lie on the image's, they are the same: half of the side is four of eight."""
    crops = ramp(dict(PLAIN, input_size=(3, 4, 4), scale=(0.25, 0.25)), 8)
    image = crops.images[0].float()
    for step in range(20):
        crop = pixels(crops.batch(step, 1)[0])[0]
        steps = crop.diff(dim=2), crop.diff(dim=1)  # as the image's: 1 a column, 8 a row
        torch.testing.assert_close(steps[0], torch.ones(3, 4, 3), rtol=0, atol=1e-3)
        torch.testing.assert_close(steps[1], torch.full((3, 3, 4), 8.0), rtol=0, atol=1e-3)
        assert image[0, 0, 0] - 1e-3 <= crop[0, 0, 0] <= image[0, 4, 4] + 1e-3


def test_crops_lie_everywhere_and_are_as_large_as_asked_for():
    transform = dict(PLAIN, scale=(0.25, 1.0), ratio=(0.5, 2.0))
    crop = pixels(ramp(transform, 8).batch(0, 4000)[0])[:, 0]
    width = (crop[:, 0, -1] - crop[:, 0, 0]) / 7
    height = (crop[:, -1, 0] - crop[:, 0, 0]) / 7 / 8
    # At the edges, a crop's outermost pixels are the image's, which are repeated beyond.
    assert 0.3 < width.min() < 0.5 and 0.9 < width.max() < 1.001
    ratio = (width / height).log()
    assert ratio.mean().abs() < 0.05 and ratio.min() < -0.5 and ratio.max() > 0.5
    middle = crop.mean((1, 2))  # of the image: 31.5
    assert (middle.mean() - 31.5).abs() < 1 and middle.min() < 20 and middle.max() > 43


def test_a_whole_image_is_scored_as_it_is():
    crops = ramp(dict(AUGMENTED, grayscale_prob=1.0), 8)
    (images, _), *others = crops.scored()
    torch.testing.assert_close(pixels(images), crops.images.float(), rtol=0, atol=1e-3)
    assert not others and images.is_contiguous(memory_format=torch.channels_last)


def test_flips_are_as_frequent_as_asked_for():
    for probability, expected in ((0.0, 0.0), (1.0, 1.0), (0.5, 0.5)):
        crop = pixels(ramp(dict(PLAIN, hflip=probability), 8).batch(0, 1000)[0])[:, 0]
        flipped = (crop[:, 0, 0] > crop[:, 0, -1]).float().mean()
        assert abs(flipped - expected) < 0.06


def coloured(**changes):
    crops = load_crops(config((1, 199), transform=dict(PLAIN, **changes)))
    return pixels(crops.batch(0, 200)[0])


def test_grey_is_pillows():
    images = coloured(grayscale_prob=1.0)
    assert (images - images[:, :1]).abs().max() < 1e-3
    for image in images[:20]:
        n = image[0, 0, 0]
        for original in range(200):  # which one it was, by Pillow's formula
            grey = 0.299 * original + 0.587 * original + 0.114 * (255 - original)
            if abs(grey - n) < 1e-3:
                break
        else:
            pytest.fail(f"{n} is no image's grey")
    some = coloured(grayscale_prob=0.3)
    assert 0.2 < ((some[:, 0] - some[:, 2]).abs().amax((1, 2)) < 1e-3).float().mean() < 0.4


def test_colours_change_within_the_range():
    plain, bright = coloured(), coloured(color_jitter=(0.4, 0.0, 0.0))
    factor = (bright / plain)[plain.amax((1, 2, 3)) < 255 / 1.4][:, 2].mean((1, 2))
    assert 0.6 <= factor.min() < 0.65 and 1.35 < factor.max() <= 1.4
    # One colour is its own mean: contrast changes nothing but by the channels' difference.
    grey = (torch.tensor([0.299, 0.587, 0.114])[:, None, None] * plain).sum(1, keepdim=True)
    contrast = coloured(color_jitter=(0.0, 0.4, 0.0))
    inside = ((contrast > 0) & (contrast < 255)).all(1, keepdim=True).expand_as(contrast)
    strength = ((contrast - grey) / (plain - grey))[inside & ((plain - grey).abs() > 5)]
    assert strength.min() > 0.59 and strength.max() < 1.41
    saturated = coloured(color_jitter=(0.0, 0.0, 0.4))
    assert saturated.min() >= -1e-3 and saturated.max() <= 255 + 1e-3
    assert not torch.equal(saturated, plain)


def test_what_the_device_does_not_do_is_refused():
    for key, value in (("re_prob", 0.25), ("auto_augment", "rand-m9"), ("hflipp", 0.5)):
        with pytest.raises(InputError, match=f"transform of the search data: unknown key '{key}'"):
            load_halves(config(transform={**PLAIN, key: value}), 0)
    with pytest.raises(InputError, match="bilinear"):
        Augmentation(interpolation="bicubic")
    with pytest.raises(InputError, match="input_size"):
        Augmentation(input_size=(1, 24, 24))


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


def test_a_batch_takes_few_operators():
    """Each is a launch on a GPU, and the host's time is what a step of a small network costs."""
    crops = load_halves(config(transform=dict(PLAIN, grayscale_prob=0.2)), 0)["weights"]
    counts = [sum(dispatched(lambda n=n: crops.batch(0, n)).values()) for n in (4, 16)]
    assert counts[0] == counts[1] <= 18
