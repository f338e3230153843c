"""What a study of searches says, from planted trainings and from the published ones."""

from __future__ import annotations

import numpy as np
import pytest

from prunet_det.arch.spec import ArchSpec, BlockSpec, Provenance, StageSpec, StemSpec, TailSpec
from prunet_det.benchmark import search_tables
from prunet_det.benchmark.search_study import (
    ENTRIES,
    FOUND,
    RANDOM,
    SCALED,
    SEARCHED,
    SURROGATE,
    UNIFORM,
    Entry,
    SearchStudy,
    read_entries,
    write_entries,
)
from prunet_det.search.costs import Pricing
from prunet_det.search.shapes import Shapes
from prunet_det.utils import plots
from prunet_det.utils.errors import InputError, UserError
from prunet_det.utils.runs import Run, RunStore
from tests.conftest import ROOT
from tests.search.test_space import config_space

JUDGED = ROOT / "docs" / "results" / "search" / "judge"
PUBLISHED = JUDGED / "0.5ms"
ABOUT = {"recipe": "r", "budget_ms": 0.5, "device": "v100, predicted", "data": "digits"}
MARKS = (200, 800)


def spec(name: str, hidden: int = 48, kernel: int = 3) -> ArchSpec:
    blocks = BlockSpec("conv", 24, 24), BlockSpec("irb", 24, 24, kernel=kernel, hidden=hidden)
    return ArchSpec(
        name=name,
        stem=StemSpec((24,)),
        stages=tuple(StageSpec((block,)) for block in blocks),
        tail=TailSpec(64),
        provenance=Provenance("hand-written", {"reason": "a test"}),
    )


def plant(folder, networks, noise=0.001, trainings=3, marks=MARKS[-1:], early=None):
    """Entries and records of {(group, search seed): [top-1 of each of its networks]}.

    Args:
        early: Of the group `random`, what the first mark says instead of the truth.
    """
    rng, entries, store, width = np.random.default_rng(0), [], RunStore(folder), 0
    for (group, seed), worths in networks.items():
        for i, worth in enumerate(worths):
            width += 1
            entry = Entry(
                group=group,
                name=f"{group} {seed} {i}",
                spec=spec("planted", 8 * width),
                latency_ms=0.495,
                search_seed=seed,
                search_seconds=100.0 if group == SEARCHED else 0.0,
            )
            entries.append(entry)
            for k in range(trainings):
                curve = {str(m): [float(worth + noise * rng.standard_normal()), 1.0] for m in marks}
                if early and group == RANDOM:
                    curve[str(marks[0])][0] = early[i]
                figures = {"curve": curve}
                subject = entry.spec.digest
                run = dict(subject=subject, recipe="r", seed=k, figures=figures, seconds=25.0)
                store.add(Run(**run, made={"machine": "here"}))
    write_entries(folder, ABOUT, entries)
    return SearchStudy.load(folder)


RANDOM_WORTHS = [0.5 + 0.01 * i for i in range(20)]
NETWORKS = {
    (RANDOM, None): RANDOM_WORTHS,
    (SCALED, None): [0.55],
    (SEARCHED, 0): [0.685],  # above 19 of 20
    (SEARCHED, 1): [0.605],  # above 11 of 20
    (UNIFORM, 0): [0.60],
    (UNIFORM, 1): [0.65],
}


@pytest.fixture
def study(tmp_path):
    return plant(tmp_path, NETWORKS)


def test_percentiles_count_the_random_networks_that_are_beaten(study):
    for one, expected in zip(study.group(SEARCHED), (0.95, 0.55), strict=True):
        point, low, high = study.percentile(one)
        assert point == pytest.approx(expected)
        assert low <= point <= high and high - low < 0.5


def test_what_each_searched_network_beats(study):
    first, second = map(study.checks, study.group(SEARCHED))
    assert all(first.values())
    assert [k for k, ok in second.items() if not ok] == [
        "at or above their 90th percentile",
        "not below uniform widths",
    ]


def test_groups_are_compared_seed_by_seed(study):
    found = study.against(SEARCHED, UNIFORM)
    assert found.value == pytest.approx((0.685 - 0.60 + 0.605 - 0.65) / 2, abs=0.003)
    assert found.error == pytest.approx(study.noise * (2 / 2**2 / 3 * 2) ** 0.5)
    assert study.against(SEARCHED, SURROGATE) is None
    said = "\n".join(search_tables.verdict(study))
    assert "searched: 1 of 2 at or above the 90th percentile" in said
    assert "searched against uniform widths: +0.0" in said and "better" in said


def test_without_random_networks_the_noise_is_that_of_all_trainings(tmp_path):
    rows = {("tiers", 0): [0.7], ("tiers", 1): [0.6], ("tiers, without tier 1", 0): [0.8]}
    study = plant(tmp_path, rows, noise=0.02, trainings=40)
    assert study.noise == pytest.approx(0.02, rel=0.2)
    assert study.against("tiers", "tiers, without tier 1").error > 0


def test_a_part_of_the_tiers_is_compared_with_the_tiers_and_any_other_with_the_search(tmp_path):
    rows = {(RANDOM, None): RANDOM_WORTHS[:2], (SEARCHED, 0): [0.7], (FOUND, 0): [0.65]}
    rows[f"{FOUND}, without tier 1", 0] = [0.6]
    rows["without evolution", 0] = [0.72]
    said = "\n".join(search_tables.verdict(plant(tmp_path, rows)))
    assert f"{FOUND} against {FOUND}, without tier 1: +0.0" in said
    assert f"{SEARCHED} against {FOUND}, without" not in said
    assert f"{SEARCHED} against without evolution: -0.0" in said


def test_random_search_of_the_same_time_is_stated(study):
    replay = study.random_search(study.group(SEARCHED)[0])
    assert replay.count == 4  # of 25 s each
    assert 0.6 < replay.top1 < 0.69
    assert study.random_search(study.group(UNIFORM)[0]) is None


@pytest.mark.parametrize("informed", [True, False])
def test_random_search_chooses_by_a_shorter_training_not_by_what_is_reported(tmp_path, informed):
    """Sixteen of twenty networks have time for 200 steps; the best by them may not be the best."""
    early = RANDOM_WORTHS if informed else RANDOM_WORTHS[::-1]
    found = plant(tmp_path, NETWORKS, marks=MARKS, early=early)
    replay = found.random_search(found.group(SEARCHED)[0])
    assert (replay.count, replay.mark) == (16, 200)
    assert replay.top1 == pytest.approx(0.69 if informed else 0.50, abs=0.01)
    first, second = map(found.checks, found.group(SEARCHED))
    check = "not below random search by more than the noise"
    assert (first[check], second[check]) == ((False, False) if informed else (True, True))


def test_random_search_has_all_networks_where_no_training_has_the_machine_of_the_search(tmp_path):
    found = plant(tmp_path, NETWORKS)
    about, entries = read_entries(tmp_path)
    elsewhere = [Entry(**{**entry.__dict__, "search_machine": "there"}) for entry in entries]
    found = SearchStudy(about, elsewhere, RunStore(tmp_path))
    assert found.random_search(found.group(SEARCHED)[0]).count == 20


def test_tables_show_the_judge_first_then_the_curves(tmp_path):
    found = plant(tmp_path, {**NETWORKS, (SURROGATE, 0): [0.7]}, marks=MARKS)
    shown = search_tables.printed(found)
    places = [shown.index(w) for w in ("spread by", "corrected", "curves", "networks of one", "±")]
    assert places == sorted(places)
    (first, second) = search_tables.marks_table(found)[1]
    assert first[-1].startswith("0.9") or first[-1].startswith("1.0")  # tau of planted worths
    assert (first[0], second[0], second[-1]) == ("200", "800", "-")
    header, rows = search_tables.searched_table(found)
    assert "not below the surrogate by more than the noise" in header
    assert all(len(row) == len(header) for row in rows)


def test_one_training_each_is_shown_without_noise(tmp_path):
    found = plant(tmp_path, NETWORKS, trainings=1)
    assert found.noise == 0.0
    assert "2 trainings of each" in search_tables.printed(found)


def test_one_network_under_two_names_shares_its_trainings(tmp_path):
    plant(tmp_path, {(RANDOM, None): RANDOM_WORTHS[:4]})
    about, entries = read_entries(tmp_path)
    twin = Entry(**{**entries[0].__dict__, "group": SEARCHED, "name": "twin", "search_seed": 0})
    write_entries(tmp_path, about, [*entries, twin])
    found = SearchStudy.load(tmp_path)
    assert found.group(SEARCHED)[0].runs == found.group(RANDOM)[0].runs


def test_trainings_by_another_recipe_do_not_count(tmp_path, study):
    about, entries = read_entries(tmp_path)
    with pytest.raises(UserError, match="was trained yet"):
        SearchStudy({**about, "recipe": "other"}, entries, RunStore(tmp_path))


def test_a_network_that_is_not_what_its_entry_says_is_refused(tmp_path, study):
    path = tmp_path / ENTRIES
    path.write_text(path.read_text().replace('"hidden": 8}', '"hidden": 16}', 1))
    with pytest.raises(InputError, match=r"entries.json is no list of compared networks: random"):
        SearchStudy.load(tmp_path)


@pytest.mark.parametrize("draw", [search_tables.draw_comparison, search_tables.draw_curves])
def test_plots_are_pictures(tmp_path, draw):
    found = plant(tmp_path, NETWORKS, marks=MARKS)
    plots.save(draw(found), tmp_path / "plot.png", found)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert plots.shows(tmp_path / "plot.png", found)


def test_the_published_study_comes_out_again():
    """To the last digit."""
    published = SearchStudy.load(PUBLISHED)
    assert published.marks == [200, 400, 800, 1200] and len(published.contestants) == 43
    said = search_tables.spread_sentence(published)
    assert "spread by 0.026 " in said and "network by 0.006: a ratio of 4.4." in said
    _, groups = search_tables.groups_table(published)
    assert groups[0][3:5] == ["0.958 ± 0.012", "0.954 to 0.963"]
    assert next(row for row in groups if row[0] == FOUND)[3] == "0.955 ± 0.006"
    header, rows = search_tables.searched_table(published)
    assert [row[:3] for row in rows] == [
        ["0", "0.954", "95 (85 to 100)"],
        ["1", "0.963", "100 (100 to 100)"],
        ["2", "0.957", "100 (98 to 100)"],
    ]
    assert [row[3:9].count("yes") for row in rows] == [6, 5, 6] and len(header) == 10
    assert rows[0][-1] == "646 s; 20 random networks for 400 steps, the best 0.952"


@pytest.mark.parametrize("folder", sorted(JUDGED.iterdir()), ids=lambda folder: folder.name)
def test_published_networks_cost_what_their_entries_say(folder):
    """By today's prices; the scaled P0 is no network of the space."""
    about, entries = read_entries(folder)
    space = config_space("quick")
    shapes = Shapes(Pricing(device="v100").costs(space, about["input_size"]))
    assert (space.hash, shapes.costs.table_hash) == (about["space"], about["table"])
    for entry in [entry for entry in entries if entry.group != SCALED]:
        ms = shapes.ms(space.shape_of(entry.spec))
        assert ms == pytest.approx(entry.latency_ms, rel=1e-9), entry.name
