"""What a detector found: reading it, drawing it, COCO's records."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from prunet_det.inference import Detection, Detections
from prunet_det.utils.errors import InputError


def found(source=None):
    return Detections(
        boxes=np.array([[10, 20, 40, 60], [5, 5, 15, 25], [0, 0, 8, 8]], np.float32),
        scores=np.array([0.9, 0.5, 0.4], np.float32),
        labels=np.array([1, 0, 1]),
        classes=("cat", "dog"),
        source=np.full((64, 64, 3), 90, np.uint8) if source is None else source,
    )


def test_reading():
    three = found()
    assert len(three) == 3 and three.names == ["dog", "cat", "dog"]
    assert repr(three) == "<3 detections: 2 dog, 1 cat>"
    assert three[0] == Detection((10.0, 20.0, 40.0, 60.0), pytest.approx(0.9), 1, "dog")
    assert [d.name for d in three] == three.names
    good = three[three.scores > 0.45]
    assert isinstance(good, Detections) and good.names == ["dog", "cat"]
    assert three[:1].boxes.tolist() == [[10, 20, 40, 60]]
    nothing = three[three.scores > 1]
    assert len(nothing) == 0 and nothing.boxes.shape == (0, 4) and repr(nothing) == "<0 detections>"
    assert nothing.to_coco() == [] and list(nothing) == []
    assert np.array_equal(nothing.draw(), three.image())
    with pytest.raises(IndexError):
        three[3]


def test_coco():
    records = found().to_coco(7)
    assert records[0] == {
        "image_id": 7,
        "category_id": 2,
        "bbox": [10.0, 20.0, 30.0, 40.0],
        "score": 0.9,
    }
    assert [r["category_id"] for r in found().to_coco("x", {"dog": 18, "cat": 17})] == [18, 17, 18]
    with pytest.raises(InputError, match="no id of the class 'cat'"):
        found().to_coco(0, {"dog": 18})
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 7, "width": 64, "height": 64}],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = truth.loadRes(records)
    assert len(results.anns) == 3


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".PNG", ".webp"])
def test_saving(tmp_path, suffix):
    path = tmp_path / "new" / f"out{suffix}"
    found().save(path)
    picture = cv2.imread(str(path))
    assert picture.shape == (64, 64, 3) and picture.std() > 5
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_what_is_not_saved(tmp_path):
    for name in ("out", "out.xyz"):
        with pytest.raises(InputError, match=r"must end in \.jpg, \.png"):
            found().save(tmp_path / name)
    image = tmp_path / "a.png"
    cv2.imwrite(str(image), np.full((64, 64, 3), 90, np.uint8))
    before = image.read_bytes()
    (tmp_path / "link.png").symlink_to(image)
    for name in ("a.png", "link.png"):
        with pytest.raises(InputError, match="is the image itself"):
            found(image).save(tmp_path / name)
    assert image.read_bytes() == before
    found(image).save(tmp_path / "b.png")
    found(Path(image)).save(str(tmp_path / "b.png"))  # what it wrote itself, it may write again
    image.unlink()
    with pytest.raises(FileNotFoundError, match="there is no image"):
        found(image).save(tmp_path / "c.png")
