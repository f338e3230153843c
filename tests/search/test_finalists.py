"""The last tier: who enters, who goes on, and that trainings are kept."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from prunet_det.search import finalists as module
from prunet_det.search.evolution import Region
from prunet_det.search.finalists import (
    CropTrainings,
    Finalist,
    FinalistSettings,
    Score,
    first_finalists,
    halve,
)
from prunet_det.search.shapes import Shapes
from prunet_det.training.crops import Augmentation, DeviceCrops
from prunet_det.training.divergence import DivergedError
from prunet_det.training.short_run import ShortRecipe, evaluate
from prunet_det.utils.config import from_mapping
from prunet_det.utils.errors import InputError
from prunet_det.utils.runs import RECORDS, RunStore
from prunet_det.zoo import create

MS = 0.22


@pytest.fixture(scope="module")
def shapes(costs):
    return Shapes(costs)


@pytest.fixture(scope="module")
def region(shapes):
    return Region(shapes=shapes, ms=MS)


@pytest.fixture(scope="module")
def drawn(region):
    return [*dict.fromkeys(region.draw(np.random.default_rng(0), 40))]


def field(shapes, drawn, count):
    return [
        Finalist(name=f"random {i}", shape=shape, ms=shapes.ms(shape))
        for i, shape in enumerate(drawn[:count])
    ]


class Judge:
    """Losses that a test gives, and a record of what was asked for."""

    def __init__(self, loss):
        self.loss, self.calls = loss, []

    def __call__(self, many, steps):
        self.calls.append((steps, len(many)))
        return [Score(accuracy=0.5, loss=self.loss(f.shape, steps)) for f in many]


SHORT = FinalistSettings(iterations=(10, 20, 40), kept=(4, 2), proposed=0)


def test_networks_are_narrowed_down_by_trainings_that_lengthen(shapes, drawn):
    order = {shape: i for i, shape in enumerate(drawn)}
    judge = Judge(lambda shape, steps: order[shape] if steps < 40 else -order[shape])
    ranking = halve(shapes, field(shapes, drawn, 9), judge, SHORT)
    assert judge.calls == [(10, 9), (20, 4), (40, 2)]
    # The longest training decides between the two that came so far.
    assert [order[f.shape] for f in ranking] == [1, 0, 2, 3, 4, 5, 6, 7, 8]
    assert [len(f.scores) for f in ranking] == [3, 3, 2, 2, 1, 1, 1, 1, 1]


def test_the_tiers_and_the_most_macs_are_trained_longest_however_they_start(shapes, drawn):
    slow = {"tiers", "highest MACs"}
    named = zip(["tiers", "random 1", "highest MACs", "random 2", "random 3"], drawn, strict=False)
    entrants = [Finalist(name=name, shape=shape, ms=MS) for name, shape in named]
    behind = {f.shape for f in entrants if f.name in slow}
    judge = Judge(lambda shape, steps: float((shape in behind) == (steps < 40)))
    ranking = halve(shapes, entrants, judge, SHORT)
    assert judge.calls == [(10, 5), (20, 5), (40, 4)]
    assert {f.name for f in ranking[:2]} == slow


def test_a_surrogates_proposals_enter_the_first_round(shapes, drawn):
    judge = Judge(lambda shape, steps: float(drawn.index(shape) != 20))
    told = []

    def propose(scored):
        told.extend(scored)
        return [drawn[20]]

    ranking = halve(shapes, field(shapes, drawn, 5), judge, SHORT, propose)
    assert [(t.shape, t.loss) for t in told] == [(s, 1.0) for s in drawn[:5]]
    assert judge.calls == [(10, 5), (10, 1), (20, 4), (40, 2)]
    assert ranking[0].name == "surrogate 1" and len(ranking) == 6


def test_a_training_that_diverged_is_the_worst(shapes, drawn):
    for criterion in ("loss", "top1"):
        settings = FinalistSettings(iterations=(10,), kept=(), criterion=criterion)
        entrants = field(shapes, drawn, 3)

        def train(many, steps):
            return [Score(0.0, math.inf), Score(0.6, 1.0), Score(0.5, 0.9)][: len(many)]

        ranking = halve(shapes, entrants, train, settings)
        assert ranking[-1] is entrants[0]
        assert ranking[0] is entrants[2 if criterion == "loss" else 1]
        json.dumps(ranking[-1].to_dict(), allow_nan=False)


def test_fewer_networks_than_are_kept(shapes, drawn):
    judge = Judge(lambda shape, steps: 1.0)
    ranking = halve(shapes, field(shapes, drawn, 1), judge, SHORT)
    assert judge.calls == [(10, 1), (20, 1), (40, 1)] and len(ranking) == 1


def test_no_rounds_leave_the_order_as_it_is(shapes, drawn):
    settings = FinalistSettings(iterations=(), kept=())
    entrants = field(shapes, drawn, 3)
    assert halve(shapes, entrants, Judge(None), settings) == entrants


def test_who_enters(shapes, region, drawn):
    settings = FinalistSettings(evolved=2, random=3)
    tiers = next(s for s in drawn if shapes.uniform(s, MS) not in (None, *drawn))
    evolved = [s for s in drawn if s != tiers][:4]
    entrants = first_finalists(region, tiers, evolved, settings, seed=0)
    names = [f.name for f in entrants]
    assert names[:5] == ["tiers", "uniform widths", "highest MACs", "evolution 1", "evolution 2"]
    assert names[5:] == ["random 1", "random 2", "random 3"]
    assert (entrants[1].shape.operators == tiers.operators).all()
    assert all(0.97 * MS <= f.ms <= MS for f in entrants)
    again = first_finalists(region, tiers, evolved, settings, seed=0)
    assert [f.shape for f in entrants] == [f.shape for f in again]
    # What two choosers chose enters once.
    same = first_finalists(region, tiers, [tiers], settings, seed=0)
    assert [f.name for f in same] == ["tiers", "uniform widths", "highest MACs", *names[5:]]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (dict(iterations=(200, 100), kept=(2,)), "iterations must increase"),
        (dict(kept=(2, 4)), "kept decrease"),
        (dict(kept=(4, 2)), "kept needs 1 numbers"),
        (dict(iterations=(0, 1, 2)), "positive integer"),
        (dict(random=-1), "0 or more"),
        (dict(criterion="speed"), "one of loss, top1"),
    ],
)
def test_settings_that_make_no_sense(values, sentence):
    with pytest.raises(InputError, match=sentence):
        from_mapping(FinalistSettings, values, "the last tier", InputError)


@pytest.fixture(scope="module")
def halves():
    generator = torch.Generator().manual_seed(0)

    def crops(part):
        labels = torch.arange(24) % 3
        noise = torch.randint(0, 60, (24, 3, 16, 16), generator=generator, dtype=torch.uint8)
        images = noise + (60 * labels)[:, None, None, None].to(torch.uint8)
        return DeviceCrops(
            images=images,
            labels=labels,
            classes=("a", "b", "c"),
            augmentation=Augmentation(input_size=(3, 16, 16), color_jitter=None),
            part=part,
            data_hash="made",
        )

    return {"weights": crops(0), "architecture": crops(1)}


def trainings(shapes, halves, folder, **options):
    recipe = ShortRecipe(batch_size=8, norm_batches=2, warmup=0.6)
    settings = dict(seed=3, progress=False, max_workers=1) | options
    return CropTrainings(shapes=shapes, recipe=recipe, halves=halves, folder=folder, **settings)


def test_trainings_are_done_once_and_kept(shapes, halves, drawn, tmp_path, monkeypatch):
    train = trainings(shapes, halves, tmp_path)
    first = train(drawn[:3], 3)
    assert all(0 <= s.accuracy <= 1 and math.isfinite(s.loss) for s in first)
    assert len({s.loss for s in first}) == 3
    path = tmp_path / RECORDS
    text = path.read_text()
    assert len(text.splitlines()) == 3 and train.seconds > 0

    def refuse(*_):
        raise AssertionError("it is trained again")

    with monkeypatch.context() as patch:
        patch.setattr(module, "short_run", refuse)
        assert trainings(shapes, halves, tmp_path)(drawn[2::-1], 3) == first[::-1]
    # A process was killed within a line: that training is done again, and gives the same.
    path.write_text(text[:-20])
    assert train(drawn[:3], 3) == first
    assert len(path.read_text().splitlines()) == 3
    # Another length, recipe or seed is another training.
    assert train(drawn[:1], 4) != first[:1]
    assert trainings(shapes, halves, tmp_path, seed=4)(drawn[:1], 3) != first[:1]
    assert len(path.read_text().splitlines()) == 5


def test_the_longest_training_comes_first(shapes, halves, drawn, tmp_path):
    train = trainings(shapes, halves, tmp_path)
    found = train(drawn[:4], 1)
    order = sorted(range(4), key=lambda i: -shapes.macs(drawn)[i])
    assert order != [0, 1, 2, 3]
    assert [run.figures["loss"] for run in RunStore(tmp_path)] == [found[i].loss for i in order]


def test_results_do_not_depend_on_the_threads_of_this_process(shapes, halves, drawn, tmp_path):
    one = trainings(shapes, halves, tmp_path / "a")(drawn[:1], 3)
    torch.set_num_threads(2)
    assert trainings(shapes, halves, tmp_path / "b")(drawn[:1], 3) == one
    assert torch.get_num_threads() == 2


def test_a_training_that_diverges_is_kept_as_the_worst(
    shapes, halves, drawn, tmp_path, monkeypatch
):
    def diverge(*_):
        raise DivergedError("the loss is nan")

    monkeypatch.setattr(module, "short_run", diverge)
    scores = trainings(shapes, halves, tmp_path)(drawn[:2], 3)
    assert scores == [Score(0.0, math.inf)] * 2
    monkeypatch.undo()
    assert trainings(shapes, halves, tmp_path)(drawn[:2], 3) == scores


def test_weights_are_kept_where_they_are_asked_for(shapes, halves, drawn, tmp_path, monkeypatch):
    train = trainings(shapes, halves, tmp_path, keep=4)
    (score,) = train(drawn[:1], 4)
    train(drawn[:1], 3)
    assert len([*tmp_path.glob("*.safetensors")]) == 1
    with monkeypatch.context() as patch:
        patch.setattr(module, "short_run", None)
        weights = train.weights(drawn[0], 4)
    net = create(train.training(drawn[0], 4).spec, num_classes=3)
    net.load_state_dict(weights)
    assert evaluate(net.eval(), halves["architecture"]) == pytest.approx(
        (score.accuracy, score.loss)
    )


@pytest.mark.slow
def test_two_processes_give_what_one_gives(shapes, halves, drawn, tmp_path):
    one = trainings(shapes, halves, tmp_path / "one")(drawn[:3], 3)
    two = trainings(shapes, halves, tmp_path / "two", max_workers=2)(drawn[:3], 3)
    assert one == two


def test_a_whole_last_tier(shapes, region, halves, drawn, tmp_path):
    from functools import partial

    from prunet_det.search.evolution import propose

    settings = FinalistSettings(iterations=(3, 4), kept=(2,), random=1, proposed=1)
    entrants = first_finalists(region, drawn[0], drawn[1:2], settings, seed=0)
    further = partial(propose, region, seed=0, count=settings.proposed, drawn=200)
    train = trainings(shapes, halves, tmp_path)
    ranking = halve(
        shapes,
        entrants,
        lambda many, steps: train([f.shape for f in many], steps),
        settings,
        lambda told: further(told),
    )
    assert {f.name for f in ranking} >= {"tiers", "evolution 1", "random 1", "surrogate 1"}
    best = ranking[0].scores[4].loss
    assert best == min(f.scores[4].loss for f in ranking if 4 in f.scores)
