"""Norms whose statistics are fixed before the end of a training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from prunet_det.training.hooks import FreezeNormsHook


@pytest.mark.parametrize(("done", "fixed"), [(5, False), (6, True), (9, True)])
def test_statistics_are_fixed_from_a_share_of_the_training_on(done, fixed):
    """Also those of a training that was resumed, or evaluated, in between: both call `train`."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    FreezeNormsHook(0.6).before_train_iter(SimpleNamespace(iter=done, max_iters=10, model=model), 0)
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) + 3
    out = model(images)
    assert model[0].training and bool((model[1].running_mean == 0).all()) == fixed
    assert torch.equal(out, model.eval()(images)) == fixed
    out.sum().backward()
    assert model[1].weight.grad is not None, "its scale is trained on"
