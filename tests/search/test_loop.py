"""The search's loop on patterns that a tiny supernet learns at once."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper

from prunet_det.search.architecture import Architecture
from prunet_det.search.costs import Pricing
from prunet_det.search.hooks import SearchHook
from prunet_det.search.loop import SearchLoop
from prunet_det.search.schedule import LoopSettings, Tiers, WidthRule
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import SearchSpace
from prunet_det.search.supernet import SuperNet
from prunet_det.search.tasks import Classification
from prunet_det.training.crops import Augmentation, DeviceCrops
from prunet_det.training.divergence import DivergedError
from prunet_det.training.short_run import ShortRecipe
from prunet_det.utils.errors import InputError
from prunet_det.utils.io import digest
from tests.dispatched import dispatched
from tests.search.conftest import SMALL, in_two_processes

CLASSES, SIDE = 3, 16
SHORT = dict(
    warmup=3, warmup_loss=0.0, warmup_batch=8, paths=3, tiers=12, batch=4, draws=4, draws_batch=8
)
# Everything is decided within a dozen steps.
HASTY = Tiers(
    rate=6.0, skip_rate=6.0, candidates_begin=0.0, candidates_end=0.6, skip_enters=0.2, skip_end=0.8
)
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal"}


def crops(part: int) -> DeviceCrops:
    """Images of which the class is the channel that is bright."""
    rng = np.random.default_rng(part)
    labels = torch.arange(48) % CLASSES
    images = torch.from_numpy(rng.integers(0, 120, (48, 3, SIDE, SIDE), dtype=np.uint8))
    images[torch.arange(48), labels] += 120
    return DeviceCrops(
        images=images,
        labels=labels,
        classes=("red", "green", "blue"),
        augmentation=Augmentation(input_size=(3, SIDE, SIDE), scale=(0.8, 1.0), hflip=0.0),
        part=part,
    )


@pytest.fixture(scope="module")
def shapes(costs) -> Shapes:
    return Shapes(costs)


def build(shapes, budgets=(0.2, 0.25), hooks=(), lr=1e-2, **options) -> SearchLoop:
    torch.manual_seed(0)
    net = SuperNet(shapes.space, CLASSES).to(memory_format=torch.channels_last)
    optimizer = dict(type="AdamW", lr=lr, weight_decay=0.01, fused=True)
    wrapper = build_optim_wrapper(net, dict(optimizer=optimizer, clip_grad=dict(max_norm=5.0)))
    halves = {"weights": crops(0), "architecture": crops(1)}
    architectures = [Architecture(shapes, ms, HASTY, seed=1) for ms in budgets]
    settings = LoopSettings(**{**SHORT, **options})
    return SearchLoop(net, architectures, Classification(halves), settings, wrapper, hooks)


class Stop(SearchHook):
    """Stops a loop after a step, and notes the phases."""

    def __init__(self, step=-1):
        self.step, self.phases, self.most, self.progress = step, [], [], []

    def after_step(self, loop):
        self.phases.append(loop.phase)
        self.most.append(loop.most_steps)
        self.progress.append(loop.progress)
        loop.stop = loop.step == self.step


def flat(value):
    """A state with its tensors as bytes, so that states can be compared."""
    if isinstance(value, dict):
        return {key: flat(v) for key, v in value.items() if key != "seconds"}
    if isinstance(value, (list, tuple)):
        return [flat(v) for v in value]
    return value.numpy().tobytes() if isinstance(value, torch.Tensor) else value


@pytest.fixture(scope="module")
def done(shapes):
    hook = Stop()
    loop = build(shapes, hooks=[hook])
    loop.run()
    return loop, hook


def test_phases_follow_one_another(done):
    loop, hook = done
    assert hook.phases == ["warm-up"] * 2 + ["paths"] * 3 + ["tiers"] * 12 + ["done"]
    assert set(hook.most) == {18}
    assert all(0 <= p <= 1 for p in hook.progress)
    assert all(seconds > 0 for seconds in loop.seconds.values())


def test_every_architecture_ends_within_its_budget(done, shapes):
    loop, _ = done
    for architecture in loop.architectures:
        ms = shapes.ms(architecture.shape())
        assert 0.97 * architecture.budget_ms <= ms <= architecture.budget_ms
    assert {ms for _, ms, _ in loop.events} >= {a.budget_ms for a in loop.architectures}


def test_the_supernet_holds_what_some_architecture_still_has(done):
    loop, _ = done
    left = [np.flatnonzero(row).tolist() for row in loop.left]
    assert loop.supernet.structure() == left == loop.ema.module.structure()
    assert loop.left.sum() < (loop.shapes.counts > 0).sum()
    held = {p for g in loop.weights.optim_wrapper.optimizer.param_groups for p in g["params"]}
    assert held == set(loop.supernet.parameters())


def test_the_warm_up_ends_once_the_loss_has_fallen(shapes):
    hook = Stop(60)
    loop = build(shapes, hooks=[hook], warmup=60, warmup_loss=0.85, paths=60)
    loop.run()
    ended = hook.phases.index("paths")
    assert ended < 59
    (step, _, text), *_ = loop.events
    assert "the warm-up ends, its running loss is" in text and step == ended + 1
    assert hook.most[ended] == step + 60 + SHORT["tiers"]


def test_a_warm_up_that_learned_nothing_says_so(shapes, caplog):
    loop = build(shapes, hooks=[Stop(3)], lr=0.0, warmup_loss=0.5)
    loop.run()
    assert loop.phase == "paths"
    assert "without having learned" in loop.events[0][2]
    assert "Raise search.warmup" in caplog.text


@pytest.mark.parametrize("step", [1, 3, 5, 6, 11, 17])
def test_a_resumed_search_ends_with_the_same_bytes(shapes, done, step):
    first = build(shapes, hooks=[Stop(step)])
    first.run()
    assert first.step == step and first.phase != "done"
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = build(shapes)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    second.run()
    assert flat(second.state_dict()) == flat(done[0].state_dict())


def run_as_one_of_two(rank: int, folder: Path) -> None:
    """What each process of the test below does."""
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=2)
    space = SearchSpace.from_config(SMALL)
    shapes, hook = Shapes(Pricing(device="v100").costs(space, 256)), Stop()
    loop = build(shapes, hooks=[hook], warmup=60, warmup_loss=0.9)
    halves = loop.task.halves
    halves |= {k: dataclasses.replace(c, rank=rank, world_size=2) for k, c in halves.items()}
    loop.run()
    loop.add(Architecture(shapes, 0.22, HASTY, seed=1))
    state = {key: value for key, value in loop.state_dict().items() if key != "weights"}
    (folder / str(rank)).write_text(f"{hook.phases.index('paths')} {digest(flat(state))}")


@pytest.mark.slow
def test_two_processes_end_their_warm_up_at_once_and_prefer_the_same(tmp_path):
    """Each sees other images, so that its own loss is another one."""
    first, second = in_two_processes(run_as_one_of_two, tmp_path)
    assert first == second and 3 < int(first.split()[0]) < 59


def test_paths_become_fewer_as_candidates_leave(shapes):
    loop = build(shapes)
    full = len(loop._paths())
    assert full == 4
    for architecture in loop.architectures:
        architecture.live[:, 2:] &= architecture.live[:, :2].sum(1, keepdims=True) == 0
    assert len(loop._paths()) == 2


def test_in_the_tiers_half_of_the_paths_are_the_architectures(shapes):
    loop = build(shapes)
    loop.phase, loop.step = "tiers", 4
    near = [min(abs(shapes.ms(p) / ms - 0.985) for ms in (0.2, 0.25)) for p in loop._paths()]
    assert sum(off < 0.016 for off in near) >= 2


@pytest.mark.parametrize("budgets", [(0.25,), (0.2, 0.25)])
def test_no_path_of_a_step_is_trained_twice(shapes, budgets):
    loop = build(shapes, budgets=budgets)
    loop.phase = "tiers"
    for loop.step in range(4):
        assert len({path.key for path in loop._paths()}) == 4


def test_a_mixture_can_train_the_weights(shapes):
    loop = build(shapes, weights="mixture", hooks=[Stop(12)])
    loop.run()
    assert loop.phase == "tiers" and math.isfinite(loop.losses["weights"])


def test_a_step_on_paths_dispatches_at_most_half_of_one_on_mixtures(shapes):
    loop = build(shapes, budgets=(0.2,), draws=8)
    mixture = dispatched(lambda: loop.weights.on_mixture(0, loop.left, True, SIDE)).total()
    paths = dispatched(lambda: loop.weights.on_paths(0, loop._paths(), SIDE)).total()
    drawn = dispatched(lambda: loop._draw(loop.architectures, 0, 0)).total()
    assert paths <= mixture
    assert paths + drawn <= 0.5 * 2 * mixture  # in which weights and architecture had one each


def test_a_step_waits_for_nothing(shapes):
    loop = build(shapes)
    loop.run()
    loop.phase, loop.step, loop.begun = "tiers", 8, 6
    assert not set(dispatched(lambda: loop._draw(loop.architectures, 8, 8))) & WAITS
    for step in (
        lambda: loop.weights.on_paths(8, loop._paths(), SIDE),
        lambda: loop.weights.on_mixture(8, loop.left, False, SIDE),
    ):
        operators = dispatched(step)
        operators["_local_scalar_dense"] -= 1  # the average's count, on the host
        assert not set(+operators) & WAITS


def test_a_further_budget_changes_no_weights(shapes):
    loop = build(shapes)
    loop.run()
    before = {name: tensor.clone() for name, tensor in loop.supernet.state_dict().items()}
    architecture = Architecture(shapes, 0.22, HASTY, seed=1)
    loop.add(architecture)
    assert 0.97 * 0.22 <= shapes.ms(architecture.shape()) <= 0.22
    assert not (architecture.left & ~loop.left).any()
    assert loop.architectures[-1] is architecture
    after = loop.supernet.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_network_that_the_supernet_lost_has_no_score(done, shapes):
    loop, _ = done
    full = np.ones_like(loop.left) & (shapes.counts > 0)
    drawn = shapes.draw(np.random.default_rng(0), 0.25, 20, full)
    kept = [a.shape() for a in loop.architectures]
    losses = loop.scorer.score([*drawn, *kept])
    known = [
        all(o < 0 or loop.left[i, o] for i, o in enumerate(shape.operators)) for shape in drawn
    ]
    assert np.isfinite(losses[: len(drawn)]).tolist() == known and not all(known)
    assert np.isfinite(losses[len(drawn) :]).all()


def test_a_loss_that_is_not_finite_ends_the_search(shapes):
    loop = build(shapes, lr=1e30)
    with pytest.raises(DivergedError, match="lower|Lower"):
        loop.run()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(tiers=-1), "tiers must be 0"),
        (dict(paths=0), "paths must be a positive"),
        (dict(checkpoint_interval=0), "checkpoint_interval must be a positive"),
        (dict(margin=1.0), "margin above 1"),
        (dict(draws=1), "draws must be 2"),
        (dict(weights="path"), "weights must be paths or mixture"),
    ],
)
def test_impossible_settings_are_refused(options, text):
    with pytest.raises(InputError, match=text):
        LoopSettings(**options)


@pytest.mark.parametrize(
    ("record", "options", "text"),
    [
        (Tiers, dict(candidates_begin=0.85), "candidates_begin must be below"),
        (Tiers, dict(skip_end=0.1), "skip_enters must be below"),
        (Tiers, dict(skip_start=0.0), "skip_start must be between"),
        (WidthRule, dict(close=0.3), "hold must be below"),
        (ShortRecipe, dict(warmup=2.0), "warmup must be a share"),
    ],
)
def test_schedules_that_would_divide_by_zero_are_refused_before_a_search(record, options, text):
    with pytest.raises(InputError, match=text):
        record(**options)
