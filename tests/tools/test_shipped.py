"""The shipped checkpoint does what its card says."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.conftest import NO_WORKERS, ROOT

SHIPPED = ROOT / "checkpoints" / "prunet_demo_digits.safetensors"


@pytest.fixture(scope="module")
def card():
    return json.loads(SHIPPED.with_suffix(".json").read_text())


def test_card(card):
    assert SHIPPED.stat().st_size < 8_000_000
    assert card["metrics"]["bbox_mAP"] >= 0.50
    assert {"command", "commit", "iterations"} <= card["training"].keys()
    assert card["data_hash"]


@pytest.mark.slow
def test_it_reaches_what_its_card_says(card, digits, tmp_path, here):
    flags = ["--work-dir", tmp_path, "--out", tmp_path / "m", "--cfg-options", *NO_WORKERS]
    done = here("test", card["config"], SHIPPED, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((tmp_path / "m").read_text())["metrics"]
    for key in ("bbox_mAP", "bbox_mAP_50", "bbox_mAP_75"):
        assert metrics[key] == pytest.approx(card["metrics"][key], abs=0.005), key


def test_ones_own_weights_know_their_classes(digits, tmp_path, here):
    """No card, but the train.json that training leaves beside the weights."""
    shutil.copy(SHIPPED, tmp_path / "weights.safetensors")
    names = [f"digit {i}" for i in range(10)]
    (tmp_path / "train.json").write_text(json.dumps({"classes": names}))
    args = ["--config", "configs/prunet_effdet.py", "--out", tmp_path / "out"]
    args += ["--checkpoint", tmp_path / "weights.safetensors"]
    done = here("detect", digits / "val" / "000001.jpg", *args)
    assert done.returncode == 0, done.stdout + done.stderr
    coco = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [c["name"] for c in coco["categories"]] == names


def test_detect_uses_it_by_default(digits, tmp_path, here):
    image = digits / "val" / "000001.jpg"
    done = here("detect", image, "--out", tmp_path / "out", "--montage", tmp_path / "m.png")
    assert done.returncode == 0, done.stdout + done.stderr
    coco = json.loads((tmp_path / "out" / "detections.json").read_text())
    truth = json.loads((digits / "annotations" / "val.json").read_text())
    wanted = [a for a in truth["annotations"] if a["image_id"] == 1]
    assert [c["name"] for c in coco["categories"]] == list("0123456789")
    assert (tmp_path / "out" / "000001.png").is_file() and (tmp_path / "m.png").is_file()

    def overlap(a, b):
        (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
        w = min(ax + aw, bx + bw) - max(ax, bx)
        h = min(ay + ah, by + bh) - max(ay, by)
        inter = max(w, 0) * max(h, 0)
        return inter / (aw * ah + bw * bh - inter)

    hits = [
        any(
            d["category_id"] == a["category_id"] and overlap(d["bbox"], a["bbox"]) > 0.5
            for d in coco["annotations"]
        )
        for a in wanted
    ]
    assert sum(hits) >= len(hits) / 2
