"""Crops on the device: what a batch holds, and how it is augmented."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch

from prunet_det.classification.data import imagenet_statistics
from prunet_det.training.crops import Augmentation, DeviceCrops
from prunet_det.utils.errors import InputError
from tests.dispatched import dispatched

PLAIN = dict(input_size=(3, 8, 8), scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0, color_jitter=None)
AUGMENTED = dict(PLAIN, scale=(0.3, 1.0), ratio=(0.7, 1.4), hflip=0.5, color_jitter=0.4)


def crops_of(images, transform):
    """Crops of images, (N, 3, H, W) uint8; every other one is of the first class."""
    return DeviceCrops(
        images=images,
        labels=torch.arange(len(images)) % 2,
        classes=("a", "b"),
        augmentation=Augmentation(**transform),
    )


def numbered(count=60, **changes):
    """Crops of images whose one colour says their number."""
    number = torch.arange(count, dtype=torch.uint8)
    colours = torch.stack([number, number, 255 - number], 1)
    return crops_of(colours[..., None, None].expand(-1, -1, 8, 8), {**PLAIN, **changes})


def pixels(images):
    """Images of a batch as they are stored, 0..255."""
    mean, std = imagenet_statistics()
    return (images * std + mean) * 255


def numbers(images):
    return pixels(images)[:, 0].mean((1, 2)).round().int().tolist()


def test_a_batch_may_be_larger_than_the_data():
    assert sorted(numbers(numbered(5).batch(0, 10)[0])) == sorted([*range(5), *range(5)])


def test_a_step_alone_says_what_comes():
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    crops = numbered(**AUGMENTED)
    straight = [crops.batch(s, 9)[0] for s in range(8)]
    other = numbered(**AUGMENTED)
    for step in (7, 2, 5):
        assert torch.equal(other.batch(step, 9)[0], straight[step])
    reseeded = crops.with_seed(1).batch(2, 9)[0]
    assert not torch.equal(reseeded, straight[2])
    assert torch.equal(crops.batch(2, 9)[0], straight[2])
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert state == after


def test_processes_share_a_batch():
    whole = numbered(**AUGMENTED)
    parts = [dataclasses.replace(whole, rank=rank, world_size=2) for rank in range(2)]
    for step in (0, 5):
        images, labels = whole.batch(step, 8)
        shared = [part.batch(step, 4) for part in parts]
        assert torch.equal(torch.cat([i for i, _ in shared]), images)
        assert torch.equal(torch.cat([y for _, y in shared]), labels)


def ramp(transform, side):
    """Crops of one image whose pixels are all different."""
    image = torch.arange(3 * side * side, dtype=torch.uint8).reshape(1, 3, side, side)
    return crops_of(image, transform)


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
    return pixels(numbered(200, **changes).batch(0, 200)[0])


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
    with pytest.raises(InputError, match="bilinear"):
        Augmentation(interpolation="bicubic")
    with pytest.raises(InputError, match="input_size"):
        Augmentation(input_size=(1, 24, 24))


def test_a_batch_takes_few_operators():
    """Each is a launch on a GPU, and the host's time is what a step of a small network costs."""
    crops = numbered(grayscale_prob=0.2)
    counts = [sum(dispatched(lambda n=n: crops.batch(0, n)).values()) for n in (4, 16)]
    assert counts[0] == counts[1] <= 18
