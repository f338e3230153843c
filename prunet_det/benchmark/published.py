"""Published figures: quoted, with their source, and never mixed with what was measured here."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml

import prunet_det
from prunet_det.benchmark.fronts import FrontPoint
from prunet_det.latency.calibrate import published_devices, published_points
from prunet_det.latency.record import Conditions, Latency
from prunet_det.runtime.subject import Scope
from prunet_det.utils.io import markdown_table, read_csv
from prunet_det.utils.package import package_file

GPUNET_SOURCE = "NVIDIA DeepLearningExamples, PyTorch/Classification/GPUNet"
CONDITIONS = "V100 32 GB, ONNX Runtime with TensorRT, FP16, batch 1, whole classifier"
PRUNET_PAPER = (
    "Tiered Pruning for Efficient Differentiable Inference-Aware Neural Architecture Search"
)
_EFFICIENTNET = re.compile(r"(tf_)?efficientnet_b\d\.")
_METAFILE_HEADER = """\
# Written by `python tools/report.py`; do not edit. Figures of classifiers are published ones, from
# prunet_det/latency/published.csv and the specs, and were not measured here. No weights of them are
# shipped; their Config is a recipe that trains them, with model.arch=NAME.
"""


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A network's published accuracy on ImageNet-1k.

    Attributes:
        model: Name in the zoo, or timm's with the tag of the training, as in `resnet50.a1_in1k`.
        family: One of `fronts.PUBLISHED_STYLES`.
        input_size: Side of the square images that the accuracy is published for, in pixels.
        top1: Top-1 in percent.
        source: Who published it.
        extra_data: Whether it was trained on other images too.
        teacher: The network that it learned from, `yes` where only that it did is known; empty for
            those that learned from labels alone.
        ms: Published milliseconds on a V100 at batch 1; None where there are none.
    """

    model: str
    family: str
    input_size: int
    top1: float
    source: str
    extra_data: bool = False
    teacher: str = ""
    ms: float | None = None

    @property
    def architecture(self) -> str:
        """The network, whatever its training."""
        return self.model.partition(".")[0]


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
        details = spec.provenance.details
        top1 = details.get("published_imagenet_top1")
        if top1 is not None:
            found.append(
                Classifier(
                    model=name,
                    family="prunet" if name.startswith("prunet") else "gpunet",
                    input_size=spec.input_size,
                    top1=top1,
                    source=details["source"],
                    teacher=details.get("distilled_from", ""),
                    ms=ms.get((name, spec.input_size)),
                )
            )
    return found


def timm_classifiers() -> list[Classifier]:
    """Convolutional networks of timm's with the ImageNet top-1 that timm publishes.

    EfficientNet is B0 to B5 with the weights of whoever trained them; its Lite and V2 networks are
    among the others.
    """
    comments, rows = read_csv(Path(__file__).parent / "imagenet_top1.csv")
    return [
        Classifier(
            model=row["model"],
            family="efficientnet" if _EFFICIENTNET.match(row["model"]) else "other",
            input_size=int(row["img_size"]),
            top1=float(row["top1"]),
            source=comments["source"],
            extra_data=row["extra_data"] == "yes",
            teacher="yes" if row["distilled"] == "yes" else "",
        )
        for row in rows
    ]


def points() -> list[FrontPoint]:
    """The zoo's networks with a published latency on a V100, in the form of a figure's points."""
    return [
        FrontPoint(
            model=c.model,
            family=c.family,
            input_size=c.input_size,
            seeds=(),
            values=(c.top1,),
            latency=Latency(
                model=c.model,
                input_size=c.input_size,
                scope=Scope.CLASSIFIER,
                conditions=Conditions(device="v100", runtime="tensorrt", precision="fp16"),
                ms=c.ms,
                low=c.ms,
                high=c.ms,
                kind="published",
            ),
        )
        for c in classifiers()
        if c.ms is not None
    ]


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
            f"Published: ImageNet top-1, and latency on a {CONDITIONS} ({GPUNET_SOURCE}).",
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


def _hub_path(config: str | Path) -> str:
    """Path of a config at the top of configs/, which `mmengine.hub` then calls `prunet_det::/NAME`.

    MMEngine takes only names with a slash, and compares them with what follows the first one here.
    """
    return f"configs//{Path(config).name}"


def metafile() -> str:
    """Text of configs/metafile.yml: the models in OpenMMLab's form, for `mim` and `mmengine.hub`.

    Latencies are the published ones of whole classifiers at batch 1.
    """
    card = json.loads(package_file("checkpoints/prunet_demo_digits.json").read_text("utf-8"))
    demo = {
        "Name": "prunet_demo_digits",
        "In Collection": "PruNet",
        "Config": _hub_path(card["config"]),
        "Metadata": {
            "Training Data": "embedded digits",
            "Training Resources": card["training"]["machine"],
            "Iterations": card["training"]["iterations"],
            "Parameters": card["parameters"],
        },
        "Results": [
            {
                "Task": "Object Detection",
                "Dataset": card["data"],
                "Metrics": {"box AP": round(100 * card["metrics"]["bbox_mAP"], 1)},
            }
        ],
        "Weights": "checkpoints/prunet_demo_digits.safetensors",
    }
    times = {device: published_points(device) for device in published_devices()}
    networks = [
        {
            "Name": c.model,
            "In Collection": "PruNet" if c.family == "prunet" else "GPUNet",
            "Config": "configs/classification/prunet_imagenet.py",
            "Metadata": {
                "inference time (ms/im)": [
                    {
                        "value": p.ms,
                        "hardware": device.upper(),
                        "backend": "ONNX Runtime with TensorRT",
                        "batch size": 1,
                        "mode": "FP16",
                        "resolution": [p.input_size, p.input_size],
                    }
                    for device, points in times.items()
                    for p in points
                    if (p.network, p.batch) == (c.model, 1)
                ]
            },
            "Results": [
                {
                    "Task": "Image Classification",
                    "Dataset": "ImageNet-1k",
                    "Metrics": {"Top 1 Accuracy": c.top1},
                }
            ],
        }
        for c in classifiers()
    ]
    recipes = [
        {"Name": path.stem, "In Collection": "PruNet", "Config": _hub_path(path)}
        for path in sorted(package_file("configs").glob("*.py"))
    ]
    collections = [
        {
            "Name": "PruNet",
            "Paper": {"Title": PRUNET_PAPER, "URL": "https://arxiv.org/abs/2209.11785"},
            "README": "docs/networks.md",
        },
        {"Name": "GPUNet", "README": "docs/networks.md"},
    ]
    text = yaml.safe_dump(
        {"Collections": collections, "Models": [demo, *recipes, *networks]},
        sort_keys=False,
        width=100,
    )
    return f"{_METAFILE_HEADER}{text}"
