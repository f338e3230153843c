"""PruNet and TimmBackbone under MMDetection's contract."""

from __future__ import annotations

import pytest
import torch
from mmdet.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunet_det.detection import PruNet, TimmBackbone

NORM_CLASSES = (_BatchNorm, nn.GroupNorm)
TYPES = {"BN": "BatchNorm", "SyncBN": "SyncBatchNorm", "GN": "GroupNorm"}

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


def parts_of(model):
    """The stem's modules, then those of each stage, of an ArchNet, an EfficientNet or a ResNet."""
    if hasattr(model, "stem"):
        return [[model.stem], *([stage] for stage in model.stages)]
    if hasattr(model, "conv_stem"):
        return [[model.conv_stem, model.bn1], *([stage] for stage in model.blocks)]
    return [[model.conv1, model.bn1], *([getattr(model, f"layer{i}")] for i in (1, 2, 3, 4))]


def parameters_of(part):
    return [p for module in part for p in module.parameters()]


def norms_of(part):
    return [m for module in part for m in module.modules() if isinstance(m, NORM_CLASSES)]


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "GN"])
@pytest.mark.parametrize("cfg", BACKBONES[:3], ids=lambda c: c.get("arch") or c["name"])
class TestFreezing:
    @pytest.mark.parametrize("frozen", [-1, 0, 2])
    def test_frozen_stages(self, cfg, norm, frozen):
        backbone = MODELS.build({**cfg, "norm_cfg": dict(type=norm), "frozen_stages": frozen})
        backbone.train()
        for i, part in enumerate(parts_of(backbone.net.model)):
            assert all(p.requires_grad == (i > frozen) for p in parameters_of(part)), i
            norms = norms_of(part)
            assert norms and all(type(m).__name__.startswith(TYPES[norm]) for m in norms)
            # A group norm is the same in both modes; a frozen batch norm must not gather.
            assert norm == "GN" or all(m.training == (i > frozen) for m in norms), i

    def test_norm_eval(self, cfg, norm):
        backbone = MODELS.build({**cfg, "norm_cfg": dict(type=norm), "norm_eval": True})
        backbone.train()
        batch_norms = [m for m in backbone.modules() if isinstance(m, _BatchNorm)]
        assert bool(batch_norms) == (norm != "GN")
        assert not any(m.training for m in batch_norms)
        assert all(p.requires_grad for p in backbone.parameters())
        backbone.eval()
        assert not backbone.training

    def test_conversion_keeps_names_weights_and_activations(self, cfg, norm):
        torch.manual_seed(3)
        plain = MODELS.build(cfg).eval()
        torch.manual_seed(3)
        other = MODELS.build({**cfg, "norm_cfg": dict(type=norm)}).eval()
        wanted, found = dict(plain.named_parameters()), dict(other.named_parameters())
        assert list(found) == list(wanted)
        assert all(torch.equal(found[k], wanted[k]) for k in wanted)
        x = torch.randn(1, 3, 64, 64)
        activations = [
            sum(isinstance(m, (nn.ReLU, nn.SiLU, nn.Sigmoid)) for m in b.modules())
            for b in (plain, other)
        ]
        assert activations[0] == activations[1]
        for a, b in zip(plain(x), other(x), strict=True):
            assert torch.equal(a, b) == (norm != "GN")

    def test_every_trained_parameter_gets_a_gradient(self, cfg, norm):
        """So that DistributedDataParallel needs no find_unused_parameters."""
        if norm == "SyncBN":
            pytest.skip("SyncBN trains on GPUs only")
        backbone = MODELS.build({**cfg, "norm_cfg": dict(type=norm), "frozen_stages": 1}).train()
        sum(m.square().sum() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
        for name, p in backbone.named_parameters():
            assert (p.grad is not None) == p.requires_grad, name


def test_frozen_statistics_stay():
    backbone = PruNet("prunet_demo", frozen_stages=1).train()
    before = {k: v.clone() for k, v in backbone.state_dict().items() if "running_mean" in k}
    backbone(torch.randn(2, 3, 64, 64))
    after = backbone.state_dict()
    for key, value in before.items():
        frozen = ".stem." in key or ".stages.0." in key
        assert torch.equal(value, after[key]) == frozen, key


def test_a_converter_that_drops_activations_is_caught():
    backbone = nn.SyncBatchNorm.convert_sync_batchnorm(TimmBackbone("efficientnet_b0"))
    with pytest.raises(ValueError, match=r"dropped the activation in model\.bn1.*SyncBN"):
        backbone.train()
    nn.SyncBatchNorm.convert_sync_batchnorm(PruNet("prunet_demo")).train()


@pytest.mark.parametrize(
    ("norm_cfg", "sentence"),
    [
        (dict(type="LN"), "must be one of BN, SyncBN, GN, got 'LN'"),
        (dict(type="BN", group=2), "takes no 'group'"),
        ({}, "got None"),
    ],
)
def test_unknown_norms(norm_cfg, sentence):
    with pytest.raises(ValueError, match=sentence):
        PruNet("prunet_demo", norm_cfg=norm_cfg)


def test_nothing_to_convert():
    with pytest.raises(ValueError, match="has no batch norms to turn into GN"):
        TimmBackbone("convnext_atto", norm_cfg=dict(type="GN"))


def test_checkpointing_that_a_network_lacks():
    with pytest.raises(ValueError, match="with_cp does not fit VGG"):
        TimmBackbone("vgg11_bn", with_cp=True)


def test_norms_without_gradient():
    backbone = PruNet("prunet_demo", norm_cfg=dict(type="BN", requires_grad=False))
    for name, p in backbone.named_parameters():
        assert p.requires_grad == (".bn." not in name), name


def test_checkpoint_is_counted(tmp_path, caplog):
    caplog.set_level("INFO", "prunet_det")
    import prunet_det
    from prunet_det.zoo.weights import save_safetensors

    net = prunet_det.create("prunet_demo", num_classes=3)
    save_safetensors(net.state_dict(), tmp_path / "w.safetensors")
    backbone = PruNet("prunet_demo", checkpoint=tmp_path / "w.safetensors")
    assert torch.equal(backbone.net.model.stem[0].conv.weight, net.stem[0].conv.weight)
    assert "backbone tensors from" in caplog.text


@pytest.mark.parametrize("cfg", BACKBONES[:2], ids=lambda c: c["type"])
def test_drop_path(cfg):
    from timm.layers import DropPath

    rates = [
        [m.drop_prob for m in MODELS.build({**cfg, **args}).modules() if isinstance(m, DropPath)]
        for args in ({}, {"drop_path_rate": 0.2})
    ]
    assert not any(rates[0]) and rates[1] == sorted(rates[1]) and 0.1 < rates[1][-1] < 0.2


def test_init_cfg():
    cfg = dict(type="Constant", layer="Conv2d", val=0.5)
    backbone = PruNet("prunet_demo", init_cfg=cfg)
    backbone.init_weights()
    assert (backbone.net.model.stem[0].conv.weight == 0.5).all()
    for pretrained in (dict(type="Pretrained", checkpoint="x.pth"), [cfg, dict(type="Pretrained")]):
        with pytest.raises(ValueError, match="would unpickle .* model.backbone.checkpoint="):
            PruNet("prunet_demo", init_cfg=pretrained)


@pytest.mark.parametrize("cfg", BACKBONES[:2], ids=lambda c: c["type"])
def test_with_cp_changes_nothing(cfg):
    plain, checkpointed = MODELS.build(cfg), MODELS.build({**cfg, "with_cp": True})
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
