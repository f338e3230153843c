"""The embedded glyphs: distinct classes, COCO's sizes, nothing shared between the splits."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from prunet_det.datasets import build, data_hash, ensure
from prunet_det.datasets.compose import turn_sprite
from prunet_det.datasets.crops import CropParameters, recognisable
from prunet_det.datasets.glyphs import CHARACTERS, FACES, GlyphsSet, render_character

SET = GlyphsSet()
EVERY_FACE = (*FACES["train"], *FACES["val"])


def test_classes_and_faces():
    assert len(CHARACTERS) == len(set(CHARACTERS)) == 80
    assert SET.classes == (*"0123456789", *CHARACTERS)
    assert len(EVERY_FACE) == 16 and len(FACES["val"]) >= 3
    assert not set(FACES["train"]) & set(FACES["val"])


def test_every_face_has_every_character():
    """A missing character would be drawn as the face's box for the unknown."""
    for face in EVERY_FACE:
        unknown = render_character(face, "\U0010ffff")
        for character in CHARACTERS:
            assert not np.array_equal(render_character(face, character), unknown), (face, character)


SIDE, ANGLES = 32, (-15, 0, 15)


def looks(character):
    """(faces x angles, pixels) normalised pictures of a character at one size."""
    found = []
    for face in EVERY_FACE:
        whole = render_character(face, character)
        for angle in ANGLES:
            ink = turn_sprite(whole, angle)
            scale = SIDE / max(ink.shape)
            size = [max(1, round(s * scale)) for s in ink.shape[::-1]]
            small = cv2.resize(ink, size, interpolation=cv2.INTER_AREA)
            frame = np.zeros((SIDE, SIDE), np.float32)
            y, x = (SIDE - small.shape[0]) // 2, (SIDE - small.shape[1]) // 2
            frame[y : y + small.shape[0], x : x + small.shape[1]] = small
            vector = cv2.GaussianBlur(frame, (0, 0), 1.0).ravel()
            found.append((vector - vector.mean()) / np.linalg.norm(vector - vector.mean()))
    return np.stack(found)


@pytest.mark.slow
def test_no_two_characters_look_alike():
    """In no two faces, at no angles that the set draws; printed digits stand for written ones."""
    twins = ("0O", "1l", "A\u039b", "Vv", "Cc", "H\u0418", "U\u0075", "\u03a6\u0424")
    every = list(dict.fromkeys("0123456789" + "".join(CHARACTERS) + "".join(twins)))
    pictures = np.stack([looks(c) for c in every])
    count, views = pictures.shape[:2]
    flat = pictures.reshape(count * views, -1)
    alike = (flat @ flat.T).reshape(count, views, count, views).max((1, 3))
    at = {c: i for i, c in enumerate(every)}
    kept = [*"0123456789", *CHARACTERS]
    pairs = {
        a + b: alike[at[a], at[b]]
        for i, a in enumerate(kept)
        for b in kept[max(i + 1, 10) :]  # the digits are what they are
    }
    worst = max(pairs, key=pairs.get)
    assert pairs[worst] < 0.89, worst
    # The measure can tell: the twins that the list leaves out are above every pair that it keeps.
    for a, b in twins:
        assert alike[at[a], at[b]] > pairs[worst] + 0.03, a + b


@pytest.mark.slow
def test_sizes_and_counts_are_like_cocos():
    counts, sides, seen = [], [], {"train": set(), "val": set()}
    for split, images in (("train", 60), ("val", 60)):
        for index in range(images):
            image, drawn = SET.draw(split, index)
            assert image.shape == (512, 512, 3) and image.dtype == np.uint8
            counts.append(len(drawn))
            sides += [np.sqrt(d.mask.sum()) for d in drawn]
            seen[split] |= {d.label for d in drawn}
    sides = np.array(sides)
    assert np.mean(counts) == pytest.approx(7.3, abs=1.2) and min(counts) >= 1
    shares = [(sides < 32).mean(), ((sides >= 32) & (sides < 96)).mean(), (sides >= 96).mean()]
    assert shares == pytest.approx([0.41, 0.34, 0.24], abs=0.06)
    for labels in seen.values():
        assert len(labels) >= 80  # all 90 in a whole set


def test_capitals_are_printed_and_none_is_a_digit():
    capitals = build.SETS["capitals"]
    assert len(capitals.classes) == 10 and set(capitals.classes) <= set(CHARACTERS)
    image, drawn = capitals.draw("train", 2)
    assert image.shape == (256, 256, 3)
    assert {capitals.classes[d.label] for d in drawn} == set("AKTW")


def test_whole_set_where_it_was_made():
    """Counts of the set on disk, where somebody has made it."""
    import json

    from tests.conftest import ROOT

    root = ROOT / "data" / "glyphs"
    if not (root / "manifest.json").is_file():
        pytest.skip("data/glyphs has not been made here: python tools/make_data.py glyphs")
    for split, images in SET.counts:
        coco = json.loads((root / "annotations" / f"{split}.json").read_text())
        assert len(coco["images"]) == images
        assert {a["category_id"] for a in coco["annotations"]} == set(range(1, 91))
        areas = np.array([a["area"] for a in coco["annotations"]])
        assert len(areas) / images == pytest.approx(7.3, abs=0.2)
        shares = [np.mean(areas < 32**2), np.mean(areas >= 96**2)]
        assert shares == pytest.approx([0.41, 0.24], abs=0.02)


def test_same_seed_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setitem(build.SETS, "glyphs", GlyphsSet(counts=(("train", 3), ("val", 2))))
    first = ensure("glyphs", tmp_path / "a", workers=1)
    assert data_hash(first) == data_hash(ensure("glyphs", tmp_path / "b", workers=2))


def test_single_glyphs_come_one_by_one_and_most_give_a_crop():
    single = build.SETS["single_glyphs"]
    drawn = [single.draw("train", index)[1] for index in range(20)]
    assert {len(objects) for objects in drawn} == {1}
    boxes = [dict(bbox=list(objects[0].box), visible=objects[0].visible) for objects in drawn]
    assert sum(bool(recognisable([box], CropParameters())) for box in boxes) >= 14
    assert len({objects[0].label for objects in drawn}) > 10
