"""Detectors from pixels to boxes: the module, its operators in ONNX, and whole files."""

from __future__ import annotations

import json

import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torchvision.ops import batched_nms

from prunet_det.detection.build import NetworkPart, build_detector
from prunet_det.detection.end_to_end import (
    EndToEnd,
    Selection,
    _traced_candidates,
    onnx_select,
    select,
)
from prunet_det.detection.export import (
    FileOptions,
    _distinct,
    _tied,
    check_images,
    export_end_to_end,
)
from prunet_det.detection.letterbox import Letterbox
from prunet_det.latency.subject import load_named
from prunet_det.runtime.onnx import onnx_bytes
from prunet_det.utils.errors import InputError
from tests.conftest import ROOT

WEIGHTS = ROOT / "checkpoints" / "prunet_demo_digits.safetensors"


@pytest.fixture(scope="module")
def detector():
    return build_detector(ROOT / "configs" / "prunet_effdet.py", WEIGHTS)


class Select(nn.Module):
    def forward(self, candidates):
        boxes, scores, labels = candidates.split([4, 1, 1], dim=2)
        return select(boxes, scores[..., 0], labels[..., 0].long(), 3, 0.5, 8)


def candidates(images: int) -> torch.Tensor:
    """Boxes that overlap in three classes, many of equal scores, some that do not count."""
    corners = torch.rand(images, 40, 2) * 20
    boxes = torch.cat([corners, corners + 10 + torch.rand(images, 40, 2) * 8], dim=2)
    scores = (torch.randint(0, 6, (images, 40, 1)) / 8).sort(dim=1, descending=True).values
    return torch.cat([boxes, scores, torch.randint(0, 3, (images, 40, 1)).float()], dim=2)


def test_selection_in_onnx_with_ties_classes_and_any_batch():
    module = Select()
    content = onnx_bytes(
        module,
        candidates(2),
        None,
        ["boxes", "scores", "labels"],
        dynamic_batch=True,
        custom_translation_table={select._opoverload: onnx_select},
    )
    session = onnxruntime.InferenceSession(content)
    for images in (1, 2, 5):
        given = candidates(images)
        given[-1, 3:, 4] = 0  # three candidates at most
        found = session.run(None, {"images": given.numpy()})
        for ours, expected in zip(found, module(given), strict=True):
            assert torch.equal(torch.from_numpy(ours), expected)
        boxes, scores, labels = given[0].split([4, 1, 1], dim=1)
        kept = batched_nms(boxes, scores[:, 0], labels[:, 0], 0.5)
        kept = kept[scores[kept, 0] > 0][:8]
        assert torch.equal(torch.from_numpy(found[0])[0, : len(kept)], boxes[kept])
        assert (found[2][-1, 3:] == -1).all() and (found[1][-1, 3:] == 0).all()


def test_equal_scores_stay_in_order_however_many_there_are():
    boxes = torch.arange(1500.0)[:, None] + torch.tensor([0, 0, 0.5, 0.5])
    ones, labels = torch.ones(1, 1500), torch.arange(1500)[None] % 3
    found, _, _ = select(boxes[None], ones, labels, 3, 0.5, 8)
    assert torch.equal(found[0], boxes[:8])


def test_the_module_finds_what_the_detector_does(detector):
    part = NetworkPart(detector, 128).eval()
    module = EndToEnd(detector, part, Selection.of_head(detector.bbox_head)).eval()
    images = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    data = {"inputs": list(images.flip(1))}  # in BGR, as the pipelines read
    meta = dict(img_shape=(128, 128))
    with torch.no_grad():
        boxes, scores, labels, *maps = module(images)
        normalised = detector.data_preprocessor(data, False)["inputs"]
        expected = detector.bbox_head.predict_by_feat(
            *detector.network(normalised), batch_img_metas=[meta] * 2
        )
    assert len(maps) == len(part.output_names)
    for i, found in enumerate(expected):
        count = len(found)
        assert torch.equal(labels[i, :count], found.labels) and (labels[i, count:] == -1).all()
        assert torch.allclose(scores[i, :count], found.scores, atol=1e-5)
        assert torch.allclose(boxes[i, :count], found.bboxes, atol=1e-2)


def test_a_file_of_any_batch_says_what_it_takes(detector, tmp_path):
    path = tmp_path / "d.onnx"
    letterbox = Letterbox(128, pad_val=(1, 2, 3))
    options = FileOptions(batch=None, input_type="float32", output_names=("b", "s", "l"))
    selection = Selection.of_head(detector.bbox_head, score_thr=0.02, max_per_img=7)
    checked = export_end_to_end(
        detector, path, letterbox, selection, options, {"classes": ["zero"]}
    )
    assert checked.error < 1e-4 and checked.detections > 7
    session = onnxruntime.InferenceSession(path)
    assert [(o.name, o.shape) for o in session.get_outputs()] == [
        ("b", ["batch", 7, 4]),
        ("s", ["batch", 7]),
        ("l", ["batch", 7]),
    ]
    (images,) = session.get_inputs()
    assert images.type == "tensor(float)" and images.shape == ["batch", 3, 128, 128]
    said = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert said["classes"] == ["zero"] and said["score_threshold"] == 0.02
    assert said["letterbox"]["pad_value"] == [3, 2, 1]  # RGB, as the file takes images
    assert said["input"]["channels"] == "RGB"


ANCHORS = dict(
    anchor_generator=dict(
        type="AnchorGenerator",
        octave_base_scale=4,
        scales_per_octave=1,
        ratios=[0.5, 1.0],
        strides=[8, 16],
    ),
)
FOCAL = dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
QUALITY = dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0)
POINTS = dict(scales_per_octave=1, ratios=[1.0])
HEADS = {
    "RetinaHead": dict(loss_cls=FOCAL, **ANCHORS),
    "ATSSHead": dict(
        loss_cls=FOCAL,
        anchor_generator=ANCHORS["anchor_generator"] | POINTS,
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_stds=(0.1, 0.1, 0.2, 0.2)),
    ),
    "GFLHead": dict(loss_cls=QUALITY, anchor_generator=ANCHORS["anchor_generator"] | POINTS),
    "FCOSHead": dict(strides=[8, 16], regress_ranges=((-1, 64), (64, 1e8))),
    "RTMDetSepBNHead": dict(
        anchor_generator=dict(type="MlvlPointGenerator", offset=0, strides=[8, 16]),
        bbox_coder=dict(type="DistancePointBBoxCoder"),
        loss_cls=QUALITY,
        norm_cfg=dict(type="BN"),
    ),
    "YOLOFHead": dict(
        loss_cls=FOCAL,
        anchor_generator=ANCHORS["anchor_generator"] | dict(strides=[8]),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", add_ctr_clamp=True, ctr_clamp=32),
    ),
    "YOLOXHead": dict(strides=[8, 16]),
}
DISTANCES = ("FCOSHead", "RTMDetSepBNHead")


def mmdet_head(name):
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet")
    cfg = dict(
        nms_pre=40,
        min_bbox_size=4,
        score_thr=0.1,
        nms=dict(type="nms", iou_threshold=0.4),
        max_per_img=20,
    )
    sizes = dict(num_classes=3, in_channels=32, feat_channels=32, stacked_convs=1)
    if name == "YOLOFHead":
        sizes = dict(num_classes=3, in_channels=32, num_cls_convs=1, num_reg_convs=1)
    return MODELS.build(dict(type=name, test_cfg=ConfigDict(cfg), **sizes, **HEADS[name])).eval()


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in HEADS if name != "YOLOXHead"])
def test_heads_of_mmdetection_select_as_they_do(name):
    head = mmdet_head(name)
    levels = [torch.zeros(2, 32, 8, 8), torch.zeros(2, 32, 4, 4)]
    shapes = head(levels[:1] if name == "YOLOFHead" else levels)
    groups = [[torch.randn_like(m) for m in group] for group in shapes]
    if name in DISTANCES:
        groups[1] = [m.abs() * 16 for m in groups[1]]  # distances in pixels
    chosen = Selection.of_head(head)
    found = select(*_traced_candidates(head, groups, 64, chosen.score_thr), 3, 0.4, 20)
    metas = [dict(img_shape=(64, 64))] * 2
    expected = head.predict_by_feat(*groups, batch_img_metas=metas)
    for boxes, scores, labels, theirs in zip(*found, expected, strict=True):
        count = len(theirs)
        assert count > 1 and (labels[count:] == -1).all()
        assert torch.equal(labels[:count], theirs.labels)
        assert torch.equal(scores[:count], theirs.scores)
        assert torch.allclose(boxes[:count], theirs.bboxes)


def test_a_head_that_selects_in_its_own_way_is_refused():
    with pytest.raises(ValueError, match="YOLOXHead selects detections in a way of its own"):
        Selection.of_head(mmdet_head("YOLOXHead"))


def test_tracing_leaves_mmdetections_module_as_it_is(monkeypatch):
    head = mmdet_head("RetinaHead")
    theirs = type(head)._predict_by_feat_single.__globals__
    before, meanwhile = dict(theirs), []
    decode = head.bbox_coder.decode

    def look(*args, **kwargs):
        meanwhile.append(theirs == before)
        return decode(*args, **kwargs)

    monkeypatch.setattr(head.bbox_coder, "decode", look)
    groups = head([torch.zeros(1, 32, 8, 8), torch.zeros(1, 32, 4, 4)])
    _traced_candidates(head, groups, 64, 0.0)
    assert meanwhile and all(meanwhile)


@pytest.fixture(scope="module")
def retinanet():
    """MMDetection's RetinaNet with random weights, whose scores are all 1.0 in float32."""
    subject = load_named(ROOT / "configs" / "resnet10t_retinanet.py", "e2e", 100)
    return subject.detector


@pytest.mark.slow
def test_retinanet_of_equal_scores_at_a_size_that_its_training_pads(retinanet, tmp_path):
    path, letterbox = tmp_path / "r.onnx", Letterbox.from_config(retinanet.cfg, 100)
    checked = export_end_to_end(retinanet, path, letterbox, options=FileOptions(batch=None))
    assert checked.detections == 400 and checked.error < 1e-4
    (images,) = onnxruntime.InferenceSession(path).get_inputs()
    assert images.shape == ["batch", 3, 100, 100]


def test_logits_in_the_place_of_equal_ones_differ(retinanet):
    part = NetworkPart(retinanet, 64).eval()
    with torch.no_grad():
        maps = part(torch.zeros(2, 3, 64, 64))
    scores, boxes = part.grouped(_distinct(part, maps))
    flat = torch.cat([level.flatten() for level in scores]).sigmoid()
    assert len(flat.unique()) == len(flat)
    assert all(map(torch.equal, boxes, part.grouped(maps)[1]))
    assert _tied(torch.ones(1, 9)) and not _tied(flat[None]) and not _tied(torch.zeros(1, 9))


def test_images_for_the_check_need_filling(detector):
    squares, metas = check_images(detector, Letterbox(64, pad_val=7), 3)
    assert squares.shape == (3, 3, 64, 64)
    for square, meta in zip(squares, metas, strict=True):
        height, width = meta["img_shape"]
        assert min(height, width) < 64
        assert (square[:, height:] == 7).all() and (square[:, :, width:] == 7).all()


@pytest.mark.slow
def test_a_threshold_that_nothing_exceeds_is_checked_at_zero(detector, tmp_path):
    letterbox = Letterbox(64, pad_val=7)
    selection = Selection.of_head(detector.bbox_head, score_thr=0.9999)
    checked = export_end_to_end(detector, tmp_path / "d.onnx", letterbox, selection)
    assert checked.detections == 100 and checked.score_thr == 0.0


@pytest.mark.slow
def test_another_selection_than_pythons_is_not_written(detector, tmp_path, monkeypatch):
    def other(boxes, scores, labels, classes, nms_iou, count):
        return onnx_select(boxes, scores, labels, classes, 0.05, count)

    monkeypatch.setattr("prunet_det.detection.export.onnx_select", other)
    with pytest.raises(InputError, match="does not find what the detector does at batch 1"):
        export_end_to_end(detector, tmp_path / "d.onnx", Letterbox(128))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("values", [dict(plugin=True), dict(precision="fp16", batch=None)])
def test_other_files(detector, values, tmp_path):
    path = tmp_path / "d.onnx"
    letterbox, options = Letterbox(64), FileOptions(**values)
    assert export_end_to_end(detector, path, letterbox, None, options).detections > 10
    model = onnx.load(path)
    assert [o.name for o in model.graph.output] == ["boxes", "scores", "labels"]
    plugins = [n for n in model.graph.node if n.op_type == "EfficientNMS_TRT"]
    assert len(plugins) == options.plugin
    if plugins:
        said = {a.name: onnx.helper.get_attribute_value(a) for a in plugins[0].attribute}
        assert said["max_output_boxes"] == 100 and said["box_coding"] == 0
        assert said["score_threshold"] == pytest.approx(0.01)
    else:  # the network in half precision, what is around it in single
        types = {w.data_type for w in model.graph.initializer if len(w.dims) == 4}
        assert types == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize("values", [dict(score_thr=1.5), dict(nms_iou=-0.1), dict(max_per_img=0)])
def test_impossible_selections_are_refused(detector, values):
    with pytest.raises(ValueError, match=f"{next(iter(values))} must"):
        Selection.of_head(detector.bbox_head, **values)
