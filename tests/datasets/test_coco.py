"""Annotation files in whatever state they come."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from prunet_det.datasets.coco import describe_classes, read_coco, select_classes


def content(**changes):
    """Two images of 20 x 10 pixels with three boxes of two classes."""
    boxes = [[1, 2, 3, 4], [5, 5, 6, 4], [0, 0, 20, 10]]
    base = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 20, "height": 10} for i in (3, 4)],
        "annotations": [
            {"id": i, "image_id": m, "category_id": c, "bbox": b, "area": 7.5, "iscrowd": 0}
            for i, m, c, b in zip((8, 9, 10), (3, 3, 4), (1, 2, 1), boxes, strict=True)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    return {**base, **changes}


@pytest.fixture
def folder(tmp_path):
    for i in (3, 4):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.zeros((10, 20, 3), np.uint8))
    return tmp_path


@pytest.fixture
def read(folder):
    """Reads a content from a file beside its images."""

    def read(data, encoding="utf-8"):
        text = data if isinstance(data, str) else json.dumps(data)
        (folder / "a.json").write_text(text, encoding=encoding)
        return read_coco(folder / "a.json", folder)

    return read


def meaning(data):
    """What an annotation file says, whatever its ids are."""
    images = {i["id"]: i["file_name"] for i in data["images"]}
    names = {c["id"]: c["name"] for c in data["categories"]}
    return sorted(
        (images[a["image_id"]], names[a["category_id"]], a["bbox"], a["iscrowd"])
        for a in data["annotations"]
    )


def renamed(ids):
    """The same content with other ids of everything."""
    data = content()
    for kind, field in (("images", "image_id"), ("categories", "category_id")):
        for entry in data[kind]:
            entry["id"] = ids(entry["id"])
        for annotation in data["annotations"]:
            annotation[field] = ids(annotation[field])
    for i, annotation in enumerate(data["annotations"]):
        annotation["id"] = ids(i)
    return data


@pytest.mark.parametrize(
    "ids",
    [
        lambda i: i - 1,
        lambda i: f"{i}",
        lambda i: f"uuid-{i}",
        float,
        lambda i: i + 0.5,
        lambda i: 10**12 + i,
        lambda i: -i,
    ],
)
def test_ids_are_names(read, ids):
    data = read(renamed(ids))
    assert meaning(data) == meaning(content())
    assert [a["id"] for a in data["annotations"]] == [1, 2, 3]
    assert all(type(e["id"]) is int for k in ("images", "categories") for e in data[k])


def test_ids_of_two_types_and_annotations_of_one_id(read):
    data = content()
    for annotation in data["annotations"]:
        annotation.update(id=1, image_id=str(annotation["image_id"]), category_id=1.0)
    assert [name for _, name, _, _ in meaning(read(data))] == ["cat"] * 3


@pytest.mark.parametrize("order", [slice(None, None, -1), slice(None)])
def test_order_means_nothing(read, order):
    data = {key: entries[order] for key, entries in content().items()}
    assert meaning(read(data)) == meaning(content())


def test_what_is_missing_is_filled_in(read):
    data = content()
    for annotation, crowd in zip(data["annotations"], (None, False, True), strict=True):
        annotation.update(area=0, iscrowd=crowd) if crowd else annotation.pop("area")
        annotation["iscrowd"] = crowd
    for image in data["images"]:
        image.pop("width")
        image["height"] = None
    found = read(data)
    assert [a["area"] for a in found["annotations"]] == [12, 24, 200]
    assert [a["iscrowd"] for a in found["annotations"]] == [0, 0, 1]
    assert {(i["width"], i["height"]) for i in found["images"]} == {(20, 10)}


def test_without_a_folder_sizes_stay(folder):
    (folder / "a.json").write_text(json.dumps(content()))
    assert read_coco(folder / "a.json")["images"][0]["width"] == 20


@pytest.mark.parametrize("turned", [False, True])
def test_a_size_that_a_box_contradicts_is_the_files(read, folder, caplog, turned):
    """Width and height exchanged; EXIF may turn the image."""
    if turned:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (10, 20)).save(folder / "4.jpg", exif=exif)
    data = content()
    name = "4.jpg" if turned else "4.png"
    data["images"][1].update(width=10, height=20, file_name=name)
    assert read(data)["images"][1] == {"id": 4, "file_name": name, "width": 20, "height": 10}
    assert f"states other sizes than 1 of its images have, such as {name}" in caplog.text


@pytest.mark.parametrize(("stated", "refused"), [((40, 20), True), ((20, 11), False)])
def test_a_size_that_no_box_contradicts_is_compared_too(read, caplog, stated, refused):
    """Images that were made smaller after they were annotated; sizes that were rounded."""
    data = content()
    width, height = stated
    data["images"][1].update(width=width, height=height)
    data["annotations"][2]["bbox"] = [0, 0, width, height]
    if refused:
        with pytest.raises(ValueError, match=r"4\.png has 20 x 10 px .* say 40 x 20.* beyond it"):
            read(data)
    else:
        assert read(data)["images"][1]["height"] == 10
        assert "states other sizes than 1 of its images have, such as 4.png" in caplog.text


def test_an_image_that_exif_turns_has_its_boxes_upright(read, folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(folder / "4.jpg", exif=exif)
    data = content()
    data["images"][1].update(file_name="4.jpg")
    with pytest.raises(ValueError, match=r"4\.jpg has 10 x 20 px .* say 20 x 10.* turned"):
        read(data)
    data["annotations"][2]["bbox"] = [0, 0, 10, 20]
    data["images"][1].update(width=10, height=20)
    assert len(read(data)["annotations"]) == 3


def test_what_is_left_out_is_said(read, caplog):
    data = content()
    data["annotations"][0]["image_id"] = 77
    data["annotations"][1]["bbox"] = [30, 0, 5, 5]
    found = read(data)
    assert len(found["annotations"]) == 2
    assert "1 annotations of images that the file does not list" in caplog.text
    assert "1 annotations whose boxes are empty or outside of their images" in caplog.text


def test_paths_of_windows_and_a_byte_order_mark(read, folder):
    (folder / "sub").mkdir()
    (folder / "3.png").rename(folder / "sub" / "3.png")
    data = content()
    data["images"][0]["file_name"] = "sub\\3.png"
    assert read(data, "utf-8-sig")["images"][0]["file_name"] == "sub/3.png"


def broken(kind, **changes):
    data = content()
    data[kind][0] = {k: v for k, v in {**data[kind][0], **changes}.items() if v is not ...}
    return data


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("{", "is no COCO annotation file"),
        ("[]", "it has no list 'images'"),
        (content(images={}), "it has no list 'images'"),
        (content(images=[]), "lists no images"),
        (content(categories=[]), "lists no categories"),
        (content(annotations=[3]), "annotation number 1 is no object: 3"),
        (broken("images", file_name=...), "image 3 has no 'file_name'"),
        (broken("images", id=...), "image number 1 has no 'id'"),
        (broken("images", id=4), "image 4 has the id of another one"),
        (broken("images", id="4"), "image 4 has the id of another one"),
        (broken("images", width="wide"), "image 3 has the width 'wide'"),
        (broken("categories", name=None), "category 1 has no 'name'"),
        (broken("categories", name="dog"), "two categories have the name 'dog'"),
        (broken("annotations", bbox=...), "annotation 8 has no 'bbox'"),
        (broken("annotations", bbox=None), "annotation 8 has no 'bbox'"),
        (broken("annotations", bbox=[1, 2, 3]), r"annotation 8 has the bbox \[1, 2, 3\]"),
        (broken("annotations", bbox=[1, 2, -3, 4]), r"annotation 8 has the bbox \[1, 2, -3, 4\]"),
        (broken("annotations", bbox=[1, 2, 3, "4"]), "annotation 8 has the bbox"),
        (broken("annotations", bbox=[1, 2, 3, float("nan")]), "annotation 8 has the bbox"),
        (broken("annotations", bbox=dict(x=1)), "annotation 8 has the bbox"),
        (broken("annotations", id=...), "annotation number 1 has no 'id'"),
        (broken("annotations", id=[1]), "has an id that is neither a number nor a text"),
        (broken("annotations", category_id=7), "annotation 8 has the category_id 7, which is not"),
        (broken("annotations", area="big"), "annotation 8 has the area 'big'"),
        (broken("annotations", iscrowd="0"), "annotation 8 has the iscrowd '0'; it needs 0 or 1"),
        (broken("annotations", image_id=None), "annotation 8 has no 'image_id'"),
    ],
)
def test_what_has_no_meaning_is_named(read, data, sentence):
    with pytest.raises(ValueError, match=rf"a\.json.*{sentence}"):
        read(data)


def test_missing_files_are_named(folder):
    with pytest.raises(FileNotFoundError, match=r"there is no annotation file .*none\.json"):
        read_coco(folder / "none.json")
    data = content()
    data["images"][0].update(file_name="gone.png", width=None)
    (folder / "a.json").write_text(json.dumps(data))
    with pytest.raises(FileNotFoundError, match=r"there is no image .*gone\.png"):
        read_coco(folder / "a.json", folder)


def test_classes_by_name():
    found = select_classes(content(), ["bird", "dog", "cat"], "a.json")
    assert [c["name"] for c in found["categories"]] == ["bird", "dog", "cat"]
    assert meaning(found) == meaning(content())
    assert describe_classes(content(), ["bird", "dog", "cat"]) == "has nothing of bird"
    found = select_classes(content(), ["dog"], "a.json")
    assert [name for _, name, _, _ in meaning(found)] == ["dog"]
    assert describe_classes(content(), ["dog"]) == "has categories that are no classes here: cat"
    assert describe_classes(content(), ["dog", "cat"]) == ""
    with pytest.raises(ValueError, match="has none of the classes bird; it has cat, dog"):
        select_classes(content(), ["bird"], "a.json")
