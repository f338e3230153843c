"""A repeatable training that Ctrl-C ends at any moment goes on to the same bytes."""

from __future__ import annotations

import os
import signal

import mmengine.runner.runner
import pytest
from mmengine.runner import IterBasedTrainLoop

from prunet_det.training import launch
from prunet_det.training.repeatable import make_repeatable
from tests.conftest import NO_WORKERS
from tests.tools.test_training import train_args


@pytest.mark.slow
def test_interrupted_and_resumed_is_the_same_training(few, tmp_path, here, monkeypatch):
    """In an iteration, and while a checkpoint is saved that is then not whole."""
    size = ["default_hooks.checkpoint.interval=2", *few, *NO_WORKERS]

    def train(folder, *flags):
        return here("train", *train_args(tmp_path / folder, 6, *flags)[1:], *size)

    build = launch.build_runner

    def build_repeatable(cfg):
        make_repeatable(cfg, 0)
        return build(cfg)

    monkeypatch.setattr(launch, "build_runner", build_repeatable)
    whole = train("whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    run_iter, save = IterBasedTrainLoop.run_iter, mmengine.runner.runner.save_checkpoint

    def in_an_iteration(loop, batch):
        if loop.runner.iter == 3:
            os.kill(os.getpid(), signal.SIGINT)
        run_iter(loop, batch)

    def while_saving(checkpoint, path, **options):
        with open(path, "wb") as file:
            file.write(b"half")
            if checkpoint["meta"]["iter"] == 4:
                os.kill(os.getpid(), signal.SIGINT)
        save(checkpoint, path, **options)

    for where, name, change in (
        (IterBasedTrainLoop, "run_iter", in_an_iteration),
        (mmengine.runner.runner, "save_checkpoint", while_saving),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, change)
            done = train("work", "--resume")
        assert done.returncode == 130 and done.stderr.endswith("interrupted.\n")
        assert [p.name for p in (tmp_path / "work").glob("*.pth")] == ["iter_2.pth"]
    done = train("work", "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    weights = [tmp_path / folder / "weights.safetensors" for folder in ("work", "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
