"""A search whose loss is not finite stops; a finalist that diverges counts as nothing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from prunet_det.search.finals import Scores
from prunet_det.search.old_loop import SearchLoop
from prunet_det.training.divergence import DivergedError


@pytest.mark.parametrize(("loss", "raised"), [(np.nan, True), (np.inf, True), (1.5, False)])
def test_a_loss_that_is_not_finite_ends_the_search(loss, raised):
    updated = []
    wrapper = SimpleNamespace(get_lr=lambda: {"lr": [0.1]})
    loop = SimpleNamespace(
        _iter=6,
        settings=SimpleNamespace(warmup=2),
        _losses={"weights": 0.0},
        _own_checksum=3.0,
        _architecture_step=lambda batch: lambda: np.array([np.inf, 0.5, 3.0, loss]),
        _weight_step=lambda batch: 0.0,
        _update=updated.append,
        runner=SimpleNamespace(optim_wrapper=wrapper, work_dir="work"),
        expected_ms=0.4,
        controller=SimpleNamespace(budget_ms=0.5),
        _weight=0.1,
    )
    if raised:
        with pytest.raises(DivergedError, match=f"the loss is {loss} at iteration 7, learning"):
            SearchLoop._run_iter(loop, iter([{}]), iter([{}]))
    else:
        assert SearchLoop._run_iter(loop, iter([{}]), iter([{}]))["loss"] == loss
    assert not updated, "a gradient that overflows is no evidence"


def test_a_finalist_that_diverges_has_top1_0(tmp_path, caplog):
    trained = []

    class Trainer:
        def spec(self, network):
            return SimpleNamespace(digest=network)

        def __call__(self, network, training):
            trained.append(network)
            if network == "bad":
                raise DivergedError("the training diverged")
            return SimpleNamespace(top1=0.7, seconds=2.0)

    scores = Scores(Trainer(), tmp_path / "scores.json")
    assert scores.top1("bad", 0) == 0.0 and scores.top1("good", 0) == 0.7
    assert "a finalist counts as top-1 0: the training diverged" in caplog.text
    again = Scores(Trainer(), tmp_path / "scores.json")  # as after an interruption
    assert again.top1("bad", 0) == 0.0 and again.seconds == 2.0
    assert trained == ["bad", "good"]
