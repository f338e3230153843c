"""Trainings with recorded networks beside plain ones."""

from __future__ import annotations

from prunet_det.benchmark.suite import load_suite
from prunet_det.benchmark.training_speed import compare_speed_ups
from prunet_det.training import graphs


def test_kinds_are_compared_from_one_seed(tiny_suite, tmp_path, monkeypatch):
    recorded = []

    def compile_nothing(module, images, mode):
        recorded.append(images.shape)
        return module

    monkeypatch.setattr(graphs, "_compile", compile_nothing)
    suite = load_suite(tiny_suite)
    runs = compare_speed_ups(suite, suite.candidates[0], tmp_path, iterations=4)
    assert [r["speed_up"] for r in runs] == ["none", "none", "graph", "compile"]
    plain, again, graph, compiled = runs
    assert recorded == [(2, 3, 64, 64)], "the second batch shows that the size is a fixed one"
    assert plain["difference"] == again["difference"] == compiled["difference"] == 0.0
    assert plain["last_loss"] == again["last_loss"] == compiled["last_loss"] != plain["first_loss"]
    assert plain["images_per_s"] > 0 and plain["batch"] == 2 and not plain["reason"]
    assert "needs a CUDA device" in graph["reason"] and graph["images_per_s"] == 0.0
    assert [type(value) for value in graph.values()] == [type(value) for value in plain.values()]

    def compile_badly(module, images, mode):
        return lambda images: module(images * float("nan"))

    kinds = ("none", "compile")
    monkeypatch.setattr(graphs, "_compile", compile_badly)
    _, bad = compare_speed_ups(suite, suite.candidates[0], tmp_path, iterations=4, kinds=kinds)
    assert bad["reason"].endswith("losses are not finite.") and bad["images_per_s"] == 0.0

    def fail(module, images, mode):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(graphs, "_compile", fail)
    _, failed = compare_speed_ups(suite, suite.candidates[0], tmp_path, iterations=2, kinds=kinds)
    assert failed["reason"] == "RuntimeError: operation not permitted when stream is capturing"
