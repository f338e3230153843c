"""COCO folders and embedded sets as MMDetection's data: what they are, and what they refuse."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from prunet_det.classification import ImageFolder
from prunet_det.detection.data import CocoFolder, EmbeddedDataset, LoadImageFromFile
from prunet_det.detection.metric import CocoFolderMetric
from prunet_det.training.repeatable import PlacedSamples
from prunet_det.utils.errors import UserError
from prunet_det.utils.images import read_image

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


def test_categories_are_matched_by_name(tmp_path, caplog):
    data = CocoFolder(folder(tmp_path, annotated()), **WHERE, metainfo={"classes": ("dog", "emu")})
    assert data.get_data_info(0)["instances"][0]["bbox_label"] == 0
    assert "categories that are no classes here: cat and has nothing of emu" in caplog.text
    data.use_classes(("cat", "emu", "dog"))
    assert data.get_data_info(0)["instances"][0]["bbox_label"] == 2
    assert data.metainfo["classes"] == ("cat", "emu", "dog")
    with pytest.raises(UserError, match="has none of the classes emu; it has cat, dog"):
        data.use_classes(("emu",))


@pytest.mark.parametrize("filters", [None, dict(filter_empty_gt=True, min_size=32)])
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"bbox": [9, 9, 0, 0]}, "all 1 boxes are left out: they are less than a pixel wide"),
        ({"bbox": [0.1, 0.1, 0.5, 0.5]}, r"all 1 boxes .* lie within 0\.\.1, .* in pixels"),
        ({"image_id": 9}, "no image has a box"),
        ({}, "has sides of 32 px"),
    ],
)
def test_nothing_to_train_on(tmp_path, changes, why, filters):
    """Whatever a config filters: of images without boxes the pipelines take another, for ever."""
    root = folder(tmp_path, annotated(**changes))
    cv2.imwrite(str(root / "train" / "1.jpg"), np.zeros((8, 9, 3), np.uint8))
    if not changes and not filters:
        CocoFolder(root, **WHERE)
        return
    with pytest.raises(UserError, match=rf"there is nothing to train on, for .*{why}"):
        CocoFolder(root, **WHERE, filter_cfg=filters)
    assert len(CocoFolder(root, **WHERE, test_mode=True)) == 1


def test_images_that_were_scaled_are_noticed(tmp_path, monkeypatch, caplog):
    """Before the first step if they are among the sample, else when they are loaded."""
    load = [dict(type="mmdet.LoadImageFromFile")]
    where = {**WHERE, "pipeline": load, "data_root": folder(tmp_path)}
    item = dict(width=800, height=480, bbox=[500, 300, 100, 50])
    (tmp_path / "train.json").write_text(annotated(**item))
    cv2.imwrite(str(tmp_path / "train" / "1.jpg"), np.zeros((120, 200, 3), np.uint8))
    sentence = r"1\.jpg has 200 x 120 px and its annotations say 800 x 480, .* reaches beyond it"
    with pytest.raises(UserError, match=sentence):
        CocoFolder(**where)
    monkeypatch.setattr("prunet_det.datasets.coco._Reader._has_other_size", lambda *_: False)
    with pytest.raises(UserError, match=sentence):
        CocoFolder(**where)[0]
    with pytest.raises(UserError, match=sentence):
        CocoFolder(**where, cache=True)
    (tmp_path / "train.json").write_text(annotated(**{**item, "bbox": [5, 5, 9, 9]}))
    data = CocoFolder(**where)
    for _ in range(2):
        assert data[0]["ori_shape"] == (120, 200)
    assert caplog.text.count("1.jpg has 200 x 120 px and its annotation says 800 x 480") == 1


def evaluate(path, predictions, classes):
    """mAP of predictions, boxes and labels of each image, by an annotation file."""
    metric = CocoFolderMetric(path)
    metric.dataset_meta = {"classes": classes}
    for image, (boxes, labels) in predictions.items():
        found = {
            "bboxes": torch.tensor(boxes).reshape(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.long),
            "scores": torch.ones(len(labels)),
        }
        metric.process({}, [{"img_id": image, "ori_shape": (8, 9), "pred_instances": found}])
    return metric.evaluate(len(predictions))["coco/bbox_mAP"]


def test_the_order_of_categories_does_not_matter_to_the_metric(tmp_path):
    data = json.loads(annotated(bbox=[0, 0, 5, 5]))
    data["categories"].reverse()
    data["annotations"][0]["id"] = 0
    (tmp_path / "a.json").write_text(json.dumps(data))
    for classes, label in ((("cat", "dog"), 1), (("dog", "cat"), 0), (("emu", "dog"), 1)):
        found = {1: ([[0.0, 0, 5, 5]], [label])}
        assert evaluate(tmp_path / "a.json", found, classes) == 1
        assert evaluate(tmp_path / "a.json", {1: ([], [])}, classes) == 0, "nothing found"


@pytest.mark.parametrize("scope", ["mmdet", "mmcv"])
@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_images_that_cannot_be_read(tmp_path, content, scope):
    """By whichever reader; MMDetection's own refuses without the file's name."""
    where = {**WHERE, "pipeline": [dict(type=f"{scope}.LoadImageFromFile")]}
    path = folder(tmp_path, annotated()) / "train" / "1.jpg"
    path.write_bytes(content or b"")
    data = CocoFolder(tmp_path, **where)
    if content is None:
        path.unlink()
    with pytest.raises(UserError, match=r"1\.jpg"):
        data[0]


def test_missing_images_are_named_before_the_first_step(tmp_path):
    where = {**WHERE, "pipeline": TRAINING, "data_root": photos(tmp_path)}
    (tmp_path / "train" / "4.jpg").unlink()
    (tmp_path / "train" / "2.jpg").unlink()
    sentence = r"train\.json lists images that are not there: 2 of 6, such as .*2\.jpg"
    with pytest.raises(UserError, match=sentence):
        CocoFolder(**where)
    with pytest.raises(UserError, match=sentence):
        CocoFolder(test_mode=True, **where)


def test_every_entry_reads_alike(tmp_path):
    """MMDetection's pipelines, with the cache and without, detect.py and classification."""
    deep = np.arange(30 * 40, dtype=np.uint16).reshape(30, 40) * 50
    expected = np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, axis=2)
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "train" / name / "1.png"), deep)
    (tmp_path / "train.json").write_text(annotated(file_name="cat/1.png", width=40, height=30))
    plain = {"type": "mmdet.LoadImageFromFile"}
    for cache in (False, True):
        data = CocoFolder(tmp_path, **{**WHERE, "pipeline": [plain]}, cache=cache)
        assert np.array_equal(data[0]["img"], expected)
        transform = dict(input_size=(3, 30, 40), crop_mode="squash", crop_pct=1.0)
        folder = ImageFolder(tmp_path, "train", transform, cache=cache)
        assert np.array_equal(folder[1]["inputs"].permute(1, 2, 0), expected)
    assert np.array_equal(read_image(tmp_path / "train" / "cat" / "1.png"), expected)


def test_the_loader_is_mmdetections_where_a_config_asks_for_more(tmp_path):
    cv2.imwrite(str(tmp_path / "1.png"), np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    expected = cv2.imread(str(tmp_path / "1.png"))
    path = str(tmp_path / "1.png")
    assert np.array_equal(LoadImageFromFile()({"img_path": path})["img"], expected)
    real = LoadImageFromFile(to_float32=True)({"img_path": path})["img"]
    assert real.dtype == np.float32 and np.array_equal(real, expected)
    assert LoadImageFromFile(color_type="grayscale")({"img_path": path})["img"].shape == (2, 2)
    local = LoadImageFromFile(backend_args=dict(backend="local"))({"img_path": path})
    assert np.array_equal(local["img"], expected) and local["ori_shape"] == (2, 2)
    assert LoadImageFromFile(ignore_empty=True)({"img_path": path + ".gone"}) is None
    with pytest.raises(FileNotFoundError, match="gone"):
        LoadImageFromFile()({"img_path": path + ".gone"})


def test_an_image_too_narrow_for_mmdetections_own_scaling(tmp_path):
    steps = [TRAINING[0], dict(type="mmdet.Resize", scale=(64, 64), keep_ratio=True)]
    root = folder(tmp_path, annotated(width=900, height=2, bbox=[0, 0, 5, 2]))
    cv2.imwrite(str(root / "train" / "1.jpg"), np.zeros((2, 900, 3)))
    data = CocoFolder(tmp_path, **{**WHERE, "pipeline": steps})
    with pytest.raises(UserError, match=r"1\.jpg has 900 x 2 px, .* a side without a pixel"):
        data[0]


TRAINING = [
    dict(type="mmdet.LoadImageFromFile"),
    dict(type="mmdet.LoadAnnotations", with_bbox=True, box_type=None),
    dict(
        type="mmdet.RandomScaleCrop",
        scale=(64, 64),
        ratio_range=(0.5, 1.5),
        crop_size=(64, 64),
        flip_prob=0.5,
    ),
    dict(type="mmdet.PackChannelsLast"),
]


def photos(tmp_path, count=6, **changes):
    """A folder of JPEGs of several shapes, one a grey one, each with a box on most of it."""
    rng = np.random.default_rng(0)
    images, items = [], []
    (tmp_path / "train").mkdir(parents=True)
    for i in range(count):
        height, width = (int(side) for side in rng.integers(40, 90, 2))
        pixels = rng.integers(0, 256, (height, width, 3)[: 3 - (i == 1)], dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "train" / f"{i}.jpg"), pixels)
        images.append({"id": i, "file_name": f"{i}.jpg", "width": width, "height": height})
        box = [2, 2, width - 4, height - 4]
        items.append({"id": i, "image_id": i, "category_id": 3, "bbox": box, "area": 900})
    images[2].update(changes)
    content = {"images": images, "annotations": items, "categories": [{"id": 3, "name": "cat"}]}
    (tmp_path / "train.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize("seed", [0, 1])
def test_cached_images_are_those_on_disk(tmp_path, seed):
    """Also in the processes of a loader, and wherever it resumes."""
    where = {**WHERE, "pipeline": TRAINING, "data_root": photos(tmp_path)}
    disk = PlacedSamples(CocoFolder(**where), seed)
    cached = PlacedSamples(CocoFolder(cache=True, **where), seed)
    order = [13, 2, 3, 4, 5, 1, 0, 6]
    expected = [disk[i] for i in order]
    (tmp_path / "train").rename(tmp_path / "gone")  # nothing is read again
    for a, b in zip(DataLoader(cached, None, sampler=order, num_workers=1), expected, strict=True):
        assert torch.equal(a["inputs"], b["inputs"])
        a, b = a["data_samples"], b["data_samples"]
        assert a.metainfo == b.metainfo
        assert torch.equal(a.gt_instances.bboxes, b.gt_instances.bboxes)


def test_images_that_cannot_be_cached(tmp_path, monkeypatch):
    where = {**WHERE, "pipeline": TRAINING, "data_root": photos(tmp_path / "a", width=300)}
    assert len(CocoFolder(cache=True, **where)) == 6, "sizes of some are read from the files"
    monkeypatch.setattr("prunet_det.datasets.coco._Reader._has_other_size", lambda *_: False)
    with pytest.raises(UserError, match=r"2\.jpg has .* px, not 300 x"):
        CocoFolder(cache=True, **where)
    where["data_root"] = photos(tmp_path / "b")
    (tmp_path / "b" / "train" / "3.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"3\.jpg is no image that can be read"):
        CocoFolder(cache=True, **where)


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ([dict(type="mmdet.LoadImageFromFile", to_float32=True)], "to float32 .* leave to_float32"),
        ([dict(type="mmdet.LoadImageFromFile", color_type="grayscale")], "leave .* color_type out"),
        ([dict(type="mmdet.LoadImageFromNDArray")], "LoadImageFromFile, which .* does not have"),
    ],
)
def test_a_pipeline_whose_images_cannot_be_cached(tmp_path, steps, sentence):
    where = {**WHERE, "pipeline": steps, "data_root": photos(tmp_path)}
    with pytest.raises(UserError, match=sentence):
        CocoFolder(cache=True, **where)


def test_cached_images_of_other_classes(tmp_path):
    """Of other classes there are other images, after those without objects are left out."""
    photos(tmp_path)
    content = json.loads((tmp_path / "train.json").read_text())
    content["categories"].append({"id": 4, "name": "dog"})
    for item in content["annotations"][3:]:
        item["category_id"] = 4
    (tmp_path / "train.json").write_text(json.dumps(content))
    filters = dict(filter_cfg=dict(filter_empty_gt=True), data_root=tmp_path)
    where = {**WHERE, "pipeline": TRAINING[:1], **filters}
    disk, cached = (CocoFolder(cache=c, **where) for c in (False, True))
    for data in (disk, cached):
        data.use_classes(("dog",))
    assert len(cached) == 3
    for i in range(3):
        assert np.array_equal(cached[i]["img"], disk[i]["img"])


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
        (annotated(bbox=[0, 0, 5]), "annotation 1 has the bbox .* it needs x, y, width"),
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
