"""tools/detect.py from its command line: files in, files out, and none lost."""

from __future__ import annotations

import contextlib
import io
import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from prunet_det.inference.video import Video
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def image(digits):
    return cv2.imread(str(digits / "val" / "000001.jpg"))


@pytest.fixture
def detect(here):
    """Runs the tool in eager PyTorch; returns exit code, stdout and stderr."""

    def run(*args, **kwargs):
        done = here("detect", *args, "--runtime", "eager", "--device", "cpu", **kwargs)
        return done.returncode, done.stdout, done.stderr

    return run


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_three_pictures_of_three_images(detect, image, tmp_path):
    """The case picture_collision, twice into one folder."""
    for name in ("A/1.jpg", "A/1_2.jpg", "B/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), image)
    args = (tmp_path / "A", tmp_path / "B", "--out", tmp_path / "o")
    code, output, _ = detect(*args)
    assert code == 0 and "in 3 images, written to" in output
    assert names(tmp_path / "o") == ["1.png", "1_2.png", "1_3.png", "detections.json"]
    content = json.loads((tmp_path / "o" / "detections.json").read_text())
    assert {i["file_name"]: i["picture"] for i in content["images"]} == {
        str(tmp_path / "A" / "1.jpg"): "1.png",
        str(tmp_path / "A" / "1_2.jpg"): "1_2.png",
        str(tmp_path / "B" / "1.jpg"): "1_3.png",
    }
    code, _, error = detect(*args)
    assert code == 2 and "is there already; give another --out, or --overwrite" in error
    (tmp_path / "o" / "1.png").unlink()
    assert detect(*args, "--overwrite")[0] == 0 and (tmp_path / "o" / "1.png").is_file()


def test_pycocotools_reads_what_it_writes(detect, digits, tmp_path):
    """With --ann-file the ids are the file's, and the annotations can be scored with it."""
    truth = json.loads((digits / "annotations" / "val.json").read_text())
    truth["images"] = [{**i, "id": 100 - i["id"]} for i in truth["images"][:3]]
    truth["annotations"] = [
        {**a, "image_id": 100 - a["image_id"], "category_id": 7 * a["category_id"]}
        for a in truth["annotations"]
        if a["image_id"] in (0, 1, 2)
    ]
    truth["categories"] = [{**c, "id": 7 * c["id"]} for c in reversed(truth["categories"])]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    images = [digits / "val" / truth["images"][k]["file_name"] for k in (2, 0)]
    args = ("--out", tmp_path / "o", "--ann-file", tmp_path / "truth.json", "--score-thr", 0)
    code, _, error = detect(*images, *args, "--batch", 2)
    assert code == 0, error
    assert "2 of the annotation file's 3 images are given" in error
    content = json.loads((tmp_path / "o" / "detections.json").read_text())
    assert [i["id"] for i in content["images"]] == [truth["images"][k]["id"] for k in (2, 0)]
    with contextlib.redirect_stdout(io.StringIO()):
        assert len(COCO(tmp_path / "o" / "detections.json").anns) == len(content["annotations"])
        results = COCO(tmp_path / "truth.json").loadRes(content["annotations"])
    assert {a["image_id"] for a in results.anns.values()} == {i["id"] for i in content["images"]}
    best = max(content["annotations"], key=lambda a: a["score"])
    same = [a for a in truth["annotations"] if a["image_id"] == best["image_id"]]
    assert best["category_id"] in {a["category_id"] for a in same}
    code, _, error = detect(digits / "val" / "000007.jpg", *args[:1], tmp_path / "p", *args[2:])
    assert code == 2 and "the annotation file has no image 000007.jpg" in error
    other = tmp_path / "other" / images[0].name  # of another folder, as train/ beside val/
    other.parent.mkdir()
    cv2.imwrite(str(other), np.zeros((20, 30, 3), np.uint8))
    code, _, error = detect(other, *args[:1], tmp_path / "p", *args[2:])
    assert code == 2 and f"{other} has 30x20 pixels, but {other.name} of the annotation" in error
    assert not (tmp_path / "p").exists()


def test_a_damaged_image_is_named_and_the_others_are_done(detect, image, tmp_path):
    for name in ("1.jpg", "3.jpg"):
        cv2.imwrite(str(tmp_path / name), image)
    (tmp_path / "2.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:3000])
    code, output, error = detect(tmp_path, "--out", tmp_path / "o", "--batch", 4)
    assert code == 1 and "2.jpg cannot be read" in error
    assert "in 2 images, 1 could not be read, written to" in output
    assert names(tmp_path / "o") == ["1.png", "3.png", "detections.json"]


def test_nothing_is_written_where_nothing_can_be_read(detect, tmp_path):
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).write_text("no picture")
    code, _, error = detect(tmp_path, "--out", tmp_path / "o")
    assert code == 2 and "1.jpg is no image" in error and "1 other" in error
    assert names(tmp_path) == ["1.jpg", "2.jpg"]


def test_an_interruption_leaves_whole_files(detect, image, tmp_path, monkeypatch):
    import prunet_det.inference.detections as module

    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), image)
    write, calls = module.write_picture, []

    def write_or_stop(path, picture):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(path, picture)

    monkeypatch.setattr(module, "write_picture", write_or_stop)
    code, _, error = detect(tmp_path, "--out", tmp_path / "o")
    assert code == 130 and "interrupted" in error
    assert names(tmp_path / "o") == ["0.png", "1.png", "detections.json"]
    content = json.loads((tmp_path / "o" / "detections.json").read_text())
    assert [i["picture"] for i in content["images"]] == ["0.png", "1.png"]


def test_a_video_and_an_image(detect, image, tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (256, 256))
    for shift in (0, 8, 16):
        writer.write(np.roll(image, shift, axis=1))
    writer.release()
    cv2.imwrite(str(tmp_path / "clip.png"), image)
    (tmp_path / "broken.mp4").write_text("no video")
    code, output, error = detect(tmp_path, "--out", tmp_path / "o", "--batch", 2)
    assert code == 1 and "broken.mp4 is no video that OpenCV can read" in error
    assert "in 4 images and frames, 1 could not be read" in output
    assert names(tmp_path / "o") == ["clip.json", "clip.mp4", "clip.png", "detections.json"]
    content = json.loads((tmp_path / "o" / "clip.json").read_text())
    assert [(i["frame"], i["seconds"]) for i in content["images"]] == [(0, 0), (1, 0.2), (2, 0.4)]
    assert {a["image_id"] for a in content["annotations"]} == {0, 1, 2}
    video = Video(tmp_path / "o" / "clip.mp4")
    frames = list(video)
    assert (video.rate, video.size, len(frames)) == (5, (256, 256), 3)
    code, output, _ = detect(path, "--out", tmp_path / "p")
    assert code == 0 and "in 3 frames" in output
    assert names(tmp_path / "p") == ["clip.json", "clip.mp4"]


@pytest.fixture
def clip(image, tmp_path):
    """A video of twelve frames in a folder of its own."""
    path = tmp_path / "in" / "clip.avi"
    path.parent.mkdir()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (256, 256))
    for shift in range(12):
        writer.write(np.roll(image, shift, axis=1))
    writer.release()
    return path


def frames_of(folder):
    content = json.loads((folder / "clip.json").read_text())
    assert {a["image_id"] for a in content["annotations"]} == {i["id"] for i in content["images"]}
    assert [i["frame"] for i in content["images"]] == list(range(len(content["images"])))
    return len(content["images"]), len(list(Video(folder / "clip.mp4")))


def test_a_video_that_is_cut_short(detect, clip, tmp_path):
    """What can be read of it is kept, and it does not pass for a whole one."""
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    code, output, error = detect(clip, "--out", tmp_path / "o")
    count, written = frames_of(tmp_path / "o")
    assert code == 1 and 2 < count == written < 10
    assert f"has 12 frames, but only {count} can be read: it is damaged or cut short" in error
    assert f"in {count} frames, 1 could not be read" in output


def test_an_interrupted_video_keeps_its_frames(detect, clip, tmp_path, monkeypatch):
    from prunet_det.inference.record import CocoRecord

    add = CocoRecord.add

    def add_or_stop(self, *args, **kwargs):
        if kwargs["frame"] == 3:
            raise KeyboardInterrupt
        assert not self.content["annotations"], "they pile up"
        add(self, *args, **kwargs)

    monkeypatch.setattr(CocoRecord, "add", add_or_stop)
    code, _, error = detect(clip, "--out", tmp_path / "o")
    assert code == 130 and "interrupted" in error
    assert names(tmp_path / "o") == ["clip.json", "clip.mp4"]
    assert frames_of(tmp_path / "o") == (3, 4)  # the fourth was drawn


def test_flags_of_images_with_videos_alone(detect, clip, tmp_path):
    for flag, value in (("--montage", tmp_path / "m.png"), ("--ann-file", "any.json")):
        code, _, error = detect(clip, "--out", tmp_path / "o", flag, value)
        assert code == 2 and f"{flag} is for images, but all inputs are videos" in error
    assert names(tmp_path) == ["in"]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--montage", "{image}"), "--montage must end in .png or .jpg"),
        (("--montage", "{out}/1.png"), "1.png is the name of a result"),
        (("--montage", "{folder}/1.jpg"), "1.jpg would overwrite an input"),
        (("--batch", "0"), "--batch: must be at least 1"),
        (("--classes", "a"), "10 classes, but 1 names"),
        (("--model", "gone"), "there is no checkpoint or folder gone"),
        (("--ann-file", "gone.json"), "gone.json"),
        (("--out", "{folder}/1.jpg/o"), "1.jpg/o"),
    ],
)
def test_refusals(detect, image, tmp_path, args, sentence):
    cv2.imwrite(str(tmp_path / "1.jpg"), image)
    places = dict(folder=tmp_path, out=tmp_path / "o", image=tmp_path / "m.gif")
    given = [a.format(**places) for a in args]
    usual = () if "--out" in args else ("--out", tmp_path / "o")
    code, _, error = detect(tmp_path / "1.jpg", *usual, *given, cwd=ROOT)
    assert code == 2 and sentence in error, error
    assert names(tmp_path) == ["1.jpg"]
