"""Published figures: quoted, with their source, and never mixed with what was measured here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import prunet_det
from prunet_det.benchmark.fronts import FrontPoint
from prunet_det.latency.calibrate import published_points
from prunet_det.latency.record import Conditions, Latency
from prunet_det.runtime.subject import Scope
from prunet_det.utils.io import markdown_table, read_csv

GPUNET_SOURCE = "NVIDIA DeepLearningExamples, PyTorch/Classification/GPUNet"
CONDITIONS = "V100 32 GB, ONNX Runtime with TensorRT, FP16, batch 1, whole classifier"
_EFFICIENTNET = re.compile(r"(tf_)?efficientnet_b\d\.")


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


def point(classifier: Classifier, latency: Latency) -> FrontPoint:
    """A published accuracy beside a latency, in the form of a figure's points."""
    return FrontPoint(
        model=classifier.model,
        family=classifier.family,
        input_size=classifier.input_size,
        seeds=(),
        values=(classifier.top1,),
        latency=latency,
    )


def points() -> list[FrontPoint]:
    """The zoo's networks with a published latency on a V100."""
    found = []
    for c in classifiers():
        if c.ms is not None:
            latency = Latency(
                model=c.model,
                input_size=c.input_size,
                scope=Scope.CLASSIFIER,
                conditions=Conditions(device="v100", runtime="tensorrt", precision="fp16"),
                ms=c.ms,
                low=c.ms,
                high=c.ms,
                kind="published",
            )
            found.append(point(c, latency))
    return found


def tables() -> dict[str, tuple[list[str], list[list[str]]]]:
    """Title to header and rows of the tables of published figures."""
    networks = [
        [c.model, str(c.input_size), f"{c.top1:g}", "" if c.ms is None else f"{c.ms:.2f}"]
        for c in sorted(classifiers(), key=lambda c: c.top1)
    ]
    columns = {
        "detector": "model",
        "px": "image_size",
        "parameters (M)": "params_m",
        "published mAP, %": "coco_val2017_map",
        "source": "source",
    }
    detectors = read_csv(Path(__file__).parent / "efficientdet_coco.csv")[1]
    return {
        f"Published: ImageNet top-1, and latency on a {CONDITIONS} ({GPUNET_SOURCE}).": (
            ["network", "px", "published top-1, %", "published ms"],
            networks,
        ),
        "Published: EfficientDet on COCO val2017, percent.": (
            list(columns),
            [[row[key] for key in columns.values()] for row in detectors],
        ),
    }


def markdown() -> str:
    """The tables in Markdown, their titles above them."""
    return "\n".join(f"{title}\n\n{markdown_table(*table)}" for title, table in tables().items())
