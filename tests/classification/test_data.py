"""Crops and folders as classification data, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from prunet_det.classification import EmbeddedCrops, ImageFolder
from prunet_det.utils.errors import UserError

PLAIN = dict(input_size=(3, 64, 64), crop_pct=1.0, interpolation="bilinear")


def test_crops(digits):
    data = EmbeddedCrops("digits", digits, "val", PLAIN)
    labels = np.load(digits / "crops" / "val_labels.npy")
    images = np.load(digits / "crops" / "val_images.npy", mmap_mode="r")
    assert len(data) == len(labels) == len(images)
    assert data.metainfo["classes"] == tuple("0123456789")
    item = data[7]
    assert item["labels"] == labels[7]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = torch.tensor(images[7]) / 255
    assert torch.allclose(item["inputs"], ((pixels - mean) / std).permute(2, 0, 1), atol=1e-5)
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
    assert torch.equal(data[5]["inputs"], create_transform(**PLAIN)(image))


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
    (root / "train" / "bird").mkdir()
    refused("does not hold one folder of images a class.*bird")
    (root / "empty").mkdir()
    refused("does not hold one folder of images a class", "empty")
    (root / "one" / "cat").mkdir(parents=True)
    (root / "train" / "cat" / "0.png").rename(root / "one" / "cat" / "0.png")
    refused("at least two classes are needed", "one")


def test_a_damaged_image_is_named(root):
    path = root / "train" / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(UserError, match=r"cat/0\.png cannot be read"):
        ImageFolder(root, "train", PLAIN)[0]


def test_unknown_sets_and_splits(digits):
    with pytest.raises(UserError, match="no embedded set 'runes'"):
        EmbeddedCrops("runes", digits, "val", PLAIN)
    with pytest.raises(UserError, match="has no split 'test', only train, val"):
        EmbeddedCrops("digits", digits, "test", PLAIN)
