"""timm's contract: shapes and names for every network of the zoo, arithmetic for every kind."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.layers import DropPath
from timm.models import group_parameters
from timm.optim.optim_factory import create_optimizer_v2

from prunet_det import load_spec, model_names
from tests.zoo.networks import on_meta, representatives

NAMES = model_names()
each_network = pytest.mark.parametrize("name", NAMES)
each_kind = pytest.mark.parametrize("name", representatives())


@each_network
@pytest.mark.parametrize("size", [(512, 512), (640, 640), (333, 517)], ids=str)
def test_published_sizes_follow_from_the_blocks(name, size):
    spec = load_spec(name)
    expected, at, stage_sizes = [], [-(-s // 2) for s in size], []
    for stage in spec.stages:
        for block in stage.blocks:
            if block.stride == 2 and block.padding == "valid":
                at = [(s - block.kernel) // 2 + 1 for s in at]
            else:
                at = [-(-s // block.stride) for s in at]
        stage_sizes.append(tuple(at))
    expected = [stage_sizes[i] for i, _, _ in spec.feature_stages()]
    model = on_meta(name, features_only=True)
    features = model(torch.empty(1, 3, *size, device="meta"))
    assert [tuple(f.shape[2:]) for f in features] == expected


@each_kind
def test_every_parameter_gets_a_finite_gradient(name):
    model = timm.create_model(name, num_classes=5).train()
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    for key, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), key
        assert p.grad.abs().sum() > 0 or "expand" in key or "project" in key or "se." in key, key


@each_kind
def test_checkpointing_changes_nothing(name):
    model = timm.create_model(name, num_classes=5).train()
    x = torch.randn(2, 3, 64, 64)
    runs = []
    model.stages[0][0].register_forward_pre_hook(lambda *_: runs.append(model.grad_checkpointing))
    results = []
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for enable in (False, True):
        model.load_state_dict(state)
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        y = model(x)
        y.square().sum().backward()
        gradients = {k: p.grad.clone() for k, p in model.named_parameters()}
        statistics = {k: v.clone() for k, v in model.named_buffers()}
        results.append((y.detach(), gradients, statistics))
    assert runs == [False, True, True], "the second run is in the backward pass"
    (plain, gradients, statistics), (again, again_gradients, again_statistics) = results
    assert torch.allclose(plain, again, atol=1e-5)
    for key, grad in gradients.items():
        assert torch.allclose(grad, again_gradients[key], atol=1e-4 * float(grad.abs().max())), key
    for key, value in statistics.items():
        assert torch.allclose(value, again_statistics[key], atol=1e-5), key
        if "num_batches" in key:
            assert value == again_statistics[key] == 1, key


@each_kind
def test_drop_rates(name):
    model = timm.create_model(name, num_classes=5, drop_rate=0.4, drop_path_rate=0.2)
    blocks = load_spec(name).blocks
    rates = {k: m.drop_prob for k, m in model.named_modules() if isinstance(m, DropPath)}
    residual = [b.kind != "conv" and b.stride == 1 and b.in_chs == b.out_chs for b in blocks]
    expected = [0.2 * (i + 2) / (len(blocks) + 2) for i, r in enumerate(residual) if r]
    assert list(rates.values()) == pytest.approx(expected)
    assert model.drop_rate == 0.4
    x = torch.randn(2, 3, 64, 64)
    plain = timm.create_model(name, num_classes=5)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(x), plain.eval()(x))
    features = model.forward_features(x)
    model.train()
    first, second = (model.forward_head(features) for _ in range(2))
    assert not torch.equal(first, second), "dropout draws anew"


@each_network
@pytest.mark.parametrize("chans", [1, 4])
def test_in_chans(name, chans):
    model = on_meta(name, in_chans=chans, num_classes=3)
    assert model(torch.empty(2, chans, 96, 96, device="meta")).shape == (2, 3)
    assert model.get_submodule(model.pretrained_cfg["first_conv"]).in_channels == chans


@each_kind
def test_pooling_and_heads(name):
    x = torch.empty(2, 3, 96, 96, device="meta")
    two_convs = load_spec(name).tail.hidden > 0
    for pool in ("avg", "max", "avgmax", "catavgmax"):
        if two_convs and pool == "catavgmax":
            with pytest.raises(ValueError, match="does not fit a tail with two convs"):
                on_meta(name, global_pool=pool)
            continue
        model = on_meta(name, num_classes=5, global_pool=pool)
        logits = model.forward_head(model.forward_features(x), pre_logits=True)
        assert logits.shape == (2, model.head_hidden_size * model.global_pool.feat_mult())
        assert model(x).shape == (2, 5)
    unpooled = on_meta(name, num_classes=0, global_pool="")
    assert unpooled(x).dim() == 4
    with pytest.raises(ValueError, match="a classifier needs pooling"):
        on_meta(name, num_classes=5, global_pool="")


@each_network
def test_data_config(name):
    spec = load_spec(name)
    model = on_meta(name)
    config = resolve_model_data_config(model)
    assert config["input_size"] == (3, spec.input_size, spec.input_size)
    assert config["crop_pct"] == spec.crop_pct and config["interpolation"] == "bicubic"
    assert config["mean"] == (0.485, 0.456, 0.406) and config["std"] == (0.229, 0.224, 0.225)
    assert model.get_submodule(model.pretrained_cfg["classifier"]) is model.get_classifier()


@each_network
def test_parameter_groups(name):
    model = on_meta(name)
    stages = len(load_spec(name).stages)
    for coarse in (True, False):
        groups = group_parameters(model, model.group_matcher(coarse=coarse))
        found = [n for names in groups.values() for n in names]
        assert sorted(found) == sorted(n for n, _ in model.named_parameters())
        assert all(n.startswith("stem") for n in groups[0])
        # Stem, stages (or their blocks), and the head.
        count = stages if coarse else sum(len(s.blocks) for s in load_spec(name).stages)
        assert len(groups) == count + 2
    create_optimizer_v2(model, "sgd", lr=0.1, layer_decay=0.9)


@each_network
def test_features_by_absolute_and_negative_index(name):
    info = on_meta(name, features_only=True).feature_info
    count = len(info.channels())
    for picks in ((0,), (-1,), (1, -1), tuple(range(count)), (count - 2, count - 1)):
        part = on_meta(name, features_only=True, out_indices=picks).feature_info
        assert part.channels() == [info.channels()[i] for i in picks]
        assert part.reduction() == [info.reduction()[i] for i in picks]


@each_network
def test_stop_early_and_intermediates_only(name):
    model = on_meta(name)
    x = torch.empty(1, 3, 128, 128, device="meta")
    final, maps = model.forward_intermediates(x)
    assert len(maps) == len(model.feature_info) and final.shape[1] == model.num_features
    (only,) = model.forward_intermediates(x, indices=[1], stop_early=True, intermediates_only=True)
    assert only.shape == maps[1].shape
    with pytest.raises(ValueError, match="output_fmt must be NCHW"):
        model.forward_intermediates(x, output_fmt="NLC")
