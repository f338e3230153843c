"""Scripts of tools/experiments: what they make is what lies in the checkout."""

from __future__ import annotations

import runpy

import timm
import torch

from prunet_det.arch.spec import ArchSpec
from tests.conftest import ROOT

NARROW = runpy.run_path(str(ROOT / "tools" / "experiments" / "narrow_networks.py"))


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_efficientnet_is_timm_s_but_for_one_convolution():
    with torch.device("meta"):
        ours, theirs = NARROW["efficientnet_b0"]().build(), timm.create_model("efficientnet_b0")
    expansion = 32 * 32 + 2 * 32  # of the first block, and its batch norm
    assert parameters(ours) == parameters(theirs) + expansion


def test_narrow_networks_are_what_the_command_writes():
    made = {spec.name: spec for spec in NARROW["narrow_networks"]()}
    files = list((ROOT / NARROW["FOLDER"]).glob("*.json"))
    assert {path.stem: ArchSpec.load(path) for path in files} == made
