"""A training that diverges ends with a sentence, and what was saved before stays."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from prunet_det.training.divergence import DivergedError, check_scalars
from prunet_det.zoo.weights import CheckpointError, load_all_weights, load_backbone_weights
from tests.training.test_deferred_info import Line, build


class Diverging(Line):
    """Gives losses or gradients that are not finite from an iteration on."""

    def __init__(self, what, start):
        super().__init__()
        self.what, self.start, self.done = what, start, 0

    def forward(self, inputs, mode="tensor"):
        losses = super().forward(inputs, mode)
        late = self.done >= self.start
        self.done += 1
        if late and self.what == "loss":
            losses["loss_square"] = losses["loss_square"] * float("nan")
        if late and self.what == "gradient":  # of sqrt at 0
            losses["loss_square"] = losses["loss_square"] + (self.linear.bias * 0).sqrt().sum()
        return losses


def diverge(folder, what, start=5, clip=True):
    runner = build(
        "DeferredInfoHook",
        folder,
        type="SafeCheckpointHook",
        by_epoch=False,
        interval=3,
        max_keep_ckpts=1,
    )
    runner.model = Diverging(what, start)
    runner.register_custom_hooks([dict(type="RecordHook"), dict(type="EMAHook")])
    if not clip:
        runner.optim_wrapper.pop("clip_grad")
    with pytest.raises(DivergedError) as error:
        runner.train()
    return str(error.value)


@pytest.mark.parametrize(
    ("what", "clip", "sentence"),
    [
        ("loss", True, "loss_square is nan at iteration 6, learning rate 0.1. Lower"),
        ("gradient", True, "grad_norm is nan at iteration 6, learning rate 0.1. Lower"),
        (
            "gradient",
            False,
            "1 of 2 tensors (linear.bias, ...) are not finite at iteration 6",
        ),
    ],
)
def test_the_last_good_weights_stay(tmp_path, what, clip, sentence):
    """The sixth iteration, at whose end a checkpoint is due."""
    assert sentence in diverge(tmp_path, what, clip=clip)
    weights = load_file(tmp_path / "weights.safetensors")
    assert all(value.isfinite().all() for value in weights.values())
    resumed = torch.load(tmp_path / "iter_3.pth", weights_only=False)
    assert all(value.isfinite().all() for value in resumed["state_dict"].values())
    assert not (tmp_path / "iter_6.pth").exists()


def test_gradients_may_overflow_under_a_loss_scale():
    scale = SimpleNamespace(is_enabled=lambda: True, get_scale=lambda: 1024.0)
    wrapper = SimpleNamespace(loss_scaler=scale, get_lr=lambda: {"lr": [0.1]})
    runner = SimpleNamespace(optim_wrapper=wrapper, work_dir="work")
    overflow = {"train/loss": 1.0, "train/grad_norm": float("inf")}
    check_scalars(runner, 0, [overflow, overflow])
    scale.get_scale = lambda: 2.0**-11
    with pytest.raises(DivergedError, match="at every scale of the loss at iteration 7.*--amp"):
        check_scalars(runner, 5, [overflow, overflow])
    with pytest.raises(DivergedError, match="loss is inf at iteration 6"):
        check_scalars(runner, 5, [{"train/loss": float("inf"), "train/grad_norm": 1.0}])
    scale.is_enabled = lambda: False  # of bfloat16
    with pytest.raises(DivergedError, match="grad_norm is inf"):
        check_scalars(runner, 0, [overflow])


def test_weights_that_are_not_finite_are_not_loaded(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["0.bias"][1] = float("inf")
    save_file(state, tmp_path / "w.safetensors")
    for load in (load_all_weights, load_backbone_weights):
        with pytest.raises(CheckpointError, match=r"1 of 2 tensors \(0\.bias, \.\.\.\) are not"):
            load(model, tmp_path / "w.safetensors")
    assert all(value.isfinite().all() for value in model.state_dict().values())
