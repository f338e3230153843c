"""A kind of block is declared in one place: all else learns from the declaration what it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prunet_det.arch import ArchSpec, BlockSpec, Provenance, StageSpec, StemSpec, TailSpec
from prunet_det.arch.blocks import Block
from prunet_det.arch.spec import BLOCK_KINDS, BlockKind, SpecError
from prunet_det.latency import spec_kernels, trace
from prunet_det.latency.table import network_blocks, predict_table, variants
from prunet_det.search.costs import Pricing
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import SearchSpace
from prunet_det.search.supernet import SearchLayer
from prunet_det.utils import plots
from prunet_det.zoo.card import draw_network, model_card

DS = BlockKind(
    name="ds", title="depthwise separable", colour="#CC79A7", is_depthwise=True, has_project=True
)


@pytest.fixture
def network(monkeypatch) -> ArchSpec:
    """A network with a kind that the package does not have."""
    monkeypatch.setitem(BLOCK_KINDS, DS.name, DS)
    blocks = (
        BlockSpec("ds", 16, 24, stride=2),
        BlockSpec("ds", 24, 24, kernel=5),
        BlockSpec("irb", 24, 24, hidden=48),
    )
    return ArchSpec(
        name="planted",
        stem=StemSpec((16,)),
        stages=(StageSpec(blocks),),
        tail=TailSpec(32),
        provenance=Provenance("hand-written", {"reason": "a test"}),
    )


@pytest.mark.parametrize("kind", BLOCK_KINDS.values(), ids=lambda kind: kind.name)
def test_a_kind_has_the_steps_that_it_declares(kind):
    block = Block(BlockSpec(kind.name, 8, 8, hidden=16 if kind.has_hidden else 0))
    assert isinstance(block.expand, torch.nn.Identity) is not kind.has_expand
    assert isinstance(block.project, torch.nn.Identity) is not kind.has_project
    assert (block.spatial.conv.groups > 1) is kind.is_depthwise
    assert block.has_residual is kind.has_project


def test_a_new_kind_builds_and_is_read_again(network):
    assert ArchSpec.from_dict(network.to_dict()) == network
    block = network.build(num_classes=3).stages[0][1].eval()
    x = torch.randn(1, 24, 9, 9)
    assert block.spatial.conv.groups == 24 and block.has_residual
    assert torch.equal(block(x), x + block.project(block.spatial(x)))
    with pytest.raises(SpecError, match="ds block has no hidden width"):
        BlockSpec("ds", 8, 8, hidden=16)


def test_a_new_kind_is_counted_and_priced(network):
    formula = [replace(k, name="") for k in spec_kernels(network, 64, "classifier", num_classes=3)]
    traced = trace(network.build(num_classes=3), (3, 64, 64)).kernels
    assert [replace(k, name="") for k in traced] == formula
    keys = network_blocks(network, 64)
    table = predict_table(variants(keys))
    assert table.network_ms(network, 64) > sum(table.ms(*key) for key in keys) > 0


def test_a_new_kind_is_drawn(network, tmp_path):
    plots.save(draw_network(network), tmp_path / "planted.svg", network)
    drawn = (tmp_path / "planted.svg").read_text(encoding="utf-8")
    assert DS.title in drawn and DS.colour in drawn.upper()
    assert "| ds |" in model_card(network, "", "planted.svg")


def test_a_new_kind_is_searched(network):
    stage = dict(width=24, depth=2, stride=2)
    space = SearchSpace.from_config(
        dict(stem=16, tail=32, stages=[stage], kinds=("ds", "irb"), se=(False, True))
    )
    low, high = Shapes(Pricing(device="v100").costs(space, 64)).reachable()
    assert 0 < low < high
    layer = space.layers[1]
    operator = next(o for o in layer.operators if o.kind == "ds")
    searched = SearchLayer(layer)
    index = layer.operators.index(operator)
    block = searched.candidates[str(index)].block.train()
    x = torch.randn(2, 24, 8, 8)
    torch.testing.assert_close(searched.path(x, index, 0), block(x))
