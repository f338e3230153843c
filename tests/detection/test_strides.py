"""Names of a network's outputs: the strides of the anchors, whatever the size of the images."""

from __future__ import annotations

import pytest
import torch
from mmdet.registry import MODELS

from prunet_det.detection.build import NetworkPart
from tests.detection.test_detector import detector_cfg

POINTS = dict(type="MlvlPointGenerator", offset=0, strides=[8, 16, 32])
PARTS = {
    "EfficientDetHead": {},
    "RTMDetSepBNHead": dict(
        neck=dict(type="FPN", out_channels=8, num_outs=3),
        bbox_head=dict(
            type="RTMDetSepBNHead", num_classes=3, in_channels=8, feat_channels=8, stacked_convs=1,
            with_objectness=False, anchor_generator=POINTS, norm_cfg=dict(type="BN"),
            bbox_coder=dict(type="DistancePointBBoxCoder"), loss_cls=dict(type="QualityFocalLoss"),
        ),
    ),
    # It lays points of its own, and says no strides.
    "CenterNetHead": dict(
        backbone=dict(type="ResNet", depth=18),
        neck=dict(
            type="CTResNetNeck", in_channels=512, num_deconv_filters=(8, 8, 8),
            num_deconv_kernels=(4, 4, 4), use_dcn=False,
        ),
        bbox_head=dict(type="CenterNetHead", in_channels=8, feat_channels=8, num_classes=3),
    ),
}  # fmt: skip
EXPECTED = {
    "EfficientDetHead": [8, 16, 32, 64, 128],
    "RTMDetSepBNHead": [8, 16, 32],
    "CenterNetHead": [4],
}


@pytest.mark.parametrize("size", [16, 200, 256, 321])
@pytest.mark.parametrize("name", PARTS)
def test_names_are_the_anchors_strides_at_every_size(name, size):
    cfg = {**detector_cfg(), **PARTS[name]}
    if cfg["backbone"]["type"] == "ResNet":
        cfg["type"] = "CenterNet"
    detector = MODELS.build(cfg).eval()
    part = NetworkPart(detector, size)
    with torch.no_grad():
        outputs = part(torch.zeros(1, 3, size, size))
    strides = EXPECTED[name]
    groups = len(outputs) // len(strides)
    names = [f"{g}_stride{s}" for g in ("scores", "boxes", "centerness")[:groups] for s in strides]
    assert list(part.output_names) == names
    assert [len(group) for group in part.grouped(outputs)] == [len(strides)] * groups
