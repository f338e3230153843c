"""Muon: timm's, in a precision that the CPU has."""

from __future__ import annotations

import torch
from timm.optim import Muon

from prunet_det.training.optimizer import TimmMuon


def step(optimizer):
    """What one step adds to a convolution's weight and bias."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(16, 32, 3)
    before = [p.detach().clone() for p in conv.parameters()]
    conv(torch.randn(2, 16, 8, 8)).square().sum().backward()
    optimizer(conv.parameters(), lr=0.01, weight_decay=0.01, nesterov=True).step()
    return [p.detach() - b for p, b in zip(conv.parameters(), before, strict=True)]


def test_it_is_timms_muon():
    """To the bit where the CPU has bfloat16 in its instructions, else but for its rounding."""
    expected, found = step(Muon), step(TimmMuon)
    assert torch.equal(found[1], expected[1]), "AdamW's"
    difference = float((found[0] - expected[0]).norm() / expected[0].norm())
    assert (difference == 0) == (torch.backends.cpu.get_cpu_capability() == "AVX512")
    assert difference < 0.05
