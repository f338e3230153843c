"""Networks as they are deployed: equal to the network, without batch norms, and apart from it."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

import prunet_det
from prunet_det.detection.build import NetworkPart, build_detector, image_size
from prunet_det.runtime.fold import deployed, folded_module, inference_graph
from prunet_det.runtime.outputs import as_tuple, relative_error
from tests.conftest import ROOT


def with_statistics(module):
    """The module with batch norms that are no identities."""
    generator = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor, low, high in (
                (norm.running_mean, -0.2, 0.2),
                (norm.running_var, 0.5, 2.0),
                (norm.weight.data, 0.7, 1.3),
                (norm.bias.data, -0.2, 0.2),
            ):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return module.eval()


def batch_norms(graph):
    called = [n for n in graph.graph.nodes if n.op == "call_function"]
    modules = [m for m in graph.modules() if isinstance(m, nn.BatchNorm2d)]
    return [n for n in called if "batch_norm" in str(n.target)] + modules


def shared_convolution():
    class Shared(nn.Module):
        """One convolution before two batch norms, as in EfficientDet's head."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, bias=True)
            self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2))

        def forward(self, x):
            return [norm(self.conv(x)) for norm in self.norms]

    return Shared()


def detector():
    model = build_detector(ROOT / "configs" / "prunet_effdet.py")
    size = image_size(model.cfg)
    return NetworkPart(model, size)


NETWORKS = {
    "prunet_demo": lambda: prunet_det.create("prunet_demo", num_classes=7),
    "gpunet_0": lambda: prunet_det.create("gpunet_0", features_only=True, padding="same"),
    "efficientnet_b0": lambda: timm.create_model("efficientnet_b0", num_classes=7),
    "shared": shared_convolution,
    "detector": detector,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_and_without_batch_norms(name):
    module = with_statistics(NETWORKS[name]())
    before = copy.deepcopy(module.state_dict())
    images = torch.randn(2, 3, 128, 128)
    graph = inference_graph(module, images, dynamic_batch=True)
    for batch in (images, images[:1], torch.cat([images, images])):
        with torch.no_grad():
            expected, found = as_tuple(module(batch)), as_tuple(graph(batch))
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))
    assert not batch_norms(graph)
    graph.half()  # what is done to the graph does not reach the network
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert all(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "detector"])
def test_folded_on_the_module_it_is_the_same_network(name):
    module = with_statistics(NETWORKS[name]())
    before = copy.deepcopy(module.state_dict())
    images = torch.randn(2, 3, 128, 128)
    graph = folded_module(module)
    with torch.no_grad():
        pairs = zip(as_tuple(module(images)), as_tuple(graph(images)), strict=True)
        errors = [relative_error(found, expected) for expected, found in pairs]
    assert max(errors) < 1e-5 and not batch_norms(graph)
    exported = inference_graph(module, images)
    convolutions = [n for n in exported.graph.nodes if "conv2d" in str(n.target)]
    assert len(convolutions) == sum(
        isinstance(graph.get_submodule(n.target), nn.Conv2d)
        for n in graph.graph.nodes
        if n.op == "call_module"
    )
    graph.half()
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert all(p.requires_grad for p in module.parameters())


def test_what_torch_fx_cannot_follow_is_exported():
    class Padded(nn.Module):
        """Pads an odd size, as TensorFlow does: Python that asks for the size."""

        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            if x.shape[-1] % 2:
                x = nn.functional.pad(x, (0, 1))
            return self.norm(self.conv(x))

    module = with_statistics(Padded())
    images = torch.randn(1, 3, 9, 9)
    assert folded_module(module) is None
    graph = deployed(module, images)
    torch.testing.assert_close(graph(images), module(images))
    assert not batch_norms(graph)


def test_a_norm_without_a_convolution_of_its_own_stays():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.conv(x)
            return x + self.norm(x)

    module = with_statistics(Both())
    images = torch.randn(1, 3, 8, 8)
    for graph in (inference_graph(module, images), folded_module(module)):
        torch.testing.assert_close(graph(images), module(images))
        assert batch_norms(graph)


def test_what_cannot_be_followed_is_an_error():
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="Branch cannot be exported: .*data-dependent"):
        inference_graph(Branch(), torch.randn(1, 3, 8, 8))
