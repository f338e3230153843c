"""Blocks, layers and supernets whose choices are still open."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prunet_det.arch.blocks import Block
from prunet_det.arch.spec import BlockSpec
from prunet_det.search.cost_check import COUNTS, _Net, layer_space, saved_bytes, step_of
from prunet_det.search.layer import SKIP, LayerMixture, Part, SearchLayer
from prunet_det.search.old_supernet import SuperNet, rebind_optimizer
from prunet_det.search.prunode import Prunode, copy_leading

BLOCKS = [
    BlockSpec("irb", 8, 12, stride=2, hidden=32),
    BlockSpec("irb", 8, 8, kernel=5, hidden=32, act="silu", se=2),
    BlockSpec("fused_irb", 8, 8, hidden=32),
    BlockSpec("fused_irb", 8, 12, kernel=5, stride=2, hidden=32, se=2),
]


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def plain(node: Prunode, hidden: int) -> torch.nn.Module:
    """The block that a Prunode's first channels are, with the implementation of networks."""
    block = Block(dataclasses.replace(node.spec, hidden=hidden))
    copy_leading(node.block.state_dict(), block.state_dict())
    block.has_residual = False
    return block.train(node.training)


@pytest.mark.parametrize("spec", BLOCKS, ids=str)
@pytest.mark.parametrize("train", [False, True])
def test_one_path_is_a_block_of_that_width(spec, train):
    node = Prunode(spec).train(train)
    x = images(4, 8, 9, 9)
    for width in (8, 24, 32):
        expected = plain(node, width)(x)
        torch.testing.assert_close(node(x, (4, width)), expected)


@pytest.mark.parametrize("spec", BLOCKS[::2], ids=str)
def test_two_paths_are_mixed_before_the_projections_batch_norm(spec):
    node = Prunode(spec).eval()
    x, p = images(4, 8, 9, 9), torch.tensor(0.3)
    small, large = plain(node, 8), plain(node, 24)
    mixed = [block.project.conv(block.spatial(block.expand(x))) for block in (small, large)]
    expected = node.block.project.bn(0.7 * mixed[0] + 0.3 * mixed[1])
    torch.testing.assert_close(node(x, (8, 24), p), expected)


@pytest.mark.parametrize("spec", BLOCKS, ids=str)
def test_the_ends_of_the_mixture_are_the_paths(spec):
    node = Prunode(spec).eval()
    x = images(4, 8, 9, 9)
    for p, width in ((0.0, 8), (1.0, 24)):
        torch.testing.assert_close(node(x, (8, 24), torch.tensor(p)), plain(node, width)(x))


def test_the_share_gets_the_gradient_of_a_finite_difference():
    node = Prunode(BLOCKS[0]).double().eval()
    x, p = images(2, 8, 6, 6).double(), torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    node(x, (8, 24), p).square().sum().backward()
    with torch.no_grad():
        up, down = (node(x, (8, 24), p + e).square().sum() for e in (1e-5, -1e-5))
    assert p.grad.item() == pytest.approx(((up - down) / 2e-5).item(), rel=1e-5)


@pytest.mark.parametrize("spec", BLOCKS, ids=str)
def test_resizing_keeps_what_the_remaining_channels_do(spec):
    node = Prunode(spec).eval()
    x = images(4, 8, 9, 9)
    before = node(x, (8, 16), torch.tensor(0.5))
    old = set(map(id, node.parameters()))
    node.resize(16)
    assert node.spec.hidden == 16 and not old & set(map(id, node.parameters()))
    torch.testing.assert_close(node(x, (8, 16), torch.tensor(0.5)), before)
    with pytest.raises(ValueError, match="cannot grow"):
        node.resize(24)


class Devices(TorchDispatchMode):
    """Collects the devices of all tensors that operators give."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.found |= {t.device.type for t in tree_leaves(out) if isinstance(t, torch.Tensor)}
        return out


def test_weights_are_drawn_where_they_are_needed(space):
    """And not by one thread of the host, which takes seconds for a wide supernet."""
    with Devices() as devices:
        with torch.device("meta"):
            supernet = SuperNet(space, 7)
        for layer in supernet.layers.values():
            for node in layer.candidates.values():
                if node.spec.kind_info.has_hidden:
                    node.resize(8)
    assert devices.found == {"meta"}


def test_a_layer_is_the_weighted_sum_of_its_candidates_and_the_skip(space):
    layer = SearchLayer(space.layers[2]).eval()
    x = images(2, 16, 8, 8)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    parts = [Part(str(i), w, (8, 24)) for i, w in enumerate(weights)]
    branches = [layer.candidates[str(i)](x, (8, 24)) for i in range(4)]
    expected = sum(w * (b + x) for w, b in zip(weights, branches, strict=True))
    torch.testing.assert_close(layer(x, LayerMixture(parts)), expected)
    keep = torch.tensor(0.25)
    torch.testing.assert_close(
        layer(x, LayerMixture(parts, keep)), keep * expected + (1 - keep) * x
    )
    as_candidate = [*parts[:3], Part(SKIP, weights[3])]
    expected = sum(w * (b + x) for w, b in zip(weights[:3], branches, strict=False)) + 0.4 * x
    torch.testing.assert_close(layer(x, LayerMixture(as_candidate)), expected)


def test_a_plain_convolution_and_its_skip_share_out_the_layer(space):
    conv = dataclasses.replace(space.layers[0], skippable=True)
    layer = SearchLayer(conv).eval()
    x = images(2, 8, 8, 8)
    out = layer.candidates["0"](x)
    mixed = layer(x, LayerMixture([Part("0", None)], torch.tensor(0.75)))
    torch.testing.assert_close(mixed, 0.75 * out + 0.25 * x)


def narrow(structure):
    return [
        widths and {k: max(w // 2, 1) if w else 0 for k, w in widths.items()}
        for widths in structure
    ]


def test_restructuring_cuts_optimizer_states_like_weights(space):
    net = SuperNet(space, 5)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2, amsgrad=True)
    for p in net.parameters():
        p.grad = torch.ones_like(p) * torch.rand_like(p)
    optimizer.step()
    before = dict(net.named_parameters())
    states = {n: copy.deepcopy(optimizer.state[p]) for n, p in before.items()}
    structure = narrow(net.structure())
    del structure[1]["3"]
    structure[2] = None
    net.restructure(structure)
    after = dict(net.named_parameters())
    rebind_optimizer(optimizer, before, after)
    assert net.structure() == structure
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in after.values()}
    assert set(optimizer.state) == set(after.values())
    for name, p in after.items():
        part = tuple(slice(0, n) for n in p.shape)
        torch.testing.assert_close(p.data, before[name].data[part])
        for key in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(optimizer.state[p][key], states[name][key][part])
    assert len(after) < len(before)
    for p in after.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()


@pytest.mark.parametrize("count", COUNTS[1:])
def test_any_number_of_widths_costs_the_same(count):
    from torch.utils.flop_counter import FlopCounterMode

    x = images(2, 48, 8, 8)
    found = []
    for n in (COUNTS[0], count):
        net = _Net(layer_space(n))
        assert len(net.space.widths) == n
        with FlopCounterMode(display=False) as counter:
            step_of(net, x)()
        parameters = sum(p.numel() for p in net.layers.parameters())
        found.append((parameters, counter.get_total_flops(), saved_bytes(net, x)))
    for one, other in zip(*found, strict=True):
        assert other == pytest.approx(one, rel=0.01)
    explicit = _Net(layer_space(count, fixed=True))
    assert saved_bytes(explicit, x) > 0.3 * count * found[0][2]
