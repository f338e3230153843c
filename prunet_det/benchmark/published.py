"""Published figures: quoted, with their source, and never mixed with what was measured here."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import prunet_det
from prunet_det.latency.calibrate import published_points
from prunet_det.utils.io import markdown_table, read_csv

GPUNET_SOURCE = "NVIDIA DeepLearningExamples, PyTorch/Classification/GPUNet"
CONDITIONS = "V100 32 GB, ONNX Runtime with TensorRT, FP16, batch 1, whole classifier"


class Classifier(NamedTuple):
    """A network's published figures; milliseconds where there are any."""

    model: str
    family: str
    input_size: int
    top1: float
    ms: float | None


class Table(NamedTuple):
    """A table of published figures."""

    title: str
    header: list[str]
    rows: list[list[str]]


def classifiers() -> list[Classifier]:
    """The zoo's networks with a published ImageNet top-1; latency is that on a V100, if any."""
    ms = {(p.network, p.input_size): p.ms for p in published_points("v100") if p.batch == 1}
    found = []
    for name in prunet_det.model_names():
        spec = prunet_det.load_spec(name)
        top1 = spec.provenance.details.get("published_imagenet_top1")
        if top1 is not None:
            family = "prunet" if name.startswith("prunet") else "gpunet"
            found.append(
                Classifier(name, family, spec.input_size, top1, ms.get((name, spec.input_size)))
            )
    return found


def detectors() -> list[dict[str, str]]:
    """EfficientDet on COCO val2017: model, image_size, params_m, coco_val2017_map, source."""
    return read_csv(Path(__file__).parent / "efficientdet_coco.csv")[1]


def tables() -> list[Table]:
    """All of it."""
    networks = [
        [c.model, str(c.input_size), f"{c.top1:g}", "" if c.ms is None else f"{c.ms:.2f}"]
        for c in sorted(classifiers(), key=lambda c: c.top1)
    ]
    coco = [
        [r["model"], r["image_size"], r["params_m"], r["coco_val2017_map"], r["source"]]
        for r in detectors()
    ]
    return [
        Table(
            f"Published: ImageNet top-1, and latency on a {CONDITIONS} ({GPUNET_SOURCE}). The two "
            "networks without a latency have none among the published figures at hand.",
            ["network", "px", "published top-1, %", "published ms"],
            networks,
        ),
        Table(
            "Published: EfficientDet on COCO val2017, percent.",
            ["detector", "px", "parameters (M)", "published mAP, %", "source"],
            coco,
        ),
    ]


def markdown() -> str:
    """The tables in Markdown, their titles above them."""
    return "\n".join(f"{t.title}\n\n{markdown_table(t.header, t.rows)}" for t in tables())
