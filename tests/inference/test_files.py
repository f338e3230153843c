"""Which files are detected in, and that no result overwrites another."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from prunet_det.inference.files import find_inputs, first_readable, name_results, record_of
from prunet_det.utils.errors import InputError, MissingFileError, UserError


@pytest.fixture
def folder(tmp_path):
    """Empty files: only their names matter."""
    for name in ("a/1.jpg", "a/2.PNG", "a/._1.jpg", "a/notes.txt", "a/clip.mp4", "b/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "folder.jpg").mkdir()
    (tmp_path / "a" / "[1].jpg").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["a/1.jpg"], ["a/1.jpg"]),
        (["a/notes.txt"], ["a/notes.txt"]),  # who names a file means it
        (["a"], ["a/1.jpg", "a/2.PNG", "a/[1].jpg", "a/clip.mp4"]),
        (["*/1.jpg"], ["a/1.jpg", "b/1.jpg"]),
        (["**/*.jpg"], ["a/1.jpg", "a/[1].jpg", "b/1.jpg"]),
        (["a/*"], ["a/1.jpg", "a/2.PNG", "a/[1].jpg", "a/clip.mp4"]),
        (["a/[1].jpg"], ["a/[1].jpg"]),  # a file of this name comes before the pattern
        (["b", "a/../b/1.jpg", "a/1.jpg", "b/1.jpg"], ["b/1.jpg", "a/1.jpg"]),
    ],
)
def test_inputs(folder, names, wanted, monkeypatch):
    monkeypatch.chdir(folder)
    found = find_inputs(names)
    assert [os.path.relpath(p) for p in found] == wanted
    assert [p.resolve() for p in find_inputs([str(folder / n) for n in names])] == [
        p.resolve() for p in found
    ]


@pytest.mark.parametrize(
    ("name", "kind", "sentence"),
    [
        ("gone.jpg", MissingFileError, "there is no image, video or folder gone.jpg"),
        ("a/*.bmp", InputError, r"a/\*.bmp matches no image or video"),
        ("a/folder.jpg", InputError, "the folder a/folder.jpg holds no image or video"),
    ],
)
def test_no_inputs(folder, monkeypatch, name, kind, sentence):
    monkeypatch.chdir(folder)
    with pytest.raises(kind, match=sentence):
        find_inputs(["a/1.jpg", name])


@pytest.mark.parametrize(
    ("inputs", "results"),
    [
        (["A/1.jpg", "A/1_2.jpg", "B/1.jpg"], ["1.png", "1_2.png", "1_3.png"]),
        (["A/1.jpg", "B/1.jpg", "A/1_2.jpg"], ["1.png", "1_2.png", "1_2_2.png"]),
        (["1.jpg", "1.png", "1.webp"], ["1.png", "1_2.png", "1_3.png"]),
        (["a.jpg", "A.jpg"], ["a.png", "A_2.png"]),
        (["\u00e9.jpg", "e\u0301.jpg"], ["\u00e9.png", "e\u0301_2.png"]),
        (["x.mp4", "x.avi", "x.jpg"], ["x.mp4", "x_2.mp4", "x.png"]),
        (["detections.mp4", "detections.jpg"], ["detections_2.mp4", "detections.png"]),
        (["a.b.jpg", "a.jpg", "noend"], ["a.b.png", "a.png", "noend.png"]),
    ],
)
def test_no_result_overwrites_another(tmp_path, inputs, results):
    """The first is the case picture_collision: three pictures of three images."""
    named = name_results([tmp_path / "in" / name for name in inputs], tmp_path / "out")
    assert [p.name for p in named] == results
    files = [*named, *{record_of(p) for p in named}]
    assert len({str(p).casefold() for p in files}) == len(files)


def test_inputs_and_earlier_results_stay(tmp_path):
    inputs = [tmp_path / "x.png", tmp_path / "y.jpg"]
    for path in inputs:
        path.touch()
    with pytest.raises(UserError, match=r"x.png would overwrite an input; give another --out"):
        name_results(inputs, tmp_path, overwrite=True)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="would overwrite an input"):
        name_results(inputs, tmp_path / "link")
    annotations = tmp_path / "detections.json"  # a user's own, in the folder of the images
    annotations.touch()
    with pytest.raises(UserError, match=r"detections.json is there already; give another --out"):
        name_results(inputs[1:], tmp_path)
    annotations.unlink()
    assert name_results(inputs[1:], tmp_path) == [tmp_path / "y.png"]
    (tmp_path / "y.png").touch()
    with pytest.raises(UserError, match=r"y.png is there already"):
        name_results(inputs[1:], tmp_path)
    assert name_results(inputs[1:], tmp_path, overwrite=True) == [tmp_path / "y.png"]


def test_the_first_that_can_be_read(tmp_path):
    bad, clip, good = tmp_path / "bad.jpg", tmp_path / "clip.mp4", tmp_path / "good.png"
    bad.write_text("no picture")
    clip.write_text("no video")
    with pytest.raises(InputError, match=r"bad.jpg .* So it is with the 1 other"):
        first_readable([bad, clip])
    cv2.imwrite(str(good), np.zeros((4, 4, 3), np.uint8))
    assert first_readable([bad, clip, good]) == Path(good)
