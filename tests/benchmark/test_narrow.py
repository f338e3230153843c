"""Networks at a part of their width."""

from __future__ import annotations

import pytest
import timm
import torch

from prunet_det.arch.spec import ArchSpec
from prunet_det.benchmark import narrow
from prunet_det.zoo.models import load_spec
from tests.conftest import ROOT


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_efficientnet_is_timm_s_but_for_one_convolution():
    with torch.device("meta"):
        ours, theirs = narrow.efficientnet_b0().build(), timm.create_model("efficientnet_b0")
    expansion = 32 * 32 + 2 * 32  # of the first block, and its batch norm
    assert parameters(ours) == parameters(theirs) + expansion


def test_files_are_what_the_command_writes():
    made = {spec.name: spec for spec in narrow.narrow_networks()}
    files = list((ROOT / narrow.FOLDER).glob("*.json"))
    assert {path.stem: ArchSpec.load(path) for path in files} == made


def test_narrowed():
    full = load_spec("gpunet_0")
    half = narrow.narrowed(full, 0.5)
    assert half.strides() == full.strides()
    assert [b.kind for b in half.blocks] == [b.kind for b in full.blocks]
    assert [b.has_residual for b in half.blocks] == [b.has_residual for b in full.blocks]
    for b, whole in zip(half.blocks, full.blocks, strict=True):
        assert abs(b.out_chs - whole.out_chs / 2) <= 4 and b.out_chs % 8 == 0
        assert abs(b.hidden - whole.hidden / 2) <= 4
    with pytest.raises(ValueError, match="share"):
        narrow.narrowed(full, 1.5)
