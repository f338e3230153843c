"""PruNet and TimmBackbone under MMDetection's contract."""

from __future__ import annotations

import pytest
import torch
from mmdet.registry import MODELS
from torch import nn

from prunet_det.detection import PruNet, TimmBackbone

BACKBONES = [
    dict(type="PruNet", arch="prunet_demo"),
    dict(type="TimmBackbone", name="efficientnet_b0"),
    dict(type="TimmBackbone", name="resnet10t", out_strides=(8, 16, 32)),
    dict(type="TimmBackbone", name="dla34"),  # its first feature is not the first by default
]


@pytest.mark.parametrize("cfg", BACKBONES, ids=lambda c: c.get("arch") or c["name"])
def test_shapes_are_as_declared(cfg):
    backbone = MODELS.build(cfg).eval()
    assert backbone.out_strides == (8, 16, 32)
    maps = backbone(torch.zeros(1, 3, 96, 128))
    for m, chs, stride in zip(maps, backbone.out_channels, backbone.out_strides, strict=True):
        assert m.shape == (1, chs, 96 // stride, 128 // stride)


def test_p0_gives_stride_64_by_default():
    with torch.device("meta"):
        backbone = PruNet("prunet_p0")
    assert backbone.out_strides == (8, 16, 32, 64)
    assert backbone.out_channels == (96, 256, 704, 704)


def test_choosing_features():
    assert PruNet("prunet_demo", out_strides=(4, 32)).out_strides == (4, 32)
    assert PruNet("prunet_demo", out_indices=(1, -1)).out_strides == (4, 32)
    with pytest.raises(ValueError, match="no feature of stride 64; it has 2, 4, 8, 16, 32"):
        PruNet("prunet_demo", out_strides=(32, 64))
    with pytest.raises(ValueError, match="not both"):
        PruNet("prunet_demo", out_strides=(8,), out_indices=(2,))
    with pytest.raises(ValueError, match="has 5 features"):
        PruNet("prunet_demo", out_indices=(7,))


def test_arch_may_be_a_file_or_a_dict(tmp_path):
    from prunet_det import load_spec

    spec = load_spec("prunet_demo")
    spec.save(tmp_path / "arch.json")
    names = {n for n, _ in PruNet("prunet_demo").named_parameters()}
    for arch in (str(tmp_path / "arch.json"), spec.to_dict(), spec):
        assert {n for n, _ in PruNet(arch).named_parameters()} == names


@pytest.mark.parametrize("frozen", [-1, 0, 2])
def test_frozen_stages(frozen):
    backbone = PruNet("prunet_demo", frozen_stages=frozen)
    parts = [backbone.net.model.stem, *backbone.net.model.stages]
    for i, part in enumerate(parts):
        assert all(p.requires_grad == (i > frozen) for p in part.parameters()), i
    backbone.train()
    for i, part in enumerate(parts):
        norms = [m for m in part.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms and all(m.training == (i > frozen) for m in norms), i


def test_frozen_statistics_stay():
    backbone = PruNet("prunet_demo", frozen_stages=1).train()
    before = {k: v.clone() for k, v in backbone.state_dict().items() if "running_mean" in k}
    backbone(torch.randn(2, 3, 64, 64))
    after = backbone.state_dict()
    for key, value in before.items():
        frozen = ".stem." in key or ".stages.0." in key
        assert torch.equal(value, after[key]) == frozen, key


@pytest.mark.parametrize("sync", [False, True])
def test_norm_eval_holds_for_every_batch_norm(sync):
    backbone = PruNet("prunet_demo", norm_eval=True)
    if sync:
        backbone = nn.SyncBatchNorm.convert_sync_batchnorm(backbone)
    backbone.train()
    norms = [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms and not any(m.training for m in norms)
    assert all(isinstance(m, nn.SyncBatchNorm) for m in norms) == sync
    assert all(p.requires_grad for p in backbone.parameters())


def test_checkpoint_is_counted(tmp_path, capsys):
    import prunet_det
    from prunet_det.zoo.weights import save_safetensors

    net = prunet_det.create("prunet_demo", num_classes=3)
    save_safetensors(net.state_dict(), tmp_path / "w.safetensors")
    backbone = PruNet("prunet_demo", checkpoint=tmp_path / "w.safetensors")
    assert torch.equal(backbone.net.model.stem[0].conv.weight, net.stem[0].conv.weight)
    assert "backbone tensors from" in capsys.readouterr().out


def test_with_cp_changes_nothing():
    plain, checkpointed = PruNet("prunet_demo"), PruNet("prunet_demo", with_cp=True)
    checkpointed.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for a, b in zip(plain.train()(x), checkpointed.train()(x), strict=True):
        assert torch.allclose(a, b)


def test_refusals():
    with pytest.raises(ValueError, match=r"frozen_stages must lie in -1\.\.5"):
        PruNet("prunet_demo", frozen_stages=6)
    with pytest.raises(ValueError, match="timm has no model 'resnet9000'"):
        TimmBackbone("resnet9000")
    for name in ("vit_tiny_patch16_224", "hardcorenas_a"):
        with pytest.raises(ValueError, match=f"timm's {name} (cannot|does not) give"):
            TimmBackbone(name)
