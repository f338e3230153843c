"""tools/benchmark.py refuses bad input in one sentence, and stops where it is told to."""

from __future__ import annotations

import json

import pytest

from prunet_det.benchmark.records import record_path
from prunet_det.utils.errors import UserError
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--suite", "nowhere.py"], "there is no suite nowhere.py; the package's are coco"),
        (["--models", "vgg16"], "has no model 'vgg16'; it has"),
        (["--models", "prunet_p9@128"], "there is no network 'prunet_p9'"),
        (["--seeds", "0"], "--seeds: must be at least 1"),
        (["--jobs", "0"], "--jobs: must be at least 1"),
        (["--max-minutes", "0"], "--max-minutes: must be a number above 0"),
        (["report", "/nonexistent"], "/nonexistent"),
        (["search", "--budgets", "1", "--out", "x"], "config after --"),
        (["time", "--out", "/nonexistent"], "holds no records"),
        (["--options", "model.backbone.drop_path_rate=0.1"], "backbones are a suite's models"),
        (["--max-iters", "0"], "--max-iters: must be at least 1"),
        (["profile", "--iterations", "0"], "--iterations: must be at least 1"),
    ],
)
def test_refused(refused, tmp_path, flags, said):
    verb = flags[0] if not flags[0].startswith("-") else None
    extra = [] if verb else ["--out", tmp_path / "out"]
    assert said in refused("benchmark", *flags, *extra)


def test_unwritable_folder(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused("benchmark", "--out", tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("config = 'x.py'\n", "has no 'models'"),
        ("config = 'x.py'\nmodels = dict()\nsees = 1\n", "unknown 'sees'"),
        ("config = 'x.py'\nmodels = dict(resnet=[('resnet18', 64)])\n", "family 'resnet'"),
        ("config = 'x.py'\nmodels = dict(prunet=[('prunet_p0', 64)])\n", "no config file x.py"),
        ("config = (\n", "no valid config"),
        ("config = 'x.py'\nmodels = dict(prunet=[])\n", "names no models"),
        (
            "config = 'x.py'\nmodels = dict(prunet=[('a/x.json', 64), ('b/x.json', 64)])\n",
            "names x@64 twice",
        ),
    ],
)
def test_bad_suite(refused, tmp_path, text, said):
    suite = tmp_path / "bad.py"
    suite.write_text(text)
    assert said in refused("benchmark", "--suite", suite, "--out", tmp_path / "out")


def test_damaged_record_is_moved_aside_and_time_is_kept(tiny_suite, tmp_path, here):
    path = record_path(tmp_path, "prunet_tiny_64_seed0")
    path.parent.mkdir()
    path.write_text('{"model": "prunet_')
    flags = ["--suite", tiny_suite, "--out", tmp_path, "--max-minutes", 1e-9]
    done = here("benchmark", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no readable record" in done.stderr and "Moved to" in done.stderr
    assert not path.exists() and list((tmp_path / "work" / "damaged").iterdir())
    assert "left: prunet_tiny_64_seed0." in done.stderr


@pytest.mark.parametrize("name", ["digits", "glyphs", "coco"])
def test_suites_are_fair(name, monkeypatch):
    """One recipe: two points' configs differ in the backbone and the size alone."""
    from prunet_det.benchmark.suite import check_points, load_suite, set_input_size

    monkeypatch.chdir(ROOT)
    suite = load_suite(name)
    check_points(suite.points)
    assert {p.family for p in suite.points} == {"prunet", "gpunet", "efficientnet"}

    def rest(point):
        cfg = suite.build(point, 0, "work")
        scales = [s["scale"] for s in cfg.test_dataloader.dataset.pipeline if "scale" in s]
        assert scales == [(point.input_size,) * 2]
        cfg.model.pop("backbone")
        cfg.train_dataloader.dataset = cfg.train_dataloader.dataset.dataset
        set_input_size(cfg, 0)
        return json.dumps(cfg.to_dict(), default=str)

    assert len({rest(p) for p in suite.points}) == 1


def test_recipe_has_one_hash(monkeypatch):
    from dataclasses import replace

    from prunet_det.benchmark.suite import load_suite

    monkeypatch.chdir(ROOT)
    suite = load_suite("digits")
    own = suite.config_hash()
    assert replace(suite, points=suite.points[:1]).config_hash() == own
    assert replace(suite, data_root="elsewhere").config_hash() == own, "the data have their own"
    assert replace(suite, max_iters=7).config_hash() != own
    assert replace(suite, held_out=True).config_hash() != own
    with pytest.raises(UserError, match=r"NAME@PIXELS|MODEL@PIXELS"):
        suite.choose(["gpunet_2"])
    assert str(suite.choose(["gpunet_2@96"]).points[0]) == "gpunet_2@96"
    own = next(p for p in suite.points if p.source.endswith(".json"))
    other = suite.choose([f"{own.model}@64"]).points[0]
    assert other.source == own.source and str(other) == f"{own.model}@64"
    assert suite.choose([f"{own.source}@{own.input_size}"]).points == (own,)
    mine = suite.choose(["/home/prunet/gpunet_x.json@64"]).points[0]
    assert (mine.model, mine.family, mine.source) == (
        "gpunet_x",
        "gpunet",
        "/home/prunet/gpunet_x.json",
    )
