"""Whole effdet detectors in ours: outputs and decoded detections."""

from __future__ import annotations

import pytest
import torch
from mmdet.registry import MODELS

effdet = pytest.importorskip("effdet", reason="effdet is the peer that these are compared with")
from effdet import DetBenchPredict, EfficientDet, get_efficientdet_config  # noqa: E402

from prunet_det.detection.effdet_weights import (  # noqa: E402
    convert_state,
    detector_config,
    load_effdet,
)
from prunet_det.zoo.weights import CheckpointError  # noqa: E402


@pytest.fixture(scope="module", params=["efficientdet_d0", "tf_efficientdet_d0"])
def pair(request):
    """effdet's detector and ours with its weights; prediction layers re-drawn to spread scores."""
    torch.manual_seed(0)
    config = get_efficientdet_config(request.param)
    config.backbone_args = config.backbone_args or {}
    config.image_size = (256, 256)
    theirs = EfficientDet(config, pretrained_backbone=False).eval()
    for name, weights in theirs.named_parameters():
        if "edge_weights" in name:  # some of them negative, which fusion counts as none
            torch.nn.init.uniform_(weights, -0.2, 1.0)
    for net, spread in ((theirs.class_net, 2.5), (theirs.box_net, 0.3)):
        predict = net.predict.conv_pw
        torch.nn.init.normal_(predict.weight)
        torch.nn.init.zeros_(predict.bias)
        with torch.no_grad():
            outputs = net(theirs.fpn(theirs.backbone(torch.randn(2, 3, 256, 256))))
            flat = torch.cat([o.transpose(0, 1).flatten(1) for o in outputs], dim=1)
            predict.weight *= spread / flat.std()
            predict.bias -= flat.mean(dim=1) * spread / flat.std()
    ours = MODELS.build(detector_config(config)).eval()
    assert load_effdet(ours, theirs.state_dict()) == len(theirs.state_dict())
    return theirs, ours


def close(a, b):
    return torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


@torch.no_grad()
def test_outputs(pair):
    theirs, ours = pair
    for _ in range(3):
        images = torch.randn(1, 3, 256, 256)
        (scores, deltas), (their_scores, their_deltas) = ours(images), theirs(images)
        spread = torch.cat([s.flatten() for s in their_scores]).sigmoid()
        assert spread.min() < 0.05 and spread.max() > 0.95
        for a, b in zip(scores, their_scores, strict=True):
            assert close(a, b)
        for a, b in zip(deltas, their_deltas, strict=True):
            b = b.unflatten(1, (-1, 4))[:, :, [1, 0, 3, 2]].flatten(1, 2)
            assert close(a, b)


@torch.no_grad()
def test_decoded_detections_match_as_sets(pair):
    theirs, ours = pair
    images = torch.randn(2, 3, 256, 256)
    info = dict(img_scale=torch.ones(2), img_size=torch.full((2, 2), 256.0))
    expected = DetBenchPredict(theirs).eval()(images, info)
    found = ours.bbox_head.predict_by_feat(
        *ours(images), batch_img_metas=[dict(img_shape=(256, 256))] * 2
    )
    for ours_i, theirs_i in zip(found, expected, strict=True):
        assert len(ours_i) == len(theirs_i)
        left = list(range(len(theirs_i)))
        for box, score, label in zip(ours_i.bboxes, ours_i.scores, ours_i.labels, strict=True):
            match = [
                j
                for j in left
                if int(theirs_i[j, 5]) - 1 == int(label)
                and abs(theirs_i[j, 4] - score) < 1e-4
                and (theirs_i[j, :4] - box).abs().max() < 0.01
            ]
            assert match, (box, score, label)
            left.remove(match[0])


def test_unknown_names_and_other_networks_are_refused(pair):
    theirs, ours = pair
    state = dict(theirs.state_dict())
    with pytest.raises(CheckpointError, match="'head.weight' is no name"):
        convert_state({**state, "head.weight": torch.zeros(1)}, ours)
    state.pop("fpn.cell.0.fnode.0.combine.edge_weights")
    with pytest.raises(CheckpointError, match="edge_weights is missing"):
        convert_state(state, ours)


def test_what_does_not_convert_is_said():
    config = get_efficientdet_config("tf_efficientdet_lite0")
    with pytest.raises(ValueError, match="tf_efficientdet_lite0 has"):
        detector_config(config)
