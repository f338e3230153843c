"""Kernels by formula and by trace: the same, and counted as independent counters count."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import prunet_det
from prunet_det.latency import spec_kernels, trace
from tests.conftest import ROOT, published_counts
from tests.zoo.networks import representatives


def unnamed(kernels):
    return [replace(k, name="") for k in kernels]


@pytest.mark.parametrize("row", published_counts(), ids=lambda r: r["model"])
def test_counts_equal_the_originals(row):
    spec = prunet_det.load_spec(row["model"].lower().replace("-", "_"))
    kernels = spec_kernels(spec, int(row["resolution"]), "classifier")
    assert sum(k.params for k in kernels) == int(row["params"])
    assert sum(k.macs for k in kernels) == int(row["macs_total"])


@pytest.mark.parametrize("name", representatives())
def test_a_trace_gives_the_formulas_kernels(name):
    spec = prunet_det.load_spec(name)
    with torch.device("meta"):
        net = prunet_det.create(spec)
    found = trace(net, (3, spec.input_size, spec.input_size))
    assert unnamed(found.kernels) == unnamed(spec_kernels(spec, spec.input_size, "classifier"))
    assert found.unknown == {} and found.params == sum(k.params for k in found.kernels)


@pytest.mark.parametrize("name", ["prunet_p0", "gpunet_0", "prunet_demo"])
@pytest.mark.parametrize("size", [(512, 512), (333, 517)], ids=str)
def test_a_traced_backbone_gives_the_formulas_kernels(name, size):
    with torch.device("meta"):
        net = prunet_det.create(name, features_only=True, padding="same")
    found = trace(net, (3, *size))
    spec = prunet_det.load_spec(name)
    assert unnamed(found.kernels) == unnamed(spec_kernels(spec, size, "backbone"))


def flops(module, shape):
    module = module.eval().to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.empty(1, *shape, device="meta"))
    return counter.get_total_flops()


# Grouped and depthwise convolutions, squeeze-and-excitation, concatenations, aggregations, other
# norms and activations.
CONVOLUTIONAL = "regnety_002 mobilenetv3_small_050 dla34 ghostnet_050 convnext_atto cspresnet50"


@pytest.mark.parametrize("name", CONVOLUTIONAL.split())
def test_macs_and_parameters_of_other_networks(name):
    with torch.device("meta"):
        module = timm.create_model(name)
    found = trace(module, (3, 224, 224))
    assert found.unknown == {}
    assert found.params == sum(p.numel() for p in module.parameters())
    assert 2 * found.macs == flops(module, (3, 224, 224))


def test_a_whole_detector():
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    import prunet_det.detection  # noqa: F401

    init_default_scope("mmdet")
    cfg = Config.fromfile(ROOT / "configs" / "prunet_effdet.py")
    with torch.device("meta"):
        detector = MODELS.build({**cfg.model, "data_preprocessor": None})
    found = trace(detector, (3, 256, 256))
    assert found.unknown == {}
    assert found.params == sum(p.numel() for p in detector.parameters())
    assert 2 * found.macs == flops(detector, (3, 256, 256))
    assert {"resize", "pool", "depthwise"} <= {k.kind for k in found.kernels}


class Odd(nn.Module):
    def forward(self, x):
        return torch.cumsum(x, 1) + torch.relu(x)


def test_unknown_operators_are_listed():
    found = trace(Odd(), (3, 8, 8))
    assert found.unknown == {"cumsum": 1}


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_cannot_be_traced_is_said():
    with pytest.raises(ValueError, match=r"Branching cannot be traced by torch\.export"):
        trace(Branching(), (3, 8, 8))


def test_tracing_leaves_the_network_alone():
    net = prunet_det.create("prunet_demo").train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    trace(net, (3, 64, 64))
    assert net.training and next(net.parameters()).device.type == "cpu"
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_refusals():
    spec = prunet_det.load_spec("gpunet_0")
    with pytest.raises(ValueError, match="scope must be classifier or backbone here"):
        spec_kernels(spec, 512, "detector")
    with pytest.raises(ValueError, match="is too small for gpunet_0"):
        spec_kernels(spec, 8, "classifier")
