"""Kernels by formula and by trace: the same, and counted as independent counters count."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import prunet_det
from prunet_det import BlockSpec
from prunet_det.latency import spec_kernels, trace
from prunet_det.latency.fusion import fusion_of
from prunet_det.latency.kernels import block_kernels
from prunet_det.latency.record import Conditions
from prunet_det.runtime import RUNTIMES
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


def runtime(name, precision="fp16", threads=0):
    return fusion_of(Conditions(device="x", runtime=name, precision=precision, threads=threads))


FUSIONS = {name: runtime(name) for name in RUNTIMES} | {
    "on a CPU": runtime("channels_last", "fp32", 2)
}


@pytest.mark.parametrize("name", representatives())
def test_a_trace_gives_the_formulas_kernels(name):
    spec = prunet_det.load_spec(name)
    with torch.device("meta"):
        net = prunet_det.create(spec)
    found = trace(net, (3, spec.input_size, spec.input_size))
    assert unnamed(found.kernels) == unnamed(spec_kernels(spec, spec.input_size, "classifier"))
    assert found.unknown == {} and found.params == sum(k.params for k in found.kernels)


# Squeeze-and-excitation and SiLU; channels that are no multiple of 8; a tail with a hidden layer.
@pytest.mark.parametrize("fusion", FUSIONS.values(), ids=FUSIONS)
@pytest.mark.parametrize("name", ["prunet_demo", "gpunet_0", "gpunet_d1"])
def test_a_trace_gives_the_formulas_kernels_of_every_runtime(name, fusion):
    spec = prunet_det.load_spec(name)
    with torch.device("meta"):
        net = prunet_det.create(spec)
    found = trace(net, (3, 128, 128), fusion)
    expected = spec_kernels(spec, 128, "classifier", fusion=fusion)
    assert unnamed(found.kernels) == unnamed(expected)
    assert sum(k.params for k in expected) == found.params


RESIDUAL = BlockSpec("irb", 16, 16, hidden=64)
NAMES = {
    "tensorrt": "expand spatial project",
    "cuda_graph": "expand expand.bias expand.relu spatial spatial.bias spatial.relu "
    "project project.bias project.add",
    "compiled": "expand expand.relu spatial spatial.relu project project.add",
}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_runtime_launches_for_a_block(name):
    kernels = block_kernels(RESIDUAL, (32, 32), "b", runtime(name))
    assert [k.name.removeprefix("b.") for k in kernels] == NAMES[name].split()
    made = 16 * 32 * 32
    last = kernels[-1]  # writes the block's output, and reads what goes into the addition
    assert last.writes == made
    assert last.reads == made + (64 * 32 * 32 if name == "tensorrt" else made)


def test_channels_that_are_no_multiple_of_8_are_padded():
    odd = replace(RESIDUAL, in_chs=20, out_chs=24)
    kernels = block_kernels(odd, (32, 32), "b", runtime("cuda_graph"))
    pads = [(k.name, k.reads, k.writes) for k in kernels if k.kind == "copy"]
    assert pads == [
        ("b.expand.pad_input", 20 * 1024, 24 * 1024),
        ("b.expand.pad_weight", 20 * 64 + 64, (20 * 64 + 64) // 20 * 24),
    ]
    for other in (runtime("tensorrt"), runtime("cuda_graph", "fp32")):
        assert all(k.kind != "copy" for k in block_kernels(odd, (32, 32), "b", other))
    image = BlockSpec("conv", 3, 24, stride=2)
    kinds = [k.kind for k in block_kernels(image, (64, 64), "b", runtime("cuda_graph"))]
    assert kinds == ["dense", "elementwise", "elementwise"]


def test_unknown_runtimes():
    with pytest.raises(ValueError, match="no runtime 'warp'; the known ones are eager"):
        runtime("warp")


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
