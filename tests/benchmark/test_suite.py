"""Suites: one recipe for all their networks, and what is no suite."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from prunet_det.arch.spec import Provenance
from prunet_det.benchmark.campaign import in_turn
from prunet_det.benchmark.suite import check_candidates, load_suite
from prunet_det.detection.letterbox import set_input_size
from prunet_det.utils.errors import UserError
from prunet_det.zoo.models import resolve_spec
from tests.conftest import ROOT


@pytest.mark.parametrize("name", ["digits", "glyphs", "coco"])
def test_suites_are_fair(name, monkeypatch):
    """One recipe: two candidates' configs differ in the backbone and the size alone."""
    monkeypatch.chdir(ROOT)
    suite = load_suite(name)
    check_candidates(suite.candidates)
    assert {c.family for c in suite.candidates} == {"prunet", "gpunet", "efficientnet"}

    def rest(candidate):
        cfg = suite.build(candidate, 0, "work")
        scales = [s["scale"] for s in cfg.test_dataloader.dataset.pipeline if "scale" in s]
        assert scales == [(candidate.input_size,) * 2]
        cfg.model.pop("backbone")
        cfg.train_dataloader.dataset = cfg.train_dataloader.dataset.dataset
        set_input_size(cfg, 0)
        return json.dumps(cfg.to_dict(), default=str)

    assert len({rest(c) for c in suite.candidates}) == 1


@pytest.mark.parametrize("name", ["digits", "glyphs", "coco"])
def test_whatever_is_done_is_balanced_over_families(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    suite = load_suite(name)
    wanted = Counter(c.family for c in suite.candidates)
    order, done = in_turn(suite.candidates), Counter[str]()
    assert sorted(map(str, order)) == sorted(map(str, suite.candidates))
    for candidate in order:
        waiting = [done[f] for f in wanted if done[f] < wanted[f]]
        assert done[candidate.family] == min(waiting)
        done[candidate.family] += 1


def test_recipe_has_one_hash(monkeypatch):
    monkeypatch.chdir(ROOT)
    suite = load_suite("digits")
    own = suite.config_hash()
    assert replace(suite, candidates=suite.candidates[:1]).config_hash() == own
    assert replace(suite, data_root="elsewhere").config_hash() == own, "the data have their own"
    cached = {**suite.options, "train_dataloader.dataset.cache": True}
    assert replace(suite, options=cached).config_hash() == own, "the same images"
    assert replace(suite, max_iters=7).config_hash() != own
    assert replace(suite, held_out=True).config_hash() != own
    with pytest.raises(UserError, match=r"NAME@PIXELS|MODEL@PIXELS"):
        suite.choose(["gpunet_2"])
    assert str(suite.choose(["gpunet_2@96"]).candidates[0]) == "gpunet_2@96"
    own = next(c for c in suite.candidates if c.source.endswith(".json"))
    other = suite.choose([f"{own.model}@64"]).candidates[0]
    assert other.source == own.source and str(other) == f"{own.model}@64"
    assert suite.choose([f"{own.source}@{own.input_size}"]).candidates == (own,)


def test_networks_of_ones_own_join_by_their_file(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    suite = load_suite("digits")
    spec = resolve_spec("prunet_n")
    mine, found, other = (tmp_path / name / "arch.json" for name in ("mine", "found", "other"))
    for file in (mine, found, other):
        file.parent.mkdir()
    replace(spec, name="gpunet_x", provenance=Provenance("hand-written", {"reason": "x"})).save(
        mine
    )
    searched = Provenance("searched", {"command": "x", "budget": {}, "seed": 0, "data": "x"})
    replace(spec, name="mine_1ms", input_size=96, provenance=searched).save(found)
    replace(spec, name="mine_1ms", input_size=96, provenance=searched).save(other)
    first, second = suite.choose([f"{mine}@64", str(found)]).candidates
    assert (str(first), first.family, first.source) == ("gpunet_x@64", "gpunet", str(mine))
    assert (str(second), second.family, second.source) == ("mine_1ms@96", "searched", str(found))
    assert str(suite.choose([f"{found}@128"]).candidates[0]) == "mine_1ms@128"
    with pytest.raises(UserError, match="mine_1ms@96 twice"):
        suite.choose([str(found), str(other)])
    with pytest.raises(UserError, match="there is no .*none.json"):
        suite.choose([str(tmp_path / "none.json")])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("config = 'x.py'\n", "the key 'models' is missing"),
        ("config = 'x.py'\nmodels = dict()\nsees = 1\n", "unknown key 'sees'.*'seeds'"),
        (
            "config = 'x.py'\nmodels = dict(resnet=[('resnet18', 64)])\n",
            "families of models: unknown key 'resnet'",
        ),
        ("config = 'x.py'\nmodels = dict(prunet=[('prunet_p0', 64)])\n", "no config file x.py"),
        ("config = (\n", "no valid config"),
        ("config = 'x.py'\nmodels = dict(prunet=[])\n", "names no models"),
        (
            "config = 'x.py'\nmodels = dict(prunet=[('prunet_n', 64), ('prunet_n', 64)])\n",
            "names prunet_n@64 twice",
        ),
        ("config = 'x.py'\nmodels = dict(searched=[('a/x.json', 64)])\n", "no .*a/x.json"),
    ],
)
def test_suites_that_are_refused(tmp_path, text, said):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(UserError, match=said):
        load_suite(tmp_path / "bad.py").recipe()


def test_options_that_are_no_suites(monkeypatch):
    monkeypatch.chdir(ROOT)
    suite = load_suite("digits")
    with pytest.raises(UserError, match="backbones are a suite's models"):
        replace(suite, options={"model.backbone.drop_path_rate": 0.1}).recipe()
    with pytest.raises(UserError, match="max_iters must be a positive integer"):
        replace(suite, max_iters=0).recipe()
