"""Networks traced, exported, compiled, rewritten by FX and in channels-last equal eager."""

from __future__ import annotations

import pytest
import timm
import torch
from torchvision.models.feature_extraction import create_feature_extractor

from tests.zoo.networks import representatives

each_kind = pytest.mark.parametrize("name", representatives())


def network(name):
    """A network in eval mode whose batch norms have seen something, and a batch."""
    model = timm.create_model(name, num_classes=5)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.7, 1.3)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.7, 1.3)
    return model.eval(), torch.randn(2, 3, 72, 96)


def close(a, b):
    return torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


@each_kind
@torch.no_grad()
def test_traced(name):
    model, x = network(name)
    traced = torch.jit.trace(model, x, check_trace=False)  # the lines below check it
    assert close(traced(x), model(x))
    other = torch.randn(1, 3, 96, 64)
    assert close(traced(other), model(other))


@pytest.mark.parametrize("name", ["prunet_demo", "gpunet_0", "gpunet_d1"])
@torch.no_grad()
def test_exported_with_any_batch(name):
    """Each kind of tail; the backbones are exported in tests/runtime/test_onnx.py."""
    model, x = network(name)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: batch},)).module()
    assert close(exported(x), model(x))
    more = torch.randn(3, 3, 72, 96)
    assert close(exported(more), model(more))


@each_kind
@torch.no_grad()
def test_rewritten_by_fx(name):
    model, x = network(name)
    assert close(torch.fx.symbolic_trace(model)(x), model(x))
    last = model.feature_info[-1]["module"]
    (found,) = create_feature_extractor(model, {last: "map"})(x).values()
    assert close(found, model.forward_intermediates(x)[1][-1])


@each_kind
@torch.no_grad()
def test_channels_last(name):
    model, x = network(name)
    plain = model(x)
    model = model.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    assert close(model(x), plain)
    map_ = model.forward_intermediates(x)[1][1]
    assert map_.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["prunet_demo", "gpunet_d2"])
@torch.no_grad()
def test_compiled_graph(name):
    """The whole network is one graph for torch.compile."""
    model, x = network(name)
    torch.compiler.reset()
    assert close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))
