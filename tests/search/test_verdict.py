"""The verdict on a study, from planted trainings."""

from __future__ import annotations

import json

import numpy as np
import pytest

from prunet_det.search import entries as names
from prunet_det.search import trainings, verdict
from prunet_det.search.verdict import SearchStudy
from prunet_det.utils import plots
from prunet_det.utils.errors import UserError

SEEDS = 3


def plant(folder, networks, noise=0.001):
    """Entries and records of {(group, name, search seed): top-1}."""
    rng, entries, lines = np.random.default_rng(0), [], []
    for (group, name, seed), top1 in networks.items():
        entries.append(
            dict(
                group=group,
                name=name,
                search_seed=seed,
                latency_ms=0.495,
                search_seconds=100.0 if group == names.SEARCHED else 0.0,
                network=name,
                blocks=[
                    [0, "conv", 3, 24, 0],
                    [1, "irb", 5 if seed else 3, 24, 48 * (1 + (seed or 0))],
                ],
            )
        )
        for k in range(SEEDS):
            value = float(top1 + noise * rng.standard_normal())
            record = dict(network=name, recipe="r", train_seed=k, top1=value, seconds=25.0)
            lines.append(json.dumps(record))
    about = dict(recipe="r", budget_ms=0.5, device="v100, predicted", data="digits")
    (folder / names.ENTRIES).write_text(json.dumps({"about": about, "entries": entries}))
    (folder / trainings.RECORDS).write_text("\n".join(lines) + "\n")
    return folder


def random_networks(count=20):
    return {(names.RANDOM, f"random {i}", None): 0.5 + 0.01 * i for i in range(count)}


@pytest.fixture
def study(tmp_path):
    networks = random_networks()
    networks[names.SCALED, "scaled", None] = 0.55
    networks[names.SEARCHED, "searched 0", 0] = 0.685  # above 19 of 20
    networks[names.SEARCHED, "searched 1", 1] = 0.605  # above 11 of 20
    networks[names.UNIFORM, "uniform 0", 0] = 0.60
    networks[names.UNIFORM, "uniform 1", 1] = 0.65
    return SearchStudy.load(plant(tmp_path, networks))


def test_the_spread_is_that_of_networks_and_that_of_trainings(study):
    between, within = study.spread()
    assert between == pytest.approx(np.std(0.01 * np.arange(20), ddof=1), rel=0.05)
    assert within == pytest.approx(0.001, rel=0.5)


def test_percentiles_count_the_random_networks_that_are_beaten(study):
    first, second = study.group(names.SEARCHED)
    for one, expected in ((first, 0.95), (second, 0.55)):
        point, low, high = study.percentile(one)
        assert point == pytest.approx(expected)
        assert low <= point <= high
        assert high - low < 0.5


def test_what_each_searched_network_beats(study):
    (_, first), (_, second) = study.checks()
    assert all(first.values())
    assert [k for k, ok in second.items() if not ok] == [
        "at or above their 90th percentile",
        "not below uniform widths",
    ]


def test_random_search_of_the_same_time_is_stated(study):
    count, best = study.random_search(100.0)
    assert count == 4  # of 25 s each
    assert 0.6 < best < 0.69


def test_one_network_under_two_names_shares_its_trainings(tmp_path):
    networks = random_networks(4)
    plant(tmp_path, networks)
    data = json.loads((tmp_path / names.ENTRIES).read_text())
    twin = dict(data["entries"][0], group=names.SEARCHED, name="twin", search_seed=0)
    data["entries"].append(twin)
    (tmp_path / names.ENTRIES).write_text(json.dumps(data))
    found = SearchStudy.load(tmp_path)
    assert found.group(names.SEARCHED)[0].scores == found.group(names.RANDOM)[0].scores


def test_a_line_that_was_cut_off_is_left_out_and_a_damaged_one_is_said(tmp_path):
    plant(tmp_path, random_networks(3))
    path = tmp_path / trainings.RECORDS
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert len(trainings.read_records(tmp_path)) == 8
    path.write_text(whole.replace('"top1"', "top1", 1))
    with pytest.raises(UserError, match="line 1 of"):
        trainings.read_records(tmp_path)


def test_too_few_trainings_have_no_spread(tmp_path):
    plant(tmp_path, random_networks(2))
    with pytest.raises(UserError, match="at least 3 random networks"):
        SearchStudy.load(tmp_path).spread()


def test_the_plot_is_a_picture(study, tmp_path):
    plots.save(verdict.draw_comparison(study), tmp_path / "plot.png", study)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert plots.shows(tmp_path / "plot.png", study)


def test_the_interval_of_a_mean_is_students():
    assert verdict.interval([0.0, 1.0]) == pytest.approx(12.706 * 0.5, rel=1e-3)


def test_agreement_of_the_searches(study):
    (row,) = verdict.agreement(study)
    assert row == [names.SEARCHED, "0, 1", "1-1, 1-1", "100%", "50%", "2.00"]
