"""Muon over stacks: timm's results, in few operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import timm.optim.muon
import torch
from mmengine.optim import build_optim_wrapper
from timm.optim import Muon
from torch import nn

from prunet_det.training import optimizer
from prunet_det.training.ema import ForeachEMA
from prunet_det.training.optimizer import TimmMuon, plan_stacks
from tests.dispatched import dispatched

OPTIONS = dict(lr=0.01, weight_decay=0.05)


def network() -> nn.Module:
    """Matrices of many shapes, wide, tall and alike, and parameters of AdamW's."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False),  # 16 x 27
        nn.BatchNorm2d(16),
        nn.Conv2d(16, 16, 3, groups=16),  # depthwise
        nn.Conv2d(16, 24, 1),
        nn.Conv2d(24, 16, 1),
        nn.Conv2d(16, 12, 3).to(memory_format=torch.channels_last),  # 12 x 144
        *(nn.Conv2d(12, 12, 1) for _ in range(6)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 30),
    )


def train(
    model: nn.Module, optim: torch.optim.Optimizer, first: int = 0, steps: int = 6
) -> list[torch.Tensor]:
    """Takes some steps with a falling learning rate, and returns the parameters."""
    initial = [group["lr"] for group in optim.param_groups]
    for k in range(first, first + steps):
        generator = torch.Generator().manual_seed(k)
        for group, lr in zip(optim.param_groups, initial, strict=True):
            group["lr"] = lr * 0.8**k
        optim.zero_grad()
        model(torch.randn(4, 3, 12, 12, generator=generator)).square().sum().backward()
        optim.step()
    for group, lr in zip(optim.param_groups, initial, strict=True):
        group["lr"] = lr
    return [p.detach().clone() for p in model.parameters()]


def start(
    kind: Callable[..., torch.optim.Optimizer], **options: Any
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Returns a network and its optimizer, the same in every call."""
    torch.manual_seed(0)
    model = network()
    return model, kind(model.parameters(), **{**OPTIONS, **options})


@pytest.fixture
def single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both optimizers multiply in float32."""
    timms = timm.optim.muon.zeropower_via_newtonschulz
    monkeypatch.setattr(
        timm.optim.muon, "zeropower_via_newtonschulz", partial(timms, dtype=torch.float32)
    )
    monkeypatch.setattr(optimizer, "product_dtype", lambda device: torch.float32)


def assert_near(found: Iterable[torch.Tensor], expected: Iterable[torch.Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).norm()) <= 1e-5 * float(b.norm())


@pytest.mark.usefixtures("single_precision")
@pytest.mark.parametrize(
    "options",
    [
        dict(nesterov=True),
        dict(nesterov=False),
        dict(adjust_lr_fn="original", fallback_lr_scale=0.3, momentum=0.8, ns_steps=3),
        dict(adjust_lr_fn=None, ns_coefficients="original", betas=(0.8, 0.99), weight_decay=0.0),
    ],
)
def test_steps_are_timms(options: dict[str, Any]) -> None:
    assert_near(train(*start(TimmMuon, **options)), train(*start(Muon, **options)))


@pytest.mark.usefixtures("single_precision")
def test_a_group_for_every_parameter_is_timms_and_costs_no_more() -> None:
    def grouped(kind: Callable[..., Any], params: Iterable[nn.Parameter], **options: Any) -> Any:
        groups = [
            dict(params=[p], weight_decay=0.0 if p.ndim == 1 else 0.05, use_fallback=p.ndim == 2)
            for p in params
        ]
        return kind(groups, **options)

    ours, timms = (start(partial(grouped, kind), nesterov=True) for kind in (TimmMuon, Muon))
    assert_near(train(*ours), train(*timms))
    together = start(TimmMuon, nesterov=True)
    train(*together)
    per_group = 3 * 9  # AdamW's, of the matrices' group and of two others
    assert operators(ours[1]) < operators(together[1]) + per_group


def operators(optim: torch.optim.Optimizer) -> int:
    """Returns what another step dispatches."""
    return dispatched(optim.step).total()


def test_half_precision_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "product_dtype", lambda device: torch.bfloat16)
    ours, timms = (train(*start(kind, nesterov=True), steps=1) for kind in (TimmMuon, Muon))
    before = [p.detach() for p in start(TimmMuon)[0].parameters()]
    for a, b, first in zip(ours, timms, before, strict=True):
        assert float((a - b).norm()) <= 0.03 * float((b - first).norm())


def test_products_are_single_where_half_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, on_cpu in (("AVX2", torch.float32), ("AVX512", torch.bfloat16)):
        monkeypatch.setattr(
            torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability
        )
        assert optimizer.product_dtype(torch.device("cpu")) == on_cpu
        assert optimizer.product_dtype(torch.device("cuda")) == torch.bfloat16


@pytest.mark.usefixtures("single_precision")
def test_a_training_with_timms_goes_on() -> None:
    model, optim = start(Muon, nesterov=True)
    train(model, optim, steps=3)
    ours, resumed = start(TimmMuon)
    ours.load_state_dict(model.state_dict())
    resumed.load_state_dict(deepcopy(optim.state_dict()))
    assert_near(train(ours, resumed, first=3, steps=3), train(model, optim, first=3, steps=3))


def test_a_resumed_training_is_the_same_to_the_bit() -> None:
    model, optim = start(TimmMuon, nesterov=True)
    train(model, optim, steps=3)
    again, resumed = start(TimmMuon)
    again.load_state_dict(model.state_dict())
    resumed.load_state_dict(deepcopy(optim.state_dict()))
    expected = train(model, optim, first=3, steps=3)
    for a, b in zip(train(again, resumed, first=3, steps=3), expected, strict=True):
        assert torch.equal(a, b)


def test_parameters_without_gradients_are_left_alone() -> None:
    model, optim = start(TimmMuon)
    frozen = model[3].weight
    before = frozen.detach().clone()
    frozen.requires_grad_(False)
    train(model, optim, steps=2)
    assert torch.equal(frozen, before)
    frozen.requires_grad_(True)
    train(model, optim, first=2, steps=1)
    assert not torch.equal(frozen, before)


@pytest.mark.parametrize("option", [dict(algo="adamuon"), dict(conv_mode="batched")])
def test_what_a_stack_cannot_do_is_refused(option: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"TimmMuon knows {next(iter(option))}="):
        start(TimmMuon, **option)


def test_few_stacks_with_little_padding() -> None:
    counts = Counter({(16, 27): 1, (64, 64): 30, (64, 96): 4, (64, 90): 1, (160, 640): 2})
    places = plan_stacks(counts)
    assert set(places) == set(counts)
    assert all(rows <= m and columns <= n for (rows, columns), (m, n) in places.items())
    assert len(set(places.values())) == 3
    assert places[64, 90] == places[64, 96] == (64, 96)
    assert places[160, 640] == (160, 640)
    assert plan_stacks(Counter({(8, 8): 3})) == {(8, 8): (8, 8)}


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "TimmLamb", "TimmMuon"])
def test_groups_of_a_recipe_are_few_and_train_the_same(kind: str) -> None:
    def built(constructor: str) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = network()
        foreach = {} if kind == "TimmMuon" else dict(foreach=True)  # torch's own choice on CUDA
        cfg = dict(
            type="OptimWrapper",
            constructor=constructor,
            optimizer=dict(type=kind, lr=0.01, weight_decay=0.1, **foreach),
            paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
        )
        return model, build_optim_wrapper(model, cfg).optimizer

    plain, merged = (built(f"{name}Constructor") for name in ("DefaultOptimWrapper", "Merging"))
    assert len(merged[1].param_groups) == 2 < len(plain[1].param_groups)
    assert_near(train(*merged), train(*plain))
    if kind in ("SGD", "AdamW"):
        assert 3 * operators(merged[1]) < operators(plain[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_a_gpu_is_the_cpus_and_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "product_dtype", lambda device: torch.float32)
    models = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = network().to(device)
        optim = TimmMuon(model.parameters(), nesterov=True, **OPTIONS)
        average = ForeachEMA(model, gamma=2000)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape).to(device)
        try:
            for mode in ("default", "error"):  # the first step makes stacks and states
                torch.cuda.set_sync_debug_mode(mode)
                optim.step()
                average.update_parameters(model)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        models.append(average.module.cpu())
    on_cpu, on_gpu = models
    for a, b in zip(on_gpu.parameters(), on_cpu.parameters(), strict=True):
        assert float((a - b).norm()) <= 1e-3 * float(b.norm())
