"""`search_backbone.py compare`: networks made, trained once each, and judged."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prunet_det.arch.spec import Provenance
from prunet_det.benchmark import search_compare
from prunet_det.benchmark.search_compare import CompareOptions, Judge, compare
from prunet_det.benchmark.search_study import (
    ENTRIES,
    FOUND,
    MACS,
    RANDOM,
    SCALED,
    SEARCHED,
    SURROGATE,
    UNIFORM,
    WIDTHS,
    read_entries,
    write_entries,
)
from prunet_det.search import evolution
from prunet_det.search.costs import Pricing
from prunet_det.search.result import FoundNetwork, SearchResult
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import SearchSpace
from prunet_det.training.divergence import DivergedError
from prunet_det.training.short_run import short_run
from prunet_det.utils.errors import InputError, UserError
from prunet_det.utils.runs import RECORDS, RunStore
from tests.search.conftest import SMALL

BUDGET, SIZE = 0.26, 256
PROVENANCE = Provenance("hand-written", {"reason": "a test"})
JUDGE = """
custom_imports = dict(imports=["prunet_det.classification"])
recipe = dict(iterations={iterations}, batch_size=4, marks=({marks},), norm_batches=1)
transform = dict(input_size=(3, 16, 16), color_jitter=None, hflip=0.0, scale=(0.8, 1.0))
crops = dict(type="ImageFolder", data_root="{data}", transform=transform)
train_data = dict(dataset=dict(crops, split="train"))
score_data = dict(dataset=dict(crops, split="val"))
"""


@pytest.fixture(scope="module", autouse=True)
def _few_evaluations():
    """There are hardly more networks within the budget."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evolution, "_EVOLVED", 40)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images of two colours."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 16)):
        for label in range(2):
            (folder := root / split / "ab"[label]).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 120, (18, 18, 3), np.uint8)
                image[..., label] += 100
                Image.fromarray(image).save(folder / f"{i}.png")
    return root


def write_judge(path, data, iterations=3, marks=1):
    path.write_text(JUDGE.format(data=data, iterations=iterations, marks=marks))
    return str(path)


@pytest.fixture(scope="module")
def judge(tmp_path_factory, data):
    return write_judge(tmp_path_factory.mktemp("judge") / "judge.py", data)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.py"
    path.write_text(f"space = {SMALL}\n")
    return str(path)


@pytest.fixture(scope="module")
def shapes():
    return Shapes(Pricing(device="v100").costs(SearchSpace.from_config(SMALL), SIZE))


def save_search(folder, shapes, seed, budget=BUDGET, final=True, **figures):
    """A result as a search saves it, of a random network."""
    found, tiers = shapes.draw(np.random.default_rng(seed), budget, 2)
    spec, before = (
        shapes.space.to_spec(shape, "found", PROVENANCE, SIZE) for shape in (found, tiers)
    )
    limit = shapes.costs.budget(budget)
    network = FoundNetwork(
        spec=spec,
        budget=limit,
        kind="predicted",
        ms=shapes.ms(found),
        tiers=before,
        final=final,
        figures={"seconds": 4.0, **figures},
    )
    run = {"seed": seed, "seconds": {"warm-up": 1.0, "tiers": 2.0, "last tier": 9.0}}
    SearchResult(networks={budget: network}, run=run, folder=folder).save()
    return str(folder)


def options(out, judge, **more):
    given = dict(random=3, trainings=2, surrogates=0, input_size=SIZE, train_on="cpu")
    return CompareOptions(**{**given, "out": str(out), "judge": judge, "progress": False, **more})


@pytest.fixture(scope="module")
def done(tmp_path_factory, judge, config, shapes):
    """A whole comparison of one search, and its options."""
    root = tmp_path_factory.mktemp("done")
    given = options(
        root / "out",
        judge,
        config=config,
        budget_ms=BUDGET,
        searches=[save_search(root / "search", shapes, 0)],
        surrogates=1,
    )
    return compare(given), given


def test_every_network_has_its_latency_and_its_trainings(done, shapes):
    study, _ = done
    counts = {group: len(study.group(group)) for group in study.groups}
    single = (SEARCHED, FOUND, UNIFORM, WIDTHS, SURROGATE, MACS, SCALED)
    assert counts == {RANDOM: 3, **dict.fromkeys(single, 1)}
    assert study.marks == [1, 3]
    for c in study.contestants:
        assert [run.seed for run in c.runs] == [0, 1]
        assert 0.97 * BUDGET <= c.entry.latency_ms <= BUDGET
        assert all(0 <= score <= 1 for mark in study.marks for score in c.scores(mark))
    (searched,) = study.group(SEARCHED)
    assert searched.entry.search_seconds == 7.0 and searched.entry.search_seed == 0
    for group in (UNIFORM, WIDTHS):
        (other,) = study.group(group)
        own, others = (
            [[(b.kind, b.kernel) for b in stage.blocks] for stage in c.entry.spec.stages]
            for c in (searched, other)
        )
        assert own == others and other.entry.search_seed == 0
    space = shapes.space
    macs = {
        c.entry.name: shapes.macs([space.shape_of(c.entry.spec)])[0]
        for c in study.contestants
        if c.entry.group != SCALED
    }
    assert max(macs, key=macs.get) == MACS


def test_what_is_trained_is_not_trained_again(done):
    study, given = done
    records = Path(given.out) / RECORDS
    before = records.read_bytes()
    again = compare(given)
    assert records.read_bytes() == before
    assert again.to_dict() == study.to_dict()
    assert compare(CompareOptions(out=given.out, judge="gone.py", trainings=0)).to_dict() == (
        study.to_dict()
    )
    more = compare(replace(given, trainings=3))
    assert min(len(c.runs) for c in more.contestants) == 3


def test_a_surrogate_is_told_by_steps_whatever_the_seconds(done, shapes, tmp_path):
    study, given = done
    (other,) = study.group(SURROGATE)
    assert other.entry.told == 3 and study.group(SEARCHED)[0].entry.search_steps == 0
    scores = {"finalists": [{"scores": {"1": [0.5, 1.0]}}, {"scores": {"1": [0.6, 0.9]}}]}
    told = []
    for seconds in (0.001, 1e6):
        search = save_search(tmp_path / f"{seconds}", shapes, 0, **{**scores, "seconds": seconds})
        own = replace(given, out=str(tmp_path / f"out{seconds}"), searches=[search])
        shutil.copytree(given.out, own.out)
        _, entries = read_entries(own.out)
        write_entries(Path(own.out), study.about, [e for e in entries if e.group == RANDOM])
        found = compare(own)
        assert found.group(SEARCHED)[0].entry.search_steps == 2
        told += [c.entry.to_dict() for c in found.group(SURROGATE)]
    assert told[0] == told[1] and told[0]["told"] == 2


def test_a_training_that_diverges_ends_no_study(judge, config, tmp_path, monkeypatch, caplog):
    def diverges(spec, recipe, train, score, seed):
        if spec.name == "random_0" and seed == 0:
            raise DivergedError("the loss is nan.")
        return short_run(spec, recipe, train, score, seed)

    monkeypatch.setattr(search_compare, "short_run", diverges)
    given = options(tmp_path, judge, config=config, budget_ms=BUDGET, surrogates=1)
    study = compare(given)
    bad, *others = study.group(RANDOM)
    assert bad.scores(3)[0] == 0.0 and len(bad.losses(3)) == 1 and "top-1 of 0" in caplog.text
    assert all(len(c.losses(3)) == 2 for c in others) and len(study.group(SURROGATE)) == 1
    assert compare(given).to_dict() == study.to_dict()


def test_networks_of_another_study_are_judged_without_prices_or_space(done, judge, tmp_path):
    _, given = done
    found = compare(options(tmp_path, judge, networks=[given.out], trainings=1))
    assert len(found.contestants) == 10
    theirs = {run.key: run.figures for c in done[0].contestants for run in c.runs}
    ours = {run.key: run.figures for c in found.contestants for run in c.runs}
    assert ours == {key: figures for key, figures in theirs.items() if key in ours} and ours
    assert (tmp_path / "curves.svg").is_file() and (tmp_path / "comparison.svg").is_file()


def test_the_recipe_is_another_one_with_other_steps_or_data_but_not_elsewhere(
    judge, data, tmp_path
):
    digest = Judge(judge).digest
    assert Judge(write_judge(tmp_path / "a.py", data, marks=2)).digest == digest
    assert Judge(write_judge(tmp_path / "b.py", data, iterations=4)).digest != digest
    moved = tmp_path / "moved"
    moved.symlink_to(data)
    assert Judge(write_judge(tmp_path / "c.py", moved)).digest == digest


def test_what_does_not_belong_together_is_refused(done, judge, config, data, shapes, tmp_path):
    _, given = done
    other = write_judge(tmp_path / "longer.py", data, iterations=4)
    with pytest.raises(UserError, match="holds a comparison with another recipe"):
        compare(options(given.out, other))
    with pytest.raises(UserError, match=r"another budget_ms \(0.26, not 0.27\)"):
        compare(replace(given, budget_ms=0.27, searches=[]))
    with pytest.raises(UserError, match="holds a search for 0.26 ms, not 0.27 ms"):
        compare(replace(given, budget_ms=0.27, out=str(tmp_path / "x")))
    twin = save_search(tmp_path / "twin", shapes, 1)
    run = tmp_path / "twin" / "run.json"
    run.write_text(run.read_text().replace('"seed": 1', '"seed": 0'))
    with pytest.raises(UserError, match="another network of the name 'searched 0'"):
        compare(replace(given, searches=[twin]))
    begun = save_search(tmp_path / "begun", shapes, 2, final=False)
    with pytest.raises(UserError, match="has not chosen for 0.26 ms yet; resume it"):
        compare(replace(given, searches=[begun]))
    with pytest.raises(UserError, match="nothing is to be compared"):
        compare(options(tmp_path / "y", judge))
    with pytest.raises(UserError, match="give --budget-ms"):
        compare(options(tmp_path / "y", judge, config=config))
    with pytest.raises(UserError, match="name it"):
        compare(options(tmp_path / "y", judge, searches=["x"]))
    with pytest.raises(InputError, match="is no judge: it has no `recipe`"):
        compare(options(tmp_path / "y", config, networks=[given.out]))
    assert not (tmp_path / "y" / ENTRIES).exists()


def test_an_ablation_is_a_group_of_its_own(done, shapes, tmp_path):
    _, given = done
    folder = save_search(tmp_path / "search", shapes, 5)
    found = compare(
        replace(
            given,
            out=str(tmp_path / "out"),
            searches=[f"tier 1 off={folder}"],
            random=0,
            surrogates=0,
        )
    )
    (one,) = found.contestants
    assert (one.entry.group, one.entry.name) == ("tier 1 off", "tier 1 off 5")


@pytest.mark.slow
def test_the_command_prints_the_judge_first_and_its_processes_agree_with_one(
    done, judge, here, tmp_path
):
    _, given = done
    args = ("--networks", given.out, "--trainings", 2, "--train-on", "cpu", "--quiet")
    ran = here(
        "search_backbone", "compare", "--judge", judge, "--out", tmp_path, "--jobs", 2, *args
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.startswith("The random networks spread by")
    one, two = (
        {run.key: run.figures for run in RunStore(folder)} for folder in (given.out, tmp_path)
    )
    assert two == {key: one[key] for key in two} and len(read_entries(tmp_path)[1]) == 10
