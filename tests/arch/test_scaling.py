"""Networks made of other ones by scaling them."""

from __future__ import annotations

import pytest

from prunet_det.arch.scaling import round_channels, scale_compound, scale_width
from prunet_det.zoo.models import load_spec


def test_channels_are_multiples_of_eight_unless_nothing_is_scaled():
    assert [round_channels(20, f) for f in (0.01, 0.5, 1, 1.1)] == [8, 8, 20, 24]


def test_half_the_width():
    full = load_spec("gpunet_0")
    half = scale_width(full, 0.5)
    assert half.strides() == full.strides() and half.name == "gpunet_0_w500"
    assert [b.kind for b in half.blocks] == [b.kind for b in full.blocks]
    assert [b.has_residual for b in half.blocks] == [b.has_residual for b in full.blocks]
    for b, whole in zip(half.blocks, full.blocks, strict=True):
        assert abs(b.out_chs - whole.out_chs / 2) <= 4 and b.out_chs % 8 == 0
        assert abs(b.hidden - whole.hidden / 2) <= 4
    assert half.provenance.kind == "hand-written"


def test_wider_and_deeper():
    full = load_spec("prunet_p0")
    scaled = scale_compound(full, 1.5, 2.0)
    assert scaled.strides() == full.strides()
    for stage, whole in zip(scaled.stages, full.stages, strict=True):
        assert len(stage.blocks) == 2 * len(whole.blocks)
        assert stage.blocks[-1].out_chs == round_channels(whole.blocks[-1].out_chs, 1.5)
        for b in stage.blocks:
            assert b.hidden % 32 == 0 and b.hidden <= 8 * b.in_chs
    assert scale_compound(full, 1.0, 1.0).stages == full.stages
    shallow = scale_compound(full, 1.0, 0.01)
    assert [len(stage.blocks) for stage in shallow.stages] == [1] * len(full.stages)


def test_impossible_factors():
    with pytest.raises(ValueError, match="width can be scaled"):
        scale_width(load_spec("prunet_n"), 0.0)
    with pytest.raises(ValueError, match="depth can be scaled"):
        scale_compound(load_spec("prunet_n"), 1.0, -1.0)
