"""The embedded digits: what the set promises, and that it is whole on disk."""

from __future__ import annotations

import hashlib
import json
import shutil

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from prunet_det.datasets import build, data_hash, ensure
from prunet_det.datasets.crops import CropParameters, recognisable
from prunet_det.datasets.digits import DigitsSet, load_digits_split
from prunet_det.datasets.photos import PHOTOS, load_photos

TINY = DigitsSet(counts=(("train", 6), ("val", 3)))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A small set of the same kind, made in a temporary folder."""
    monkeypatch.setitem(build.SETS, "digits", TINY)
    return ensure("digits", tmp_path / "digits", workers=2)


@pytest.fixture(scope="module", params=["train", "val"])
def split(request, digits):
    path = digits / "annotations" / f"{request.param}.json"
    return request.param, digits, json.loads(path.read_text())


def test_counts_and_sizes(split):
    name, _, coco = split
    assert len(coco["images"]) == {"train": 2000, "val": 300}[name]
    assert [c["name"] for c in coco["categories"]] == list("0123456789")
    assert all((i["height"], i["width"]) == (256, 256) for i in coco["images"])
    objects = np.bincount([a["image_id"] for a in coco["annotations"]])
    assert objects.min() >= 1 and objects.max() <= 8
    assert len(np.unique([a["category_id"] for a in coco["annotations"]])) == 10
    longest = np.array([max(a["bbox"][2:]) for a in coco["annotations"]])
    assert longest.max() <= 141
    # Log-uniform from 16 to 140: the median lies near their geometric mean, 47.
    assert 42 <= np.median(longest) <= 53


def test_boxes_are_tight_to_the_masks(split):
    _, _, coco = split
    for a in coco["annotations"][:400]:
        mask = coco_mask.decode(a["segmentation"])
        ys, xs = np.nonzero(mask)
        tight = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert a["bbox"] == [int(v) for v in tight]
        assert a["area"] == mask.sum()


def test_images_are_there(split):
    name, root, coco = split
    for entry in coco["images"][:20]:
        assert cv2.imread(str(root / name / entry["file_name"])).shape == (256, 256, 3)


def test_no_photograph_and_no_digit_in_both_splits():
    photos = {s: {p.tobytes() for p in load_photos(s)} for s in PHOTOS}
    assert not photos["train"] & photos["val"]
    scenes = {s: {n.split(".")[0].split("_")[0] for n in names} for s, names in PHOTOS.items()}
    assert not scenes["train"] & scenes["val"]
    assert not {"page.png", "text.png", "clock_motion.png"} & {*PHOTOS["train"], *PHOTOS["val"]}
    (train, train_labels), (val, val_labels) = (
        load_digits_split(s, TINY.val_share, TINY.seed) for s in ("train", "val")
    )
    assert len(train) + len(val) == 1797
    assert not {d.tobytes() for d in train} & {d.tobytes() for d in val}
    assert set(train_labels) == set(val_labels) == set(range(10))


def test_same_seed_same_bytes_in_any_number_of_processes(tiny, tmp_path):
    again = ensure("digits", tmp_path / "again", workers=1)
    assert data_hash(tiny) == data_hash(again)
    image, _ = TINY.draw("train", 3)
    other, _ = DigitsSet(seed=1).draw("train", 3)
    assert not np.array_equal(image, other)


def digest(root):
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize(
    "damage",
    [
        lambda r: (r / "train" / "000002.jpg").unlink(),
        lambda r: (r / "val" / "000001.jpg").write_bytes(b"half"),
        lambda r: shutil.rmtree(r / "val"),
        lambda r: (r / "annotations" / "train.json").write_text("{"),
        lambda r: (r / "contact_sheet.png").unlink(),
        lambda r: (r / "manifest.json").write_text("{"),
        lambda r: (r / "manifest.json").unlink(),
    ],
    ids=["missing", "truncated", "folder", "annotations", "sheet", "manifest", "no manifest"],
)
def test_damage_is_mended(tiny, damage):
    whole = digest(tiny)
    damage(tiny)
    ensure("digits", tiny)
    assert digest(tiny) == whole


class Interrupted(DigitsSet):
    """A set at whose last image somebody presses Ctrl-C."""

    def draw(self, split, index):
        if (split, index) == ("val", 2):
            raise KeyboardInterrupt
        return super().draw(split, index)


def test_an_interrupted_build_leaves_no_half_set(tmp_path, monkeypatch):
    monkeypatch.setitem(build.SETS, "digits", Interrupted(counts=TINY.counts))
    with pytest.raises(KeyboardInterrupt):
        ensure("digits", tmp_path / "digits", workers=1)
    assert not (tmp_path / "digits").exists()
    monkeypatch.setitem(build.SETS, "digits", TINY)
    ensure("digits", tmp_path / "digits", workers=1)
    assert not (tmp_path / ".digits.partial").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("beach.jpg", "sea"),
        ("train/beach.jpg", "sea"),
        ("annotations/instances_train.json", "{}"),
        ("annotations/train.json", '{"info": {"description": "my own"}, "images": []}'),
    ],
)
def test_a_folder_of_something_else_is_left_alone(tmp_path, name, content):
    path = tmp_path / "holiday" / name
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(ValueError, match=f"holds {name}"):
        ensure("digits", tmp_path / "holiday")
    assert path.read_text() == content


def test_unknown_set(tmp_path):
    with pytest.raises(ValueError, match="no embedded set 'letters'"):
        ensure("letters", tmp_path / "x")


def test_single_digits_come_one_by_one_and_most_give_a_crop():
    single = build.SETS["single_digits"]
    drawn = [single.draw("train", index)[1] for index in range(20)]
    assert {len(objects) for objects in drawn} == {1}
    boxes = [dict(bbox=list(objects[0].box), visible=objects[0].visible) for objects in drawn]
    assert sum(bool(recognisable([box], CropParameters())) for box in boxes) >= 14
    assert len({objects[0].label for objects in drawn}) > 5
