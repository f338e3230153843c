"""The blocks: steps, residuals, padding, squeeze-and-excitation."""

from __future__ import annotations

import pytest
import torch

from prunet_det.arch.blocks import Block
from prunet_det.arch.spec import BlockSpec

SPECS = [
    BlockSpec("conv", 8, 8),
    BlockSpec("conv", 8, 12, stride=2, act="silu"),
    BlockSpec("irb", 8, 8, kernel=5, hidden=24),
    BlockSpec("irb", 8, 12, stride=2, hidden=24, se=2),
    BlockSpec("fused_irb", 8, 8, hidden=24, se=6, act="silu"),
    BlockSpec("fused_irb", 8, 12, stride=2, hidden=24),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.kind}-k{s.kernel}s{s.stride}")
@pytest.mark.parametrize("size", [16, 17])
def test_steps_compose_to_the_block(spec, size):
    block = Block(spec).eval()
    x = torch.randn(2, spec.in_chs, size, size)
    out = block.project(block.spatial(block.expand(x)))
    if spec.kind != "conv" and spec.stride == 1 and spec.in_chs == spec.out_chs:
        out = out + x
    assert torch.equal(block(x), out)
    side = -(-size // spec.stride)
    assert out.shape == (2, spec.out_chs, side, side)


def test_conv_never_has_a_residual():
    assert not Block(BlockSpec("conv", 8, 8)).has_residual


def test_projection_has_no_activation():
    for kind in ("irb", "fused_irb"):
        block = Block(BlockSpec(kind, 8, 12, hidden=16)).eval()
        assert (block(torch.randn(4, 8, 8, 8)) < 0).any()


def test_valid_padding_only_where_published():
    spec = BlockSpec("fused_irb", 8, 12, stride=2, hidden=24, padding="valid")
    x = torch.zeros(1, 8, 16, 16)
    assert Block(spec).eval()(x).shape[-1] == 7
    assert Block(spec.padded()).eval()(x).shape[-1] == 8


def test_drop_path_needs_a_residual():
    with_residual = Block(BlockSpec("irb", 8, 8, hidden=16), drop_path=0.5)
    without = Block(BlockSpec("irb", 8, 12, hidden=16), drop_path=0.5)
    assert with_residual.drop_path.drop_prob == 0.5
    assert isinstance(without.drop_path, torch.nn.Identity)
