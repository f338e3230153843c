"""Whole effdet detectors in ours: outputs and decoded detections."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS

effdet = pytest.importorskip("effdet", reason="effdet is the peer that these are compared with")
from effdet import DetBenchPredict, EfficientDet, get_efficientdet_config  # noqa: E402

from prunet_det.detection.effdet_weights import (  # noqa: E402
    convert_checkpoint,
    convert_state,
    detector_config,
)
from prunet_det.detection.letterbox import Letterbox  # noqa: E402
from prunet_det.inference.load import find_training  # noqa: E402
from prunet_det.training.records import read_classes  # noqa: E402
from prunet_det.training.start import Start  # noqa: E402
from prunet_det.utils.errors import UserError  # noqa: E402
from prunet_det.zoo.weights import CheckpointError  # noqa: E402


@pytest.fixture(
    scope="module", params=["efficientdet_d0", "tf_efficientdet_d0", "tf_efficientdet_d1"]
)
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
    ours.load_state_dict(convert_state(theirs.state_dict(), ours))
    return theirs, ours


def close(a, b):
    return torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


@torch.no_grad()
def test_every_part_gives_what_effdets_does(pair):
    """Each on its own, so that an error is not blamed on what comes after it."""
    theirs, ours = pair
    for _ in range(2):
        images = torch.randn(3, 3, 256, 256)
        their_features, features = theirs.backbone(images), ours.backbone(images)
        for a, b in zip(features, their_features, strict=True):
            assert close(a, b)
        their_pyramid, pyramid = theirs.fpn(their_features), ours.neck(features)
        for a, b in zip(pyramid, their_pyramid, strict=True):
            assert close(a, b)
        their_scores, their_deltas = theirs.class_net(their_pyramid), theirs.box_net(their_pyramid)
        scores, deltas = ours(images)
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


@pytest.mark.parametrize(
    ("name", "mean", "fill"),
    [
        ("tf_efficientdet_d0", 123.675, (104, 116, 124)),
        ("tf_efficientdet_d0_ap", 127.5, (0, 0, 0)),
    ],
)
def test_the_config_normalises_and_fills_up_as_effdet_does(name, mean, fill):
    config = get_efficientdet_config(name)
    config.backbone_args = config.backbone_args or {}
    state = EfficientDet(config, pretrained_backbone=False).state_dict()
    model, converted, letterbox = convert_checkpoint(name, state, coco80=False)
    assert model["data_preprocessor"]["mean"][0] == pytest.approx(mean)
    assert model["bbox_head"]["num_classes"] == 90
    assert letterbox["scale"] == (512, 512) and letterbox["pad_val"] == fill
    assert len(converted) == len(state)


@pytest.mark.parametrize(
    ("name", "state", "sentence"),
    [
        ("efficientdet_d99", {}, "has no model 'efficientdet_d99'.* tf_efficientdet_d0"),
        ("efficientdet_d0", {"conv.weight": torch.ones(1)}, "no effdet detector's"),
        (
            "tf_efficientdet_lite0",
            {"class_net.predict.conv_pw.bias": torch.zeros(810)},
            "tf_efficientdet_lite0 has.* converts",
        ),
    ],
)
def test_what_does_not_convert_is_said(name, state, sentence):
    with pytest.raises(UserError, match=sentence):
        convert_checkpoint(name, state)


def photograph_is_fed_as_by_effdet(cfg):
    """Through the config's pipeline and preprocessor, within one level of 255."""
    import skimage.data
    from effdet.data.transforms import ResizePad
    from mmcv.transforms import Compose
    from PIL import Image

    rgb = skimage.data.chelsea()  # 451 x 300
    pixels, _ = ResizePad((512, 512), fill_color=(124, 116, 104))(Image.fromarray(rgb), {})
    steps = cfg.test_dataloader.dataset.pipeline
    steps = [s for s in steps if not s.type.startswith("Load")]
    steps[-1].meta_keys = ("img_shape", "ori_shape", "scale_factor")
    loaded = dict(img=np.ascontiguousarray(rgb[..., ::-1]), ori_shape=rgb.shape[:2])
    packed = Compose(steps)(loaded)
    batch = dict(inputs=[packed["inputs"]], data_samples=[packed["data_samples"]])
    preprocess = MODELS.build(cfg.model.data_preprocessor)
    fed = preprocess(batch, False)["inputs"][0] * preprocess.std + preprocess.mean
    expected = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
    assert fed.shape == expected.shape and (fed - expected).abs().max() < 1
    assert packed["data_samples"].img_shape == (340, 512)  # 340.6, truncated


@torch.no_grad()
def test_the_tool_writes_weights_and_a_config(pair, tmp_path, here):
    from mmengine.config import Config
    from mmengine.registry import DefaultScope, init_default_scope

    from prunet_det.zoo.weights import load_all_weights

    theirs, ours = pair
    if theirs.config.name != "efficientdet_d0":
        pytest.skip("once is enough")
    torch.save(theirs.state_dict(), tmp_path / "in.pth")
    args = ("effdet", theirs.config.name, tmp_path / "in.pth", tmp_path / "out.safetensors")
    done = here("convert_weights", *args)
    assert done.returncode == 0, done.stderr
    assert "80 classes" in done.stdout
    cfg = Config.fromfile(tmp_path / "out.py")
    assert cfg.test_dataloader.dataset.type == "CocoFolder"
    letterbox = Letterbox.from_config(cfg)
    assert (letterbox.size, letterbox.antialias, letterbox.rounding) == (512, True, "floor")
    assert cfg.train_pipeline[2].crop_size == (512, 512)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        photograph_is_fed_as_by_effdet(cfg)
    init_default_scope(cfg.default_scope)
    written = MODELS.build(cfg.model).eval()
    load_all_weights(written, tmp_path / "out.safetensors")
    names = read_classes(tmp_path / "out.safetensors")
    assert len(names) == 80 and names[0] == "person" and names[-1] == "toothbrush"
    found = find_training(tmp_path / "out.safetensors")  # by its name alone
    assert found.config.filename == str(tmp_path / "out.py") and list(found.classes) == names
    images = torch.randn(1, 3, 256, 256)
    (scores, deltas), (all_scores, same_deltas) = written(images), ours(images)
    kept = [i - 1 for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    for a, b in zip(scores, all_scores, strict=True):
        assert close(a.unflatten(1, (9, 80)), b.unflatten(1, (9, 90))[:, :, kept])
    for a, b in zip(deltas, same_deltas, strict=True):
        assert close(a, b)


@torch.no_grad()
def test_a_training_starts_from_all_90_outputs(pair, tmp_path, here):
    """Rows of classes that the new data have too come along; they are found by COCO's ids."""
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    theirs, ours = pair
    if theirs.config.name != "efficientdet_d0":
        pytest.skip("once is enough")
    torch.save(theirs.state_dict(), tmp_path / "in.pth")
    args = ("effdet", theirs.config.name, tmp_path / "in.pth", tmp_path / "out.safetensors")
    assert here("convert_weights", *args, "--all-classes").returncode == 0
    cfg = Config.fromfile(tmp_path / "out.py")
    cfg.model.bbox_head.num_classes = 2
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    record = Start(model, cfg.model, tmp_path / "out.safetensors").load(["gadget", "toothbrush"])
    predict = [f"bbox_head.class_tower.predict.conv_pw.{part}" for part in ("weight", "bias")]
    assert record["initialised"] == predict and record["classes_kept"] == ["toothbrush"]
    rows = (m.state_dict()[predict[0]] for m in (model, ours))
    new, old = (r.unflatten(0, (9, -1)) for r in rows)
    assert torch.equal(new[:, 1], old[:, 89]), "COCO's toothbrush has the id 90"
