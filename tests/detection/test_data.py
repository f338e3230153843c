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


def test_classes_come_from_the_file(tmp_path):
    coco = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 9, "height": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 5, 5]}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    }
    coco["annotations"][0].update(area=25, iscrowd=0)
    data = CocoFolder(folder(tmp_path, json.dumps(coco)), **WHERE)
    assert data.metainfo["classes"] == ("cat", "dog")
    assert data.get_data_info(0)["instances"][0]["bbox_label"] == 1
    assert len(data.data_hash) == 16


@pytest.mark.parametrize(
    ("annotations", "sentence"),
    [
        (None, "there is no annotation file"),
        ("{", "is no COCO annotation file"),
        ("[]", "is no COCO annotation file"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no images"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "lists no categories"),
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
