"""COCO folders and embedded sets as MMDetection's data: what they are, and what they refuse."""

from __future__ import annotations

import json

import pytest

from prunet_det.detection.data import CocoFolder, EmbeddedDataset
from prunet_det.utils.errors import UserError

WHERE = dict(ann_file="train.json", data_prefix=dict(img="train/"), pipeline=[])


def folder(tmp_path, annotations=None):
    (tmp_path / "train").mkdir()
    if annotations is not None:
        (tmp_path / "train.json").write_text(annotations)
    return tmp_path


def annotated(**changes):
    """A file with one image and one annotation; None takes a key out of whichever has it."""
    image = {"id": 1, "file_name": "1.jpg", "width": 9, "height": 8}
    item = {
        "id": 1,
        "image_id": 1,
        "category_id": 7,
        "bbox": [0, 0, 5, 5],
        "area": 25,
        "iscrowd": 0,
    }
    item["iscrowd"] = 0
    for key, value in changes.items():
        part = image if key in image else item
        part[key] = value
        if value is None:
            del part[key]
    categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    return json.dumps({"images": [image], "annotations": [item], "categories": categories})


def test_classes_come_from_the_file(tmp_path):
    data = CocoFolder(folder(tmp_path, annotated()), **WHERE)
    assert data.metainfo["classes"] == ("cat", "dog")
    assert data.get_data_info(0)["instances"][0]["bbox_label"] == 1
    assert len(data.data_hash) == 16


@pytest.mark.parametrize("content", [None, b"", b"no picture"])
def test_images_that_cannot_be_read(tmp_path, content):
    where = {**WHERE, "pipeline": [dict(type="mmdet.LoadImageFromFile")]}
    data = CocoFolder(folder(tmp_path, annotated()), **where)
    if content is not None:
        (tmp_path / "train" / "1.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"1\.jpg is missing or no image that can be read"):
        data[0]


@pytest.mark.parametrize(
    ("annotations", "sentence"),
    [
        (None, "there is no annotation file"),
        ("{", "is no COCO annotation file"),
        ("[]", "is no COCO annotation file"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no images"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "lists no categories"),
        (annotated(file_name=None), "image 1 has no 'file_name'"),
        (annotated(bbox=None), "annotation 1 has no 'bbox'"),
        (annotated(bbox=[0, 0, 5]), "annotation 1 has the bbox .* it needs 4 numbers"),
    ],
)
def test_annotations_that_are_refused(tmp_path, annotations, sentence):
    with pytest.raises(UserError, match=sentence):
        CocoFolder(folder(tmp_path, annotations), **WHERE)


def test_missing_folders(tmp_path):
    with pytest.raises(UserError, match="there is no data folder .*expected are the images in"):
        CocoFolder(tmp_path / "gone", **WHERE)
    with pytest.raises(UserError, match="there is no image folder"):
        CocoFolder(tmp_path, **WHERE)


def test_unknown_set(tmp_path):
    with pytest.raises(UserError, match="no embedded set 'letters'"):
        EmbeddedDataset("letters", tmp_path, **WHERE)
