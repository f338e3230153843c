"""Crops and folders as classification data, and what is refused."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader

from prunet_det.classification import EmbeddedCrops, ImageFolder
from prunet_det.classification.data import imagenet_statistics, normalized, widened
from prunet_det.training.repeatable import PlacedSamples
from prunet_det.utils.errors import UserError

STATISTICS = imagenet_statistics()
PLAIN = dict(input_size=(3, 64, 64), crop_pct=1.0, interpolation="bilinear")


def test_crops(digits):
    data = EmbeddedCrops("digits", digits, "val", PLAIN)
    labels = np.load(digits / "crops" / "val_labels.npy")
    images = np.load(digits / "crops" / "val_images.npy", mmap_mode="r")
    assert len(data) == len(labels) == len(images)
    assert data.metainfo["classes"] == tuple("0123456789")
    item = data[7]
    assert item["labels"] == labels[7]
    assert torch.equal(item["inputs"], torch.tensor(images[7]).permute(2, 0, 1))
    assert len(data.data_hash) == 16


@pytest.fixture
def root(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for k, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((50, 60, 3), 100 * k + i, np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def test_folder(root):
    data = ImageFolder(root, "train", PLAIN)
    assert len(data) == 6 and data.metainfo["classes"] == ("cat", "dog")
    assert [data[i]["labels"] for i in range(6)] == [0, 0, 0, 1, 1, 1]
    image = Image.open(root / "train" / "dog" / "2.png")
    assert data[5]["inputs"].dtype == torch.uint8
    assert torch.equal(normalized(data[5]["inputs"], *STATISTICS), create_transform(**PLAIN)(image))
    for own in (dict(mean=(0.5,) * 3), dict(re_prob=1.0, is_training=True)):
        item = ImageFolder(root, "train", {**PLAIN, **own})[5]
        assert item["inputs"].dtype == torch.float32
        assert normalized(item["inputs"], *STATISTICS) is item["inputs"]


def test_hidden_files_are_no_images(root):
    """And whatever the reader knows is one."""
    (root / "train" / "cat" / "._0.png").write_bytes(b"of macOS")
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    Image.new("RGB", (9, 9)).save(root / "train" / "cat" / "3.GIF")
    data = ImageFolder(root, "train", PLAIN)
    assert data.labels == [0] * 4 + [1] * 3
    assert [data[i]["inputs"].shape for i in range(4)] == [(3, 64, 64)] * 4


def test_a_cached_folder_is_the_one_on_disk(root):
    """Also of images of several shapes and modes, in the processes of a loader."""
    pixels = np.random.default_rng(0).integers(0, 256, (70, 40), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "train" / "cat" / "grey.png")
    transform = dict(input_size=32, is_training=True, auto_augment="rand-m7-mstd0.5-inc1")
    disk, cached = (
        PlacedSamples(ImageFolder(root, "train", transform, cache=c)) for c in (False, True)
    )
    expected = [disk[i] for i in range(20)]
    (root / "train").rename(root / "gone")  # nothing is read again
    for a, b in zip(
        DataLoader(cached, None, sampler=range(20), num_workers=1), expected, strict=True
    ):
        assert torch.equal(a["inputs"], b["inputs"]) and a["labels"] == b["labels"]


def test_hidden_folders_are_no_classes(root):
    """Nor parts of one; what stands above the data may be hidden."""
    for name in (".ipynb_checkpoints", "__MACOSX", "cat/.ipynb_checkpoints", "__MACOSX/cat"):
        (root / "train" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(root / "train" / name / "0.png")
    (root / "train").rename(root / ".hidden")
    data = ImageFolder(root, ".hidden", PLAIN)
    assert data.metainfo["classes"] == ("cat", "dog")
    assert data.labels == [0] * 3 + [1] * 3
    (root / "other" / ".git").mkdir(parents=True)
    with pytest.raises(UserError, match="does not hold one folder of images a class"):
        ImageFolder(root, "other", PLAIN)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (900, 1), (20000, 2), (2, 3000)])
@pytest.mark.parametrize(
    "transform",
    [
        PLAIN,
        dict(input_size=32, is_training=True, color_jitter=None),
        dict(input_size=32, crop_mode="border"),
    ],
    ids=["center", "training", "border"],
)
def test_the_longest_and_narrowest_images(root, size, transform):
    Image.new("RGB", size, (200, 100, 50)).save(root / "train" / "cat" / "0.png")
    data = ImageFolder(root, "train", transform)
    side = np.max(transform["input_size"])
    for seed in range(20 if size == (1, 1) else 1):
        torch.manual_seed(seed)
        random.seed(seed)
        inputs = data[0]["inputs"]
        assert inputs.shape == (3, side, side) and abs(int(inputs.max()) - 200) < 3


def test_an_image_is_widened_to_a_pixel_of_the_input():
    assert widened(Image.new("RGB", (20000, 2)), 224).size == (20000, 90)
    assert widened(Image.new("RGB", (1, 900)), 64).size == (15, 900)
    assert widened(Image.new("RGB", (1, 1)), 64).size == (3, 3)
    usual = Image.new("RGB", (640, 10))
    assert widened(usual, 64) is usual


def test_the_digest_knows_the_files(root):
    before = ImageFolder(root, "train", PLAIN).data_hash
    assert ImageFolder(root, "train", PLAIN).data_hash == before
    (root / "train" / "cat" / "0.png").unlink()
    assert ImageFolder(root, "train", PLAIN).data_hash != before


def test_folders_that_are_refused(tmp_path, root):
    def refused(match, split="train"):
        with pytest.raises(UserError, match=match):
            ImageFolder(tmp_path, split, PLAIN)

    refused("there is no data folder .*one folder a class", "test")
    with pytest.raises(UserError, match=rf"no data folder .*train/train;.*give {root}, not {root}"):
        ImageFolder(root / "train", "train", PLAIN)
    (root / "train" / "bird").mkdir()
    refused("does not hold one folder of images a class.*bird")
    (root / "empty").mkdir()
    refused("does not hold one folder of images a class", "empty")
    (root / "one" / "cat").mkdir(parents=True)
    (root / "train" / "cat" / "0.png").rename(root / "one" / "cat" / "0.png")
    refused("at least two classes are needed", "one")


def test_a_damaged_image_is_named(root):
    path = root / "train" / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"cat/0\.png cannot be read: .* cut short"):
        ImageFolder(root, "train", PLAIN)[0]
    with pytest.raises(UserError, match=r"cat/0\.png cannot be read"):
        ImageFolder(root, "train", PLAIN, cache=True)


def test_unknown_sets_and_splits(digits):
    with pytest.raises(UserError, match="no embedded set 'runes'"):
        EmbeddedCrops("runes", digits, "val", PLAIN)
    with pytest.raises(UserError, match="has no split 'test', only train, val"):
        EmbeddedCrops("digits", digits, "test", PLAIN)
