"""The crops: what they show, and that they are whole on disk."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from prunet_det.datasets import build, ensure_crops
from prunet_det.datasets.crops import CropParameters, cut, recognisable
from prunet_det.datasets.digits import DigitsSet

TINY = DigitsSet(counts=(("train", 6), ("val", 4)))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setitem(build.SETS, "digits", TINY)
    return ensure_crops("digits", tmp_path / "digits", workers=1)


def test_every_class_is_in_both_splits(digits):
    folder = ensure_crops("digits", digits)
    for split, least in (("train", 5000), ("val", 700)):
        images = np.load(folder / f"{split}_images.npy", mmap_mode="r")
        labels = np.load(folder / f"{split}_labels.npy")
        assert images.shape == (len(labels), 64, 64, 3) and images.dtype == np.uint8
        assert len(labels) >= least and set(labels) == set(range(10))


def test_crops_show_the_objects_in_order(tiny):
    root = tiny.parent
    coco = json.loads((root / "annotations" / "train.json").read_text())
    labels = list(np.load(tiny / "train_labels.npy"))
    images = np.load(tiny / "train_images.npy")
    picture = {
        e["id"]: cv2.imread(str(root / "train" / e["file_name"]))[..., ::-1] for e in coco["images"]
    }
    position = 0
    for a in coco["annotations"]:
        crop = cut(np.ascontiguousarray(picture[a["image_id"]]), a["bbox"], CropParameters())
        if position < len(images) and np.array_equal(crop, images[position]):
            assert labels[position] == a["category_id"] - 1
            position += 1
    assert position == len(images) > 0, "some were left out, the others come in order"


def test_which_objects_are_left_out():
    def kept(*objects):
        annotations = [
            dict(label=k, bbox=list(box), visible=visible)
            for k, (box, visible) in enumerate(objects)
        ]
        return [a["label"] for a in recognisable(annotations, CropParameters())]

    alone = ((0, 0, 40, 20), 1.0)
    assert kept(alone) == [0]
    assert kept(((0, 0, 11, 9), 1.0), ((50, 50, 12, 4), 1.0)) == [1], "under 12 px"
    assert kept(((0, 0, 40, 20), 0.89), ((50, 50, 40, 20), 0.9)) == [1], "less than 90 % visible"
    # The small box covers a tenth of the large one, and is covered by it whole.
    assert kept(alone, ((30, 0, 8, 10), 1.0), ((60, 60, 20, 20), 1.0)) == [0, 2]
    assert kept(alone, ((29, 0, 40, 20), 1.0)) == [], "27.5 % of each covered by the other"
    assert kept(alone, ((31, 0, 40, 20), 1.0)) == [0, 1]


def test_other_parameters_cut_again(tiny):
    ensure_crops("digits", tiny.parent, workers=1, parameters=CropParameters(size=32))
    assert np.load(tiny / "train_images.npy").shape[1:] == (32, 32, 3)


def test_cut_is_centred_and_repeats_the_edge():
    image = np.zeros((100, 100, 3), np.uint8)
    image[0:20, 0:20] = 200
    crop = cut(image, [0, 0, 20, 20], CropParameters(size=26, margin=0.15))
    assert crop.shape == (26, 26, 3)
    assert (crop[:22, :22] == 200).all() and (crop[24:] == 0).all()


def test_same_seed_same_bytes(tiny, tmp_path):
    again = ensure_crops("digits", tmp_path / "again", workers=2)
    for path in tiny.glob("*.npy"):
        assert path.read_bytes() == (again / path.name).read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "val_labels.npy").unlink(),
        lambda f: (f / "train_images.npy").write_bytes(b"half"),
        lambda f: (f / "manifest.json").write_text("[]"),
    ],
)
def test_damage_is_mended(tiny, damage):
    whole = {p.name: p.read_bytes() for p in tiny.iterdir()}
    damage(tiny)
    ensure_crops("digits", tiny.parent)
    assert {p.name: p.read_bytes() for p in tiny.iterdir()} == whole


def test_other_parameters_make_the_set_and_its_crops_again(tiny, monkeypatch):
    before = (tiny / "train_images.npy").read_bytes()
    monkeypatch.setitem(build.SETS, "digits", DigitsSet(counts=TINY.counts, seed=5))
    ensure_crops("digits", tiny.parent, workers=1)
    assert (tiny / "train_images.npy").read_bytes() != before
