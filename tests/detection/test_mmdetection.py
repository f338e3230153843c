"""MMDetection's own detectors on our backbones, from its own configs."""

from __future__ import annotations

from pathlib import Path

import mmdet
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.logging import MessageHub

import prunet_det.detection  # noqa: F401  (registers)
from prunet_det.detection import PruNet
from tests.conftest import ROOT, forget_runs

# Strides of the maps that a config's neck takes, by the config's path.
FOUR, THREE = (4, 8, 16, 32), (8, 16, 32)
DETECTORS = {
    "retinanet/retinanet_r50_fpn_1x_coco": FOUR,
    "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco": FOUR,
    "atss/atss_r50_fpn_1x_coco": FOUR,
    "gfl/gfl_r50_fpn_1x_coco": FOUR,
    "tood/tood_r50_fpn_1x_coco": FOUR,
    "rtmdet/rtmdet_tiny_8xb32-300e_coco": THREE,
    "yolox/yolox_tiny_8xb8-300e_coco": THREE,
    "yolof/yolof_r50-c5_8xb8-1x_coco": (32,),
    "faster_rcnn/faster-rcnn_r50_fpn_1x_coco": FOUR,
    "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco": FOUR,
    "mask_rcnn/mask-rcnn_r50_fpn_1x_coco": FOUR,
    "deformable_detr/deformable-detr_r50_16xb2-50e_coco": THREE,
    "dino/dino-4scale_r50_8xb2-12e_coco": THREE,
}


@pytest.fixture(autouse=True)
def _mmdetection():
    """Its scope is the default one here, and only here."""
    register_all_modules()
    yield
    forget_runs()


def model_cfg(name, **backbone):
    """A config's model with PruNet in the place of its backbone."""
    model = Config.fromfile(Path(mmdet.__file__).parent / ".mim/configs" / f"{name}.py").model
    model.backbone = dict(type="PruNet", arch="prunet_demo", **backbone)
    with torch.device("meta"):
        chs = list(MODELS.build(model.backbone).out_channels)
    neck = model.neck[0] if isinstance(model.neck, list) else model.neck
    neck.in_channels = chs[0] if len(chs) == 1 else chs
    return model


def shrink(model):
    """Fewer proposals, queries and hidden units, as there are fewer pixels."""
    if "num_queries" in model:
        model.num_queries = 100
        model.test_cfg.max_per_img = 100
    if "roi_head" in model:
        heads = model.roi_head.bbox_head
        for head in heads if isinstance(heads, list) else [heads]:
            head.fc_out_channels = 64
        model.train_cfg.rpn_proposal.max_per_img = model.test_cfg.rpn.max_per_img = 50


@pytest.mark.slow
@pytest.mark.parametrize(("name", "strides"), DETECTORS.items(), ids=lambda x: str(x).split("/")[0])
def test_builds_trains_a_step_and_predicts(name, strides):
    cfg = model_cfg(name, out_strides=strides)
    shrink(cfg)
    model = MODELS.build(cfg)
    model.init_weights()  # as a Runner does; some parameters hold nothing before
    for key in ("iter", "epoch", "max_iters", "max_epochs"):  # TOOD and YOLOX ask a Runner's hub
        MessageHub.get_current_instance().update_info(key, 0)
    data = demo_mm_inputs(2, [[3, 128, 128]] * 2, with_mask="mask" in name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    data = model.data_preprocessor(data, True)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    loss.backward()
    assert all(p.grad is not None for p in model.backbone.net.model.stages.parameters())
    optimizer.step()
    with torch.no_grad():
        found = model.eval().test_step(demo_mm_inputs(1, [[3, 128, 128]]))
    assert found[0].pred_instances.bboxes.shape[1] == 4


@pytest.mark.parametrize("kind", ["RetinaNet", "OneStageDetector"])
@pytest.mark.parametrize("arch", ["prunet_p0", "prunet_p1"])
def test_anchors_that_are_not_where_the_maps_are(kind, arch):
    """P0 and P1 give four maps by default, as many as a ResNet, of twice the strides."""
    model = model_cfg("retinanet/retinanet_r50_fpn_1x_coco")
    model.type, model.backbone.arch = kind, arch
    with torch.device("meta"):
        model.neck.in_channels = list(PruNet(arch).out_channels)
        sentence = r"strides 8, 16, 32, 64, 128, but the maps .* 16, 32, 64, 128, 256; give the"
        advised = [*FOUR, 64]  # all that there are
        with pytest.raises(ValueError, match=rf"{sentence} backbone out_strides=.*64\]") as refusal:
            MODELS.build(model)
        channels = list(PruNet(arch, out_strides=advised).out_channels)
        assert f"out_strides={advised}" in str(refusal.value)
        says_channels = f" and the neck in_channels={channels}" in str(refusal.value)
        assert says_channels == (kind == "RetinaNet"), "OneStageDetector finds them itself"
        for strides in (advised, FOUR):
            model.backbone.out_strides = strides
            model.neck.in_channels = channels[: len(strides)]
            MODELS.build(model)


@pytest.mark.parametrize(
    ("name", "strides", "advised"),
    [
        ("retinanet/retinanet_r50_fpn_1x_coco", (8, 16, 32), [4, 8, 16, 32]),
        ("guided_anchoring/ga-retinanet_r50_fpn_1x_coco", (8, 16, 32), [4, 8, 16, 32]),
        ("faster_rcnn/faster-rcnn_r50_fpn_1x_coco", (8, 16, 32), [4, 8, 16, 32]),
        ("rtmdet/rtmdet_tiny_8xb32-300e_coco", (4, 8, 16), [8, 16, 32]),
        ("rtmdet/rtmdet_tiny_8xb32-300e_coco", (16, 32), [8, 16]),
        ("yolof/yolof_r50-c5_8xb8-1x_coco", (16,), [32]),
    ],
)
def test_what_is_advised_builds(name, strides, advised):
    """And leaves out no deeper map that the neck can take."""
    model = model_cfg(name, out_strides=strides)
    with torch.device("meta"), pytest.raises(ValueError, match="is built for strides") as refusal:
        MODELS.build(model)
    fitting = model_cfg(name, out_strides=advised)
    advice = f"out_strides={advised} and the neck in_channels={fitting.neck.in_channels}."
    assert f"give the backbone {advice}" in str(refusal.value)
    with torch.device("meta"):
        assert MODELS.build(fitting).backbone.out_strides == tuple(advised)


def test_our_own_retinanet_is_advised_all_strides():
    model = Config.fromfile(ROOT / "configs" / "prunet_retinanet_coco.py").model
    model.backbone.out_strides = [16, 32]
    with torch.device("meta"):
        with pytest.raises(ValueError, match=r"backbone out_strides=\[8, 16, 32, 64\]\."):
            MODELS.build(model)
        model.backbone.out_strides = [8, 16, 32, 64]
        MODELS.build(model)


@pytest.mark.parametrize(
    "name",
    [
        "ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco",
        "carafe/faster-rcnn_r50_fpn-carafe_1x_coco",
        "htc/htc_r50_fpn_1x_coco",
        "dyhead/atss_r50-caffe_fpn_dyhead_1x_coco",
    ],
)
def test_what_cannot_be_compared_is_not_refused(name):
    """Maps of odd strides, extractors of other branches' maps, necks that need a real device."""
    cfg = model_cfg(name, out_strides=(16, 32) if "ssd" in name else FOUR)
    if "ssd" in name:  # its first maps are the backbone's own
        cfg.neck.out_channels = [*cfg.neck.in_channels, *cfg.neck.out_channels[2:]]
        cfg.bbox_head.in_channels = cfg.neck.out_channels
    shrink(cfg)
    assert MODELS.build(cfg).backbone.out_strides


def test_every_part_of_a_two_stage_detector_is_looked_at():
    name = "mask_rcnn/mask-rcnn_r50_fpn_1x_coco"
    with torch.device("meta"):
        with pytest.raises(ValueError, match=r"FasterRCNN's RPNHead is built for strides 4, 8"):
            model = model_cfg("faster_rcnn/faster-rcnn_r50_fpn_1x_coco", out_strides=(8, 16, 32))
            model.neck.num_outs = 5
            MODELS.build(model)
        model = model_cfg(name, out_strides=FOUR)
        model.roi_head.mask_roi_extractor.featmap_strides = [8, 16, 32, 64]
        with pytest.raises(ValueError, match=r"SingleRoIExtractor is built for strides 8, 16"):
            MODELS.build(model)
