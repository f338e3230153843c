"""Whole detectors as ONNX files, from pixels to boxes, checked before they are written."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from mmdet.models.detectors import BaseDetector

import prunet_det
from prunet_det.datasets.photos import load_photos
from prunet_det.detection.build import NetworkPart
from prunet_det.detection.end_to_end import PLUGIN, EndToEnd, Selection, onnx_select, select
from prunet_det.detection.head import EfficientDetHead, topk
from prunet_det.detection.letterbox import Letterbox
from prunet_det.runtime.fold import inference_graph
from prunet_det.runtime.onnx import INPUT, onnx_bytes, open_session
from prunet_det.runtime.outputs import Reference
from prunet_det.runtime.program import PRECISIONS
from prunet_det.runtime.subject import normalise
from prunet_det.utils.errors import InputError
from prunet_det.utils.images import read_image
from prunet_det.utils.io import PathLike, atomic_path

INPUT_TYPES = {"uint8": torch.uint8, "float32": torch.float32, "float16": torch.float16}
OUTPUTS = ("boxes", "scores", "labels")
_PLUGIN_POINTS = 5000  # candidates of an image that TensorRT's plugin looks at, at most
# How near score and corners of a detection that is found again are, in pixels of the square, and
# the share that must be: at the threshold of NMS overlaps differ by rounding alone.
# Outputs in half precision are rounded where they are written, but not where they are used.
_NEAR = {"fp32": (1e-3, 0.1, 0.98), "fp16": (4e-3, 0.4, 0.9)}
_DISTINCT = 0.98  # share of scores that differ, below which equal ones are many


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """What an exported file is like.

    Attributes:
        batch: Images at once; None leaves it free.
        precision: `fp32` or `fp16`, of the network; what comes before and after it is FP32.
        plugin: Leave selection and NMS to TensorRT's EfficientNMS, which nothing else can run.
        opset: Version of ONNX's operators; the exporter's own by default.
        input_name: Name of the input.
        input_type: Key of INPUT_TYPES; values are 0..255 in all of them.
        output_names: Names of boxes, scores and labels.

    Raises:
        InputError: If the names are not one and three, or not distinct.
    """

    batch: int | None = 1
    precision: str = "fp32"
    plugin: bool = False
    opset: int | None = None
    input_name: str = INPUT
    input_type: str = "uint8"
    output_names: tuple[str, ...] = OUTPUTS

    def __post_init__(self) -> None:
        names = (self.input_name, *self.output_names)
        if len(names) != 4 or len(set(names)) != 4 or not all(names):
            raise InputError(
                "the file has one input and three outputs, boxes, scores and labels; give them "
                f"four different names, not {', '.join(map(repr, names))}."
            )


@dataclass(frozen=True)
class Checked:
    """What was compared before a file was written.

    Attributes:
        error: Largest relative L2 error of the network's raw outputs against eager FP32.
        detections: Number of detections that were compared.
        score_thr: Score that they exceed.
    """

    error: float
    detections: int
    score_thr: float


# Images, and what MMDetection's heads know of each.
_Batch: TypeAlias = tuple[torch.Tensor, list[dict[str, Any]]]


def export_end_to_end(
    detector: BaseDetector,
    path: PathLike,
    letterbox: Letterbox,
    selection: Selection | None = None,
    options: FileOptions | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Checked:
    """Writes a detector from pixels to boxes, once ONNX Runtime has found with it what Python does.

    Real images are letterboxed, and run at batch 1 and 3 where the batch is free. The file's raw
    outputs are compared with eager FP32's, its detections with what Python selects from these
    outputs. Where nothing exceeds the threshold, a file of threshold 0 is
    compared in its place. ONNX Runtime cannot run TensorRT's plugin: a file with it is run up to
    the plugin's inputs, and torchvision does what the plugin is documented to do with them.

    Args:
        detector: MMDetection's one-stage detector, on the CPU.
        path: File to write.
        letterbox: How images become squares; the file takes squares of its size.
        selection: How detections are selected; as the detector's test_cfg says by default.
        options: What the file is like.
        metadata: JSON values to write into the file, beside those of input and selection.

    Returns:
        What was compared.

    Raises:
        RuntimeMissingError: If the extra `onnx` is not installed.
        InputError: If the detector cannot be exported, or the file finds something else.
    """
    options, size = options or FileOptions(), letterbox.size
    part = NetworkPart(detector, size).eval()
    network = None
    if options.precision != "fp32":
        example = torch.randn(options.batch or 2, 3, size, size)
        graph = inference_graph(part, example, options.batch is None)
        network = graph.to(PRECISIONS[options.precision])
    selection = selection or Selection.of_head(detector.bbox_head)
    pixels, metas = check_images(detector, letterbox, options.batch or 3)
    batches = [(pixels[:n], metas[:n]) for n in ((options.batch,) if options.batch else (1, 3))]

    def build(selection: Selection) -> tuple[Any, list[list[torch.Tensor]], Checked]:
        module = EndToEnd(detector, part, selection, network, options.plugin).eval()
        model = _exported(module, pixels, options)
        return model, *_check(module, detector, model, batches, options)

    model, found, checked = build(selection)
    if not checked.detections:
        *_, checked = build(replace(selection, score_thr=0.0))
    if not checked.detections:
        raise InputError("the detector finds nothing at any threshold; load trained weights.")
    del model.graph.output[3:]
    _describe(model, {**_contract(selection, letterbox, options), **(metadata or {})})
    content = model.SerializeToString()
    if not options.plugin:  # without the outputs that were compared, other kernels may be fused
        session = open_session(content)
        for (images, _), expected in zip(batches, found, strict=True):
            again = _run(session, images, options)
            _require_same(len(images), again, expected, options.precision)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return checked


def _exported(module: EndToEnd, pixels: torch.Tensor, options: FileOptions) -> Any:
    """Returns ONNX's model of a module, whose last outputs are the network's own."""
    import onnx

    example = pixels[: options.batch or 2].to(INPUT_TYPES[options.input_type])
    with torch.no_grad():  # says what cannot be selected, and keeps the anchors as constants
        module(example)
    content = onnx_bytes(
        module,
        example,
        None,
        [*options.output_names, *module.part.output_names],
        options.batch is None,
        input_names=[options.input_name],
        custom_translation_table={select._opoverload: onnx_select},
        opset=options.opset,
    )
    return onnx.load_from_string(content)


def _check(
    module: EndToEnd,
    detector: BaseDetector,
    model: Any,
    batches: Sequence[_Batch],
    options: FileOptions,
) -> tuple[list[list[torch.Tensor]], Checked]:
    """Compares a model with the detector; see `export_end_to_end`."""
    session = open_session((_up_to_plugin(model) if options.plugin else model).SerializeToString())
    python = copy.deepcopy(detector)
    python.bbox_head.test_cfg = module.selection.test_cfg(python.bbox_head)
    error, total, found = 0.0, 0, []
    for images, metas in batches:
        outputs = _run(session, images, options)
        count = 2 if options.plugin else 3
        detections, maps = outputs[:count], outputs[count:]
        if options.plugin:
            detections = _as_plugin(module, *detections)
        found.append(detections)
        normalised = normalise(detector.data_preprocessor, images.flip(1))  # pipelines read BGR
        reference = Reference(module.part, normalised, options.precision)
        error = max(error, reference.check(f"the exported file at batch {len(images)}", maps))
        if _tied(detections[1]):
            # MMDetection takes equal scores in any order: the file is held to our selection, which
            # takes the first, and that to MMDetection's on scores that differ.
            selected = module.detections(maps, images.shape[-1])
            _require_same(len(images), detections, selected, options.precision)
            maps = _distinct(module.part, maps)
            detections = [*module.detections(maps, images.shape[-1])]
        expected = _by_head(module, python, maps, images, metas)
        pair = _clipped(detections, metas), _clipped(expected, metas)
        _require_same(len(images), *pair, options.precision)
        total += int((detections[2] >= 0).sum())
    return found, Checked(error, total, module.selection.score_thr)


def _run(session: Any, images: torch.Tensor, options: FileOptions) -> list[torch.Tensor]:
    feed = {options.input_name: images.to(INPUT_TYPES[options.input_type]).numpy()}
    outputs = (torch.from_numpy(output) for output in session.run(None, feed))
    return [output.float() if output.is_floating_point() else output for output in outputs]


def _tied(scores: torch.Tensor) -> bool:
    """Returns whether more than a few detections share their score; scores are (N, K)."""
    distinct = sum(len(row[row > 0].unique()) for row in scores)
    return distinct < _DISTINCT * int((scores > 0).sum())


def _distinct(part: NetworkPart, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Gives a network's outputs other logits, in the place of all but boxes: no two are equal."""
    generator = torch.Generator().manual_seed(0)
    groups = part.grouped(maps)
    for k in {*range(len(groups))} - {1}:
        sizes = [level.numel() for level in groups[k]]
        logits = torch.linspace(-8, 2, sum(sizes))  # where float32 tells their sigmoids apart
        parts = logits[torch.randperm(sum(sizes), generator=generator)].split(sizes)
        groups[k] = [p.view_as(level) for p, level in zip(parts, groups[k], strict=True)]
    return [level for group in groups for level in group]


def _by_head(
    module: EndToEnd,
    python: BaseDetector,
    maps: Sequence[torch.Tensor],
    images: torch.Tensor,
    metas: Sequence[dict[str, Any]],
) -> list[torch.Tensor]:
    """Returns what a detector selects from a network's outputs, as `EndToEnd` gives it."""
    if not isinstance(module.head, EfficientDetHead):
        # These clip boxes to the image before NMS. In a file they are clipped to the square.
        metas = [{**meta, "img_shape": images.shape[2:]} for meta in metas]
    results = module.part.detect(python, lambda _: lambda: maps, images, metas)
    count = module.selection.max_per_img
    boxes = torch.zeros(len(results), count, 4)
    scores, labels = torch.zeros(len(results), count), torch.full((len(results), count), -1)
    for i, found in enumerate(results):
        boxes[i, : len(found)] = found.bboxes * torch.tensor(metas[i]["scale_factor"] * 2)
        scores[i, : len(found)], labels[i, : len(found)] = found.scores, found.labels
    return [boxes, scores, labels]


def _clipped(found: Sequence[torch.Tensor], metas: Sequence[dict[str, Any]]) -> list[torch.Tensor]:
    """Clips boxes in pixels of squares to the images in these."""
    sides = torch.tensor([meta["img_shape"][::-1] * 2 for meta in metas])
    return [found[0].clamp(min=0).minimum(sides[:, None]), *found[1:]]


def _require_same(
    batch: int,
    found: Sequence[torch.Tensor],
    expected: Sequence[torch.Tensor],
    precision: str = "fp32",
) -> None:
    """Refuses a file whose detections are others than the expected ones."""
    total = same = 0
    near_score, near_corner, agreement = _NEAR[precision]
    for boxes, scores, labels, *others in zip(*found, *expected, strict=True):
        near = (labels[:, None] == others[2]) & ((scores[:, None] - others[1]).abs() < near_score)
        near &= (boxes[:, None] - others[0]).abs().amax(dim=2) < near_corner
        near &= (labels[:, None] >= 0) & (others[2] >= 0)
        total += int((labels >= 0).sum() + (others[2] >= 0).sum())
        same += int(near.any(dim=0).sum() + near.any(dim=1).sum())
    if same < agreement * total:
        raise InputError(
            f"the exported file does not find what the detector does at batch {batch}: "
            f"{same} of {total} detections are the same."
        )


def _up_to_plugin(model: Any) -> Any:
    """Copies a model that ends with TensorRT's plugin: its inputs are outputs in its place."""
    import onnx

    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    gone: set[str] = set()
    inputs: list[str] = []
    nodes = []
    for node in model.graph.node:
        if node.op_type == PLUGIN.rpartition(":")[2]:
            inputs = list(node.input)
        elif not gone.intersection(node.input):
            nodes.append(node)
            continue
        gone.update(node.output)
    del cut.graph.node[:], cut.graph.output[:]
    cut.graph.node.extend(nodes)
    kind = onnx.TensorProto.FLOAT
    cut.graph.output.extend(onnx.helper.make_tensor_value_info(i, kind, None) for i in inputs)
    cut.graph.output.extend(model.graph.output[3:])
    return cut


def _as_plugin(module: EndToEnd, boxes: torch.Tensor, scores: torch.Tensor) -> list[torch.Tensor]:
    """Does what TensorRT's plugin is documented to do.

    Args:
        module: The detector.
        boxes: Boxes of all anchors, (N, A, 4).
        scores: Scores of all anchors, (N, A, classes).

    Returns:
        Boxes, scores and labels, as `EndToEnd` gives them.
    """
    chosen = module.selection
    best, pairs = topk(scores.flatten(1), _PLUGIN_POINTS)
    rows, labels = pairs // module.classes, pairs % module.classes
    candidates = boxes.gather(1, rows[..., None].expand(-1, -1, 4))
    best = torch.where(best > chosen.score_thr, best, 0.0)
    return list(
        select(candidates, best, labels, module.classes, chosen.nms_iou, chosen.max_per_img)
    )


def check_images(detector: BaseDetector, letterbox: Letterbox, count: int) -> _Batch:
    """Finds images on which an exported file is compared with its detector.

    Args:
        detector: The detector, with its config as `cfg`.
        letterbox: How they become squares. Those that are square are cut, so as to need filling.
        count: Number N of images.

    Returns:
        (N, 3, size, size) uint8 in RGB, and what MMDetection's heads know of each: the first images
        of the config's test data, or scikit-image's photographs where they are not here, or else
        noise of a few colours.
    """
    data = detector.cfg.get("test_dataloader", {}).get("dataset", {})
    folder = Path(data.get("data_root") or "") / (data.get("data_prefix") or {}).get("img", "")
    files = sorted(folder.glob("*.[jp][pn]*g")) if data else []
    try:
        pictures = [read_image(path) for path in files[:count]] or list(load_photos("val"))
    except (InputError, ImportError):  # a damaged file, or no scikit-image
        noise = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        pictures = list(noise.repeat(32, axis=1).repeat(32, axis=2))
    squares, metas = [], []
    for i in range(count):
        picture = pictures[i % len(pictures)]
        height, width = picture.shape[:2]
        picture = picture[: max(1, height * 3 // 4)] if height == width else picture
        square, factors, shape = letterbox.fit(picture)
        squares.append(square[..., ::-1].transpose(2, 0, 1))
        metas.append(dict(img_shape=shape, ori_shape=picture.shape[:2], scale_factor=factors))
    return torch.from_numpy(np.stack(squares)), metas


def _contract(selection: Selection, letterbox: Letterbox, options: FileOptions) -> dict[str, Any]:
    """Describes what a file takes and gives; docs/export.md explains the keys."""
    filling = letterbox.metadata()
    return {
        "prunet_det": prunet_det.__version__,
        "input": {
            "layout": "NCHW",
            "channels": "RGB",
            "range": [0, 255],
            "type": options.input_type,
            "normalized": "in the graph",
        },
        "letterbox": {**filling, "pad_value": filling["pad_value"][::-1]},  # BGR to RGB
        "score_threshold": selection.score_thr,
        "nms_iou": selection.nms_iou,
        "max_detections": selection.max_per_img,
        "nms": "efficientnms" if options.plugin else "onnx",
        "precision": options.precision,
    }


def _describe(model: Any, metadata: Mapping[str, Any]) -> None:
    """Writes metadata into a model, and takes away what the exporter noted for its developers."""
    import onnx

    for node in model.graph.node:
        del node.metadata_props[:]
    del model.graph.value_info[:], model.metadata_props[:], model.graph.metadata_props[:]
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
