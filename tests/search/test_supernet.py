"""Paths and mixtures of a supernet."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from prunet_det.arch.blocks import Block
from prunet_det.arch.network import reestimate_norms
from prunet_det.arch.spec import BlockSpec, Provenance
from prunet_det.search.shapes import Shapes
from prunet_det.search.supernet import (
    Mixture,
    Path,
    Prunode,
    SuperNet,
    as_product,
    drop_parameters,
    leading,
)
from tests.dispatched import dispatched

BLOCKS = [
    BlockSpec("irb", 8, 12, stride=2, hidden=32),
    BlockSpec("irb", 8, 8, kernel=5, hidden=32, act="silu", se=2),
    BlockSpec("fused_irb", 8, 8, hidden=32),
    BlockSpec("fused_irb", 8, 12, kernel=5, stride=2, hidden=32, se=2),
]
HAND = Provenance("hand-written", {"reason": "a test"})


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def plain(node: Prunode, hidden: int) -> nn.Module:
    """The block that a Prunode's first channels are, with the implementation of networks."""
    block = Block(dataclasses.replace(node.spec, hidden=hidden))
    for name, tensor in block.state_dict().items():
        tensor.copy_(leading(node.block.state_dict()[name], tensor))
    block.has_residual = False
    return block


def learned(space, classes=5):
    """A supernet in which every residual branch does something."""
    torch.manual_seed(0)
    net = SuperNet(space, classes)
    for parameter in net.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return net


def mixture(space, small, large, share=0.5):
    counts = np.zeros((len(space.layers), max(len(la.operators) for la in space.layers)), int)
    for i, layer in enumerate(space.layers):
        counts[i, : len(layer.operators)] = 1
    weights = torch.from_numpy(counts / counts.sum(1, keepdims=True)).float()
    return Mixture(
        weights=weights,
        shares=torch.full(counts.shape, share),
        small=np.full(counts.shape, small),
        large=np.full(counts.shape, large),
    )


@pytest.mark.parametrize("spec", BLOCKS, ids=str)
def test_a_path_is_a_block_of_that_width(spec):
    node, x = Prunode(spec), images(4, 8, 9, 9)
    for width in (8, 24, 32):
        torch.testing.assert_close(node(x, width), plain(node, width)(x))


@pytest.mark.parametrize("spec", BLOCKS, ids=str)
def test_the_ends_of_a_mixture_of_widths_are_the_paths(spec):
    node, x = Prunode(spec), images(4, 8, 9, 9)
    for p, width in ((0.0, 8), (1.0, 24)):
        torch.testing.assert_close(node(x, 24, 8, torch.tensor(p)), plain(node, width)(x))


def test_a_gpu_computes_a_path_at_few_widths():
    greatest = 2048
    node = Prunode(BlockSpec("irb", 8, 8, hidden=greatest))
    widths = range(greatest // 8, greatest + 1)
    computed = {hidden: node.computed_width(hidden) for hidden in widths}
    assert all(hidden <= wide <= 1.4 * hidden for hidden, wide in computed.items())
    assert len(set(computed.values())) <= 9 and computed[greatest] == greatest


def test_a_pointwise_convolution_is_a_matrix_product():
    x, weight = images(2, 8, 5, 5).to(memory_format=torch.channels_last), images(12, 16, 1, 1)
    found = as_product(x, weight[:, :8])
    torch.testing.assert_close(found, nn.functional.conv2d(x, weight[:, :8]))
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_path_on_a_gpu_is_that_on_the_cpu(space, costs):
    shapes, net = Shapes(costs), learned(space).double()
    x, shape = images(8, 3, 32, 32).double(), shapes.random(np.random.default_rng(0), 0.2)
    path = Path(shape.operators, shapes.hidden(shape))
    expected = net(x, path)
    torch.testing.assert_close(net.cuda()(x.cuda(), path).cpu(), expected)


@pytest.mark.parametrize("spec", BLOCKS[::2], ids=str)
def test_two_widths_are_mixed_before_the_projections_batch_norm(spec):
    node, x = Prunode(spec), images(4, 8, 9, 9)
    small, large = plain(node, 8), plain(node, 24)
    mixed = [block.project.conv(block.spatial(block.expand(x))) for block in (small, large)]
    expected = plain(node, 24).project.bn(0.7 * mixed[0] + 0.3 * mixed[1])
    torch.testing.assert_close(node(x, 24, 8, torch.tensor(0.3)), expected)


def test_a_path_is_the_network_that_inherits_its_weights(space, costs):
    shapes, net = Shapes(costs), learned(space)
    x = images(8, 3, 32, 32)
    for shape in shapes.draw(np.random.default_rng(0), 0.2, 4):
        spec = space.to_spec(shape, "found", HAND, 256)
        found = net.inherit(spec, shape)
        found.train()
        torch.testing.assert_close(net(x, Path(shape.operators, shapes.hidden(shape))), found(x))
        reestimate_norms(found, [x])
        statistics = found.conv_head.bn.running_mean  # of the first batch, not of a mixture
        assert not torch.equal(statistics, torch.zeros_like(statistics))


def test_a_pass_changes_nothing_of_the_supernet(space, costs):
    shapes, net = Shapes(costs), learned(space)
    before = copy.deepcopy(net.state_dict())
    shape = shapes.random(np.random.default_rng(0), 0.2)
    for _ in range(2):
        net(images(2, 3, 32, 32), Path(shape.operators, shapes.hidden(shape)))
        net(images(2, 3, 32, 32), mixture(space, 8, 16))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_a_mixture_of_one_candidate_a_layer_is_its_path(space):
    net, x = learned(space), images(4, 3, 32, 32)
    net.restructure([[1 if len(layer.operators) > 1 else 0] for layer in space.layers])
    first = [int(next(iter(layer.candidates))) for layer in net.layers.values()]
    path = net(x, Path(first, [16] * len(first)))
    torch.testing.assert_close(net(x, mixture(space, 8, 16, share=1.0)), path)


def test_a_mixture_adds_up_candidates_and_shortcuts_by_their_weights(space):
    net, x = learned(space), images(2, 16, 8, 8)
    i = next(i for i, layer in enumerate(space.layers) if (layer.stage, layer.index) == (1, 1))
    mix = mixture(space, 8, 24, share=1.0)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    mix.weights[i, :4] = weights
    paths = [net.layers[str(i)].path(x, j, 24) for j in range(4)]
    expected = sum(w * path for w, path in zip(weights, paths, strict=True))
    torch.testing.assert_close(net.layers[str(i)](x, mix, i), expected)


def test_all_weights_are_reached_by_paths(space, costs):
    shapes, net = Shapes(costs), learned(space)
    tops = shapes.counts - 1
    for shape in shapes.fair(np.random.default_rng(0), 4, (0.1, 9.0), shapes.counts > 0):
        for i, layer in enumerate(space.layers):
            j = shape.operators[i] if shape.operators[i] >= 0 else 0
            x = images(2, layer.in_chs, 8, 8)
            hidden = layer.widths_of(layer.operators[j])[tops[i, j]]
            net.layers[str(i)].path(x, j, hidden).sum().backward()
    for layer in net.layers.values():
        for candidate in layer.candidates.values():
            gradients = [p.grad is not None for p in candidate.parameters()]
            assert all(gradients) or not any(gradients)


def test_what_leaves_leaves_the_optimizer_with_its_moments(space):
    net = SuperNet(space, 5)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for p in net.parameters():
        p.grad = torch.rand_like(p)
    optimizer.step()
    structure = net.structure()
    structure[1] = structure[1][:-1]
    structure[2] = []
    net.restructure(structure)
    assert net.structure() == structure
    drop_parameters(optimizer, net.parameters())
    left = set(net.parameters())
    assert {p for group in optimizer.param_groups for p in group["params"]} == left
    assert set(optimizer.state) == left
    net.restructure(structure)  # what is gone is gone
    assert net.structure() == structure
    optimizer.step()


def test_a_path_dispatches_a_small_part_of_a_mixture(space, costs):
    shapes, net = Shapes(costs), learned(space)
    x = images(2, 3, 32, 32)
    full = [0 if len(layer.operators) == 1 else 1 for layer in space.layers]

    def step(choice):
        return sum(dispatched(lambda: net(x, choice).sum().backward()).values())

    path = step(Path(full, [16] * len(full)))
    assert path < 0.25 * step(mixture(space, 8, 16))
    assert shapes.space is space
