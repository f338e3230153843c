"""What `report` and tools/report.py write says what the records say, and nothing else."""

from __future__ import annotations

import re
import statistics
from dataclasses import replace

import pytest

from prunet_det.benchmark import extras, plot, report, tables
from prunet_det.benchmark.fronts import axes, points
from prunet_det.benchmark.records import load_records, save_latencies
from prunet_det.benchmark.suite import Candidate
from prunet_det.utils import plots
from prunet_det.utils.io import read_csv, write_csv, write_json
from tests.benchmark.planted import Timed, runs, save, suite


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder of a suite with two seeds."""
    root = tmp_path_factory.mktemp("results")
    save(root / "small", suite(2, timed=Timed(scopes=("e2e",))))
    return root


def test_report_writes_everything(results, tmp_path, here):
    pytest.importorskip("plotly", reason="the page needs plotly (extra benchmark)")
    done = here("benchmark", "report", results / "small", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("not established (2 seeds at a point") == 2
    names = {p.name for p in tmp_path.iterdir()}
    stems = ["pareto", "pareto_predicted_backbone"]
    plots = {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    assert names == {"report.md", "points.csv", "index.html", *plots}
    text = (tmp_path / "report.md").read_text()
    assert "18 runs, 2 seeds a point" in text
    assert "Hand-written, no published networks: prunet_demo." in text
    assert all(f"]({stem}.svg)" in text for stem in stems)
    assert "PruNet is faster" not in text and "PruNet needs" not in text  # two seeds are too few
    assert "| gpunet_1 | 288 | 80.5 | 0.82 |" in text  # published, in a table of its own


def test_the_csv_is_what_the_records_say(results, tmp_path):
    records = load_records(results / "small")
    (tmp_path / "points.csv").write_text(tables.points_csv(records, {"suite": "small"}))
    comments, rows = read_csv(tmp_path / "points.csv")
    assert comments == {"suite": "small"} and len(rows) == 9 * 2
    for row in rows:
        own = [
            r for r in records if (r.model, str(r.input_size)) == (row["model"], row["input_size"])
        ]
        (ms,) = {
            x.ms
            for r in own
            for x in r.latencies
            if all(str(x.to_dict()[k]) == row[k] for k in ("kind", "scope", "device", "runtime"))
        }
        assert float(row["latency_ms"]) == pytest.approx(ms, rel=1e-5)
        assert float(row["mAP"]) == pytest.approx(statistics.mean(r.metrics["mAP"] for r in own))
        assert (row["seeds"], row["APl"]) == ("2", "")


def test_a_suite_that_is_not_timed_yet_is_reported(tmp_path):
    records = runs(Candidate("prunet_demo", "prunet", 128), [0.3, 0.4], 9.0, latencies=())
    save(tmp_path / "young", records)
    text = report.full(tmp_path)
    assert "0.350 \u00b1 0.071" in text and "no latency yet" in text
    report.figures(tmp_path)
    (tmp_path / "points.csv").write_text(tables.points_csv(records, {}))
    assert read_csv(tmp_path / "points.csv")[1][0]["latency_ms"] == ""


def test_published_parts_are_there_with_and_without_records(results, tmp_path):
    assert report.full(tmp_path) == "No records yet.\n"
    assert list(report.figures(tmp_path)) == ["published.svg"] and not report.csv_files(tmp_path)
    assert list(report.suites(results)) == ["small"]
    text = report.full(results)
    assert "](docs/benchmark/small_pareto.svg)" in text
    linked = re.findall(r"\]\(docs/benchmark/([^)]+)\)", text)
    figures, again = (report.figures(results) for _ in range(2))
    assert {*linked, "published.svg"} == {*figures, *report.csv_files(results)}
    for name, (draw, *data) in figures.items():
        plots.save(draw(*data), tmp_path / name, data)
        assert plots.shows(tmp_path / name, again[name][1:])  # or it would be stale


def test_verdicts_follow_the_records(tmp_path):
    save(tmp_path / "a", suite(3, timed=Timed(scopes=("e2e",))))
    assert "PruNet needs 0.58 of GPUNet's latency" in report.full(tmp_path)
    records = suite(3, timed=Timed(scopes=("e2e",)))
    slower = [
        r if r.family == "prunet" else s for r, s in zip(records, swapped(records), strict=True)
    ]
    save(tmp_path / "b", slower)
    (row,) = {
        line.rsplit("|", 2)[1].strip()
        for line in report.full(tmp_path).split("### b")[1].splitlines()
        if line.startswith("| measured, end to end") and "GPUNet | mAP" in line
    }
    assert row == "PruNet is slower"


def swapped(records):
    """With latencies of a tenth."""
    found = []
    for r in records:
        rows = [replace(x, ms=x.ms / 10, low=x.low / 10, high=x.high / 10) for x in r.latencies]
        found.append(replace(r, latencies=tuple(rows)))
    return found


def test_learning_rate_repeat_and_training_speed_are_told(tmp_path):
    assert extras.markdown(tmp_path, []) == ""
    chosen = {"learning_rate": 0.02, "by": "the mean", "mean_mAP": {"0.01": 0.1, "0.02": 0.2}}
    chosen["config_hash"] = "h"
    write_json(tmp_path / "learning_rate.json", chosen)
    records = suite(1)
    speed = dict(device="CPU", model="m", input_size=128, ratio=0.912)
    speed |= dict(disk_images_per_s=9.12, memory_images_per_s=10.0)
    write_csv(tmp_path / "throughput.csv", [speed], "profile")
    step = dict(model="m", input_size=128, part="iteration", step="backward", per="batch")
    write_csv(tmp_path / "profile.csv", [{**step, "ms": 66.93, "share": 0.2548}], "profile")
    text = extras.markdown(tmp_path, records)
    assert "| iteration, per batch | backward | 66.9 (25%) |" in text
    assert "0.02, chosen by the mean (mean mAP by learning rate: 0.01: 0.100, 0.02: 0.200)" in text
    assert "it is the highest that was tried" in text
    assert "| CPU | `m` | 128 | 9.1 | 10.0 | 0.91 |" in text
    write_json(tmp_path / "learning_rate.json", {**chosen, "config_hash": "another"})
    assert "trained at another learning rate" in extras.markdown(tmp_path, records)


def test_a_second_measurement_is_compared(tmp_path):
    for folder, factors in ((tmp_path, (1.0, 1.05, 2.0)), (tmp_path / "repeat", (3.0, 1.0, 2.1))):
        planted = [
            row.to_dict()
            for name, ms in zip(("prunet_p0", "gpunet_0", "gpunet_1"), factors, strict=True)
            for row in runs(Candidate(name, "prunet", 64), [0.1], ms, timed=Timed(0.1))[0].latencies
            if row.kind == "measured"
        ]
        save_latencies(folder, "cpu", planted, {})
    text = extras.markdown(tmp_path, [])
    for scope in ("backbone", "detector", "end to end"):
        assert f"| {scope} | 2 of 3 | 200.0% | 2 of 3 | 1 |" in text


def test_equal_seeds_and_narrow_ranges_are_drawn():
    records = runs(Candidate("prunet_demo", "prunet", 128), [0.1, 0.1, 0.1], 9.0)
    axis = next(a for a in axes(records) if a.scope == "detector")
    figure = plot.draw_pareto(points(records, axis), axis, "mAP", "one")
    (left, right), ticks = figure.axes[0].get_xlim(), figure.axes[0].get_xticks()
    assert 3 <= sum(left <= t <= right for t in ticks) <= 9


def test_latencies_of_other_weights_are_left_out(tmp_path):
    (record,) = runs(Candidate("prunet_demo", "prunet", 128), [0.1], 9.0, weights_hash="new")
    save(tmp_path, [replace(record, latencies=())])
    for weights, count in (("new", len(record.latencies)), ("old", 0)):
        about = {"weights": {"prunet_demo@128": weights}}
        save_latencies(tmp_path, "cpu", [x.to_dict() for x in record.latencies], about)
        (found,) = load_records(tmp_path)
        assert len(found.latencies) == count


def test_labels_cover_nothing():
    crowd = [
        run
        for family, models, start in (
            ("prunet", ("prunet_p0", "prunet_p1", "prunet_demo"), 9.0),
            ("gpunet", ("gpunet_0", "gpunet_1", "gpunet_2"), 10.0),
            ("efficientnet", ("efficientnet_b0", "efficientnet_b1", "efficientnet_b2"), 11.0),
        )
        for i, model in enumerate(models)
        for size in (256, 320)
        for run in runs(
            Candidate(model, family, size),
            [0.3 + 0.05 * i + (size - 256) / 2000] * 2,
            start + 8 * i + size / 9,
        )
    ]
    axis = axes(crowd)[0]
    figure = plot.draw_pareto(points(crowd, axis), axis, "mAP", "crowded")
    renderer = figure.canvas.get_renderer()
    axes_of = figure.axes[0]
    boxes = {t.get_text(): t.get_window_extent(renderer) for t in axes_of.texts if t.get_text()}
    boxes["legend"] = axes_of.get_legend().get_window_extent(renderer)
    assert len(boxes) == 19
    names = list(boxes)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert not boxes[a].overlaps(boxes[b]), f"{a} covers {b}"


def test_no_bar_is_cut_off():
    wide = runs(Candidate("prunet_demo", "prunet", 128), [0.3, 0.4], 9.0, timed=Timed(spread=0.8))
    axis = axes(wide)[0]
    figure = plot.draw_pareto(points(wide, axis), axis, "mAP", "wide")
    low, high = figure.axes[0].get_xlim()
    assert low < 9.0 * 1.3 * 0.2 and high > 9.0 * 1.3 * 1.8
    low, high = figure.axes[0].get_ylim()
    assert low < 0.3 and high > 0.4
