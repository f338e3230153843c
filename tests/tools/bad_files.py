"""Small files, good and bad, for tests of what tools refuse."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from prunet_det import load_spec
from prunet_det.benchmark.records import METRICS
from prunet_det.benchmark.suite import Candidate
from tests.benchmark.planted import runs
from tests.conftest import ROOT

# Content of a file: text, bytes, JSON values, a function that writes it; None for a folder.
Content = str | bytes | dict[str, Any] | list[Any] | Callable[[Path], None] | None
Files = Mapping[str, Content]

BINARY = b"\xff\xfe\x00\x81"
CUT = '{"a": '
SHIPPED = ROOT / "checkpoints" / "prunet_demo_digits.safetensors"


def write(root: Path, files: Files) -> None:
    """Writes files by their names below a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir(exist_ok=True)
        elif callable(content):
            content(path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            path.write_text(text, encoding="utf-8")


def without(data: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Returns a dict with some values changed, and those that become `...` left out."""
    return {k: v for k, v in {**data, **changes}.items() if v is not ...}


def png() -> bytes:
    """A picture of 64 x 48 pixels."""
    data = io.BytesIO()
    Image.new("RGB", (64, 48), (90, 120, 60)).save(data, "png")
    return data.getvalue()


def spec(**changes: Any) -> dict[str, Any]:
    """The demo's spec with some keys changed."""
    return without(load_spec("prunet_demo").to_dict(), **changes)


def blocks(*found: Any) -> dict[str, Any]:
    """A spec of one stage of these blocks."""
    return spec(stages=[{"blocks": list(found)}])


def device(**changes: Any) -> dict[str, Any]:
    """The V100's file with some keys changed."""
    path = ROOT / "prunet_det" / "latency" / "devices" / "v100.json"
    return without(json.loads(path.read_text(encoding="utf-8")), **changes)


def pickled(value: Any) -> Callable[[Path], None]:
    """A file of torch.save."""
    return partial(torch.save, value)


def other_weights(path: Path) -> None:
    """Tensors of no network of ours."""
    save_file({"a": torch.zeros(3)}, path)


def not_finite(path: Path) -> None:
    """The shipped detector after a training that diverged."""
    state = load_file(SHIPPED)
    state["backbone.net.model.stem.0.conv.weight"][0] = float("nan")
    save_file(state, path)


def table(**changes: Any) -> Callable[[Path], None]:
    """A table of the demo's blocks at 64 px, with keys changed where they are found."""

    def make(path: Path) -> None:
        from prunet_det.latency.table import network_blocks, predict_table

        predict_table(network_blocks(load_spec("prunet_demo"), 64)).save(path)
        data = json.loads(path.read_text(encoding="utf-8"))
        for place in (data, data["conditions"], data["entries"][0]):
            place.update({k: v for k, v in changes.items() if k in place})
        path.write_text(json.dumps(data), encoding="utf-8")

    return make


TRAIN, VAL = "d/annotations/instances_train2017.json", "d/annotations/instances_val2017.json"


def coco(*, boxes: bool = True, name: str = "cat") -> dict[str, Any]:
    """Annotations of one image of one class."""
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 40, 40], "iscrowd": 0}
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "annotations": [box] if boxes else [],
        "categories": [{"id": 1, "name": name}],
    }


def coco_folder(**changes: Any) -> dict[str, Content]:
    """Folder d as COCO 2017 has it; changes are of TRAIN, VAL and the image `picture`."""
    picture = changes.get("picture", png())
    return without(
        {
            TRAIN: changes.get("train", coco()),
            VAL: changes.get("val", coco()),
            "d/train2017/a.png": picture,
            "d/val2017/a.png": png(),
        }
    )


def image_folder(train: str = "ab", val: str = "ab") -> dict[str, Content]:
    """Folder d as ImageNet has it: an image a class, whose names are letters."""
    named = {
        f"d/{s}/{c}/1.png": png() for s, kinds in (("train", train), ("val", val)) for c in kinds
    }
    return dict(named)


SUITE = "config = 'configs/prunet_effdet.py'\nmodels = dict(prunet=[('prunet_demo', 64)])\n"
RECORD_FILE = "d/records.jsonl"


def record(**changes: Any) -> str:
    """The line of a record, some of its figures changed."""
    (planted,) = runs(Candidate("prunet_n", "prunet", 112), [0.3], 9.0)
    figures = without(planted.run.figures, **changes)
    return json.dumps(asdict(replace(planted.run, figures=figures, recipe=str(changes)))) + "\n"


def metrics(value: Any) -> str:
    """The line of a record whose mAP is this."""
    return record(metrics={**dict.fromkeys(METRICS, 0.3), "mAP": value})


def search_result(**changes: Any) -> Files:
    """The folder `d` of a search for 0.5 ms, some keys of its network's run.json changed.

    Args:
        **changes: Keys; `...` leaves one out.
    """
    conditions = {"kind": "predicted", "runtime": "tensorrt", "precision": "fp16"}
    conditions |= {"device": "v100", "batch": 1, "threads": 0}
    found = {"budget_ms": 0.5, "input_size": 512, "conditions": conditions, "ms": 0.5}
    found |= {"measured_ms": None, "chooser": "tiers", "figures": {}, "final": True}
    return {
        "d/run.json": {"budgets_ms": [0.5]},
        "d/0.5ms/arch.json": spec(),
        "d/0.5ms/run.json": without(found, **changes),
    }
