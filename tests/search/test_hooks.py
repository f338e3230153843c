"""What accompanies a loop: history, checkpoints, Ctrl-C."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from prunet_det.search.hooks import (
    CheckpointHook,
    HistoryHook,
    ending_in_order,
)
from prunet_det.training.divergence import DivergedError
from prunet_det.utils.errors import UserError


class Loop:
    """As much of a loop as hooks see."""

    def __init__(self, step=0):
        self.step, self.phase, self.stop = step, "tiers", False
        self.seconds = {"tiers": 2.0, "evolution": 9.0}
        self.model = self.supernet = torch.nn.Linear(2, 3)
        self.losses = {"weights": 2.0, "architecture": 0.0}
        self.architectures = [
            SimpleNamespace(budget_ms=0.5, name="0.5", record=lambda: {"skips": [0.0]})
        ]

    def state_dict(self):
        return {"step": self.step, "weights": self.supernet.state_dict()}

    def load_state_dict(self, state):
        self.step = state["step"]
        self.supernet.load_state_dict(state["weights"])


def test_a_long_search_has_no_more_records_than_a_short_one():
    history, loop = HistoryHook(), Loop()
    history.before_run(loop)
    for step in range(1, 1701):
        loop.step = step
        history.after_step(loop)
    steps = [r["step"] for r in history.records]
    assert 200 <= len(steps) < 400 and steps == list(range(8, 1701, 8))
    assert history.records[-1] == {"step": 1696, "0.5": {"skips": [0.0]}}
    again = HistoryHook()
    again.load_state_dict(history.state_dict())
    assert (again.records, again.interval) == (history.records, 8)


def test_tensorboard_has_the_scalars(tmp_path):
    history, loop = HistoryHook(tmp_path), Loop(step=1)
    history.before_run(loop)
    history.after_step(loop)
    history.after_run(loop)
    events = EventAccumulator(str(tmp_path)).Reload()
    found = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    assert {tag: [(e.step, e.value) for e in scalars] for tag, scalars in found.items()} == {
        "weights_loss": [(1, 2.0)],
        "architecture_loss": [(1, 0.0)],
        "parameters": [(1, 9.0)],
    }


@pytest.fixture
def checkpoint(tmp_path):
    history = HistoryHook()
    return CheckpointHook(tmp_path / "search.pth", {"seed": 0}, 10, {"history": history})


def test_a_checkpoint_brings_loop_and_hooks_back(checkpoint, tmp_path):
    loop = Loop(step=10)
    checkpoint.hooks["history"].after_step(loop)
    checkpoint.after_step(loop)
    other = Loop()
    again = CheckpointHook(checkpoint.path, {"seed": 0}, 10, {"history": HistoryHook()})
    again.load(other, again.read())
    assert other.step == 10 and torch.equal(other.supernet.weight, loop.supernet.weight)
    assert again.hooks["history"].records == checkpoint.hooks["history"].records
    assert [p.name for p in tmp_path.iterdir()] == ["search.pth"]
    assert again.read()["budgets_ms"] == [0.5]
    with pytest.raises(UserError, match=r"has another seed \(0, not 1\)"):
        CheckpointHook(checkpoint.path, {"seed": 1}, 10, {}).read()


def test_weights_that_are_not_finite_leave_the_checkpoint_before(checkpoint):
    loop = Loop(step=10)
    checkpoint.save(loop)
    before = Path(checkpoint.path).read_bytes()
    torch.nn.init.constant_(loop.supernet.bias, float("inf"))
    with pytest.raises(DivergedError, match=r"1 tensors \(bias, ...\) are not finite at step 10"):
        checkpoint.save(loop)
    assert Path(checkpoint.path).read_bytes() == before


def test_what_is_no_checkpoint_is_said_to_be_none(checkpoint):
    assert checkpoint.read() is None
    Path(checkpoint.path).write_bytes(b"half")
    with pytest.raises(UserError, match="is damaged"):
        checkpoint.read()
    torch.save([1], checkpoint.path)
    with pytest.raises(UserError, match="is no checkpoint of a search"):
        checkpoint.read()


def test_the_first_ctrl_c_ends_the_step_and_the_second_the_process():
    loop, before = Loop(), signal.getsignal(signal.SIGINT)
    with ending_in_order(loop):
        os.kill(os.getpid(), signal.SIGINT)
        assert loop.stop
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
