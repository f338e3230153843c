"""tools/search_backbone.py as a user runs it, on a space small enough for a test."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from prunet_det import ArchSpec
from prunet_det.search.old_loop import SearchLoop
from prunet_det.utils.io import read_csv
from tests.conftest import NO_WORKERS, ROOT
from tests.search.conftest import SMALL
from tests.tools.test_training import ENV, torchrun

CONFIG = """
_base_ = ["{root}/configs/search/quick.py"]
space = {space}
warmup, steps = 3, 16
search = dict(warmup=warmup, steps=steps, checkpoint_interval=8)
default_hooks = dict(logger=dict(interval=5))
search_dataloader = dict(
    batch_size=16, num_workers=0, dataset=dict(transform=dict(input_size=(3, 16, 16)))
)
param_scheduler = [dict(type="LinearLR", start_factor=0.05, begin=0, end=19, by_epoch=False)]
recipe = compare_recipe = "{recipe}"
finals = dict(iterations=0)
"""
RECIPE = """
_base_ = ["{root}/configs/classification/digits_short.py"]
train_dataloader = dict(
    batch_size=8, num_workers=0, persistent_workers=False,
    dataset=dict(transform=dict(input_size=(3, 16, 16))),
)
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(transform=dict(input_size=(3, 16, 16)))
)
train_cfg = dict(max_iters=2, val_interval=2)
param_scheduler = []
"""
BUDGET = 0.26


@pytest.fixture(scope="module")
def config(tmp_path_factory, digits):
    path = tmp_path_factory.mktemp("search") / "tiny.py"
    (path.parent / "recipe.py").write_text(RECIPE.format(root=ROOT))
    space = {"_delete_": True, **SMALL}
    path.write_text(CONFIG.format(root=ROOT, space=space, recipe="recipe.py"))
    return path


def flags(config, out, *more, budget=BUDGET):
    given = ("--budget-ms", budget, "--device", "v100", "--input-size", 256)
    return [str(a) for a in (config, *given, "--out", out, "--quiet", *more)]


@pytest.fixture(scope="module")
def found(config, tmp_path_factory, here):
    """A finished search."""
    out = tmp_path_factory.mktemp("found") / "out"
    done = here("search_backbone", *flags(config, out))
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stderr + done.stdout


def test_a_search_ends_within_its_budget_and_says_so(found, here):
    out, printed = found
    assert "space: 6 layers, 10^" in printed
    for line in ("target ", "before repair", "after repair"):
        assert line in printed
    predict = ("--model", out / "arch.json", "--device", "v100", "--input-size", 256, "--json")
    record = json.loads(here("latency", "predict", *predict).stdout.splitlines()[-1])
    assert 0.97 * BUDGET <= record["latency_ms"] <= BUDGET
    run = json.loads((out / "run.json").read_text())
    assert run["after_repair_ms"] == pytest.approx(record["latency_ms"])
    assert run["accepted"] and run["iterations"] == 19 and run["budget_ms"] == BUDGET
    assert set(run["hashes"]) == {"config", "space", "table", "data"}


def test_results_side_by_side(found, here, refused, tmp_path):
    done = here("search_backbone", "summary", found[0], "--out", tmp_path / "s.csv")
    assert done.returncode == 0 and "before repair" in done.stdout
    _, (record,) = read_csv(tmp_path / "s.csv")
    assert 0.97 <= float(record["of_budget"]) <= 1 and record["seed"] == "0"
    assert float(record["latency_ms"]) == pytest.approx(float(record["after_repair_ms"]))
    assert "holds no result" in refused("search_backbone", "summary", tmp_path)


def test_the_report_shows_how_it_was_found(found):
    out, _ = found
    text = (out / "report.md").read_text()
    for name in ("budget", "widths", "candidates", "layers", "cost"):
        assert f"({name}.png)" in text and (out / f"{name}.png").stat().st_size > 5000
    assert "skips enter" in text and "loses" in text and "| stage | block |" in text
    assert any(out.rglob("*tfevents*"))


def test_its_spec_names_what_it_comes_from(found):
    details = ArchSpec.load(found[0] / "arch.json").provenance.details
    assert details["budget"]["device"] == "v100" and details["budget"]["input_size"] == 256
    assert details["seed"] == 0 and details["data"] == {"name": "digits", "classes": 10}
    assert "--out" not in details["command"] and "--budget-ms 0.26" in details["command"]


@pytest.mark.slow
def test_a_search_is_regenerated_from_its_provenance(config, tmp_path, here):
    given = ("--seed", 3, "--name", "mine", "--classes", 2, "--no-finals", "--cfg-options")
    first = flags(config, tmp_path / "first", *given, "search.warmup=1", "search.steps=8")
    done = here("search_backbone", *first)
    assert done.returncode == 0, done.stdout + done.stderr
    path = tmp_path / "first" / "arch.json"
    spec = ArchSpec.load(path)
    program, tool, *argv = shlex.split(spec.provenance.details["command"])
    assert (program, tool, spec.name) == ("python", "tools/search_backbone.py", "mine")
    again = here("search_backbone", *argv, "--quiet", "--out", tmp_path / "second")
    assert again.returncode == 0, again.stdout + again.stderr
    assert (tmp_path / "second" / "arch.json").read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_also_after_kills(config, found, tmp_path, here):
    """Killed before anything is pruned, then again after something was."""
    out, log = tmp_path / "out", tmp_path / "log"
    command = [sys.executable, "tools/search_backbone.py", *flags(config, out)]
    with open(log, "w") as handle:
        first = subprocess.Popen(
            command, cwd=ROOT, env=ENV, stdout=handle, stderr=handle, start_new_session=True
        )
        deadline = time.time() + 200
        while not (out / "last_checkpoint").exists() and time.time() < deadline:
            assert first.poll() is None, log.read_text()
            time.sleep(0.01)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    run_iter = SearchLoop._run_iter
    lost = []

    def dies(loop, *args):
        if loop.iter == 17:
            lost.append((loop.supernet.structure(), len(loop.events)))
            raise RuntimeError("killed")
        return run_iter(loop, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SearchLoop, "_run_iter", dies)
        with pytest.raises(RuntimeError, match="killed"):
            here("search_backbone", *flags(config, out, "--resume"))
    assert lost[0][1] > 0
    assert (out / "last_checkpoint").read_text().endswith("iter_16.pth")
    saved = torch.load(out / "iter_16.pth", map_location="cpu", weights_only=False)["search"]
    assert saved["events"], "pruned before the second kill"
    third = here("search_backbone", *flags(config, out, "--resume"))
    assert third.returncode == 0, third.stdout + third.stderr
    for name in ("arch.json",):
        assert (out / name).read_bytes() == (found[0] / name).read_bytes()
    weights, expected = (load_file(o / "weights.safetensors") for o in (out, found[0]))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[k], expected[k]) for k in weights)
    again = here("search_backbone", *flags(config, out, "--resume"))
    assert again.returncode == 0 and "after repair" in again.stdout  # nothing left to do


def test_ctrl_c_leaves_a_result_and_a_checkpoint(config, tmp_path, here):
    out, run_iter = tmp_path / "out", SearchLoop._run_iter

    def interrupted(loop, *args):
        if loop.iter == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return run_iter(loop, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SearchLoop, "_run_iter", interrupted)
        done = here("search_backbone", *flags(config, out))
    assert done.returncode == 130 and "interrupted" in done.stderr
    run = json.loads((out / "run.json").read_text())
    assert run["iterations"] == 8 and run["accepted"]
    assert (out / "iter_8.pth").exists() and (out / "weights.safetensors").exists()


LAST_TIER = ("--classes", 2, "--cfg-options", "finals.iterations=1", "finals.again=1")


@pytest.mark.slow
def test_the_last_tier_keeps_one_of_its_finalists_and_goes_on_after_a_fault(
    config, tmp_path, here, monkeypatch
):
    from prunet_det.search import finals

    few = (*LAST_TIER, "search.warmup=1", "search.steps=6")
    out, train, trained = tmp_path / "out", finals.run_trial, []

    def dies(*args):
        if len(trained) == 3:
            raise RuntimeError("killed")
        trained.append(train(*args))
        return trained[-1]

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(finals, "run_trial", dies)
        here("search_backbone", *flags(config, out, *few))
    assert len(json.loads((out / "finals.json").read_text())) == 3
    second = here("search_backbone", *flags(config, out, *few, "--resume"))
    assert second.returncode == 0, second.stdout + second.stderr
    assert "last tier     of " in second.stdout and "networks keeps: " in second.stdout
    scores = json.loads((out / "finals.json").read_text())
    assert [v[0] for v in list(scores.values())[:3]] == [t.top1 for t in trained]
    assert 0.97 * BUDGET <= json.loads((out / "run.json").read_text())["after_repair_ms"] <= BUDGET
    ArchSpec.load(out / "found.json")
    whole = here("search_backbone", *flags(config, tmp_path / "whole", *few))
    assert whole.returncode == 0
    assert (tmp_path / "whole" / "arch.json").read_bytes() == (out / "arch.json").read_bytes()
    (out / "finals.json").write_text("{")
    third = here("search_backbone", *flags(config, out, *few, "--resume"))
    assert third.returncode == 2 and "finals.json is damaged" in third.stderr


@pytest.mark.slow
def test_what_was_found_trains_without_the_search(config, found, few, tmp_path):
    """As a detector and a classifier, and exports, with prunet_det/search gone."""
    out, _ = found
    code = f"""
import sys, runpy
sys.path.insert(0, "tools")
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("prunet_det.search"):
            raise ImportError("no search here")
sys.meta_path.insert(0, Gone())
def run(*argv):
    sys.argv = list(argv)
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as stop:
        assert not stop.code, argv
arch, weights = "{out}/arch.json", "{out}/weights.safetensors"
run("tools/export.py", arch, weights, "--out", "{tmp_path}/net.onnx", "--input-size", "64")
small = {NO_WORKERS}
run("tools/train.py", "configs/classification/prunet_digits.py", "--max-iters", "2", "--work-dir",
    "{tmp_path}/c", "--cfg-options", *small, f"model.arch={{arch}}",
    f"model.checkpoint={{weights}}",
    "train_cfg.val_interval=1000", "train_dataloader.batch_size=4")
run("tools/train.py", "configs/prunet_effdet.py", "--max-iters", "2",
    "--work-dir", "{tmp_path}/d", "--cfg-options", *small, *{few},
    f"model.backbone.arch={{arch}}", "model.neck.num_levels=3",
    "train_cfg.val_interval=1000", f"model.backbone.checkpoint={{weights}}",
    "train_dataloader.batch_size=2")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    count = sum(1 for k in load_file(out / "weights.safetensors") if k.startswith(("stem", "stag")))
    assert done.stderr.count(f"{count}/{count} backbone tensors") == 3


@pytest.mark.slow
def test_two_processes_agree(config, tmp_path):
    out = tmp_path / "out"
    command = [str(ROOT / "tools" / "search_backbone.py"), *flags(config, out)]
    printed = torchrun(tmp_path, [*command, "--launcher", "pytorch"])
    assert printed.count("after repair") == 1
    assert json.loads((out / "run.json").read_text())["accepted"]


@pytest.mark.parametrize("strategy", ["random", "scale"])
def test_baselines_by_the_same_command(config, tmp_path, here, strategy):
    budget = 0.27
    specs = []
    for run in (0, 1):
        out = tmp_path / str(run)
        done = here("search_backbone", *flags(config, out, "--strategy", strategy, budget=budget))
        assert done.returncode == 0, done.stderr
        specs.append((out / "arch.json").read_bytes())
        run = json.loads((out / "run.json").read_text())
        assert 0.97 * budget <= run["after_repair_ms"] <= budget and "report.md" in done.stdout
    assert specs[0] == specs[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("switch", "off"),
    [
        (("--fixed-expansions", 1, 3, 6), ["widths"]),
        (("--skip-from-start",), ["layers"]),
        (("--no-pruning", "--no-finals"), ["widths", "blocks", "layers", "finals"]),
    ],
    ids=["widths", "layers", "all"],
)
def test_tiers_switched_off(config, tmp_path, here, switch, off):
    out = tmp_path / "out"
    few = ("--cfg-options", "search.warmup=1", "search.steps=6")
    done = here("search_backbone", *flags(config, out, *switch, *few))
    assert done.returncode == 0, done.stdout + done.stderr
    run = json.loads((out / "run.json").read_text())
    assert run["accepted"] and run["tiers_off"] == off


@pytest.mark.slow
def test_a_search_goes_on_when_nothing_is_left_to_choose(config, tmp_path, here):
    """One expansion, so no Prunodes; halfway every layer has one operator."""
    out = tmp_path / "out"
    done = here("search_backbone", *flags(config, out, "--fixed-expansions", 3))
    assert done.returncode == 0, done.stdout + done.stderr
    text = (out / "report.md").read_text()
    assert text.count("loses") >= 3 * 5


def test_own_images(config, tmp_path, here):
    """An ImageFolder, a subset of its classes."""
    from PIL import Image

    for name in "abc":
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        for i in range(8):
            colour = (30 * i, 80, 40 * "abc".index(name))
            Image.new("RGB", (20, 20), colour).save(tmp_path / f"data/train/{name}/{i}.png")
    out = tmp_path / "out"
    few = ("--cfg-options", "search.warmup=1", "search.steps=3", "search_dataloader.batch_size=4")
    args = ("--data", tmp_path / "data", "--classes", "a", "c")
    done = here("search_backbone", *flags(config, out, *args, *few))
    assert done.returncode == 0, done.stdout + done.stderr
    assert load_file(out / "weights.safetensors")["classifier.weight"].shape[0] == 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("--budget-ms", 5), "a budget of 5 ms cannot be met: the space reaches"),
        (("--budget-ms", 0), "--budget-ms: must be a number above 0"),
        (("--device", "tpu"), "there is no device 'tpu'; the known ones are a100, h100, v100"),
        (("--device", "gone.json"), "there is no table or device file gone.json"),
        (("--batch", 0), "--batch: must be at least 1"),
        (("--seed", -1), "--seed: must be at least 0"),
        (("--amp",), "--amp needs a CUDA device"),
        (("--data", "gone/train"), "there is no data folder gone/train/train; "),
        (("--classes", "11"), "the first 11 of 10 classes cannot be kept"),
        (("--classes", "x", "1"), "there is no class 'x'"),
        (("--classes", "1", "1"), "a class is named twice"),
        (("--strategy", "random", "--skip-from-start"), "has no tiers to switch off"),
        (("--strategy", "random", "--resume"), "there is nothing to resume"),
        (("--fixed-expansions", 0), "fixed expansions must be positive"),
        (("--cfg-options", "search.steps=0"), "steps >= 1"),
        (("--cfg-options", "search.when=1"), "unknown key 'when'"),
        (("--cfg-options", "search.tiers.when=1"), "unknown key 'when'"),
        (("--cfg-options", "finals.iterations=1", "recipe=gone.py"), "gone.py"),
        (("--out", "/proc/x"), "/proc/x cannot be written"),
    ],
    ids=lambda v: " ".join(map(str, v)) if isinstance(v, tuple) else "",
)
def test_refusals(config, refused, tmp_path, change, sentence):
    assert sentence in refused("search_backbone", *flags(config, tmp_path / "out"), *change)
    assert not (tmp_path / "out").exists() or "--data" not in change


def test_a_finished_search_is_not_overwritten_nor_resumed_as_another(config, found, refused):
    out, _ = found
    assert "holds a search already" in refused("search_backbone", *flags(config, out))
    for change, what in (
        (("--budget-ms", 0.27), "budget_ms (0.26, not 0.27)"),
        (("--seed", 1), "seed (0, not 1)"),
        (("--cfg-options", "search.steps=20"), "another config (digest)"),
    ):
        assert what in refused("search_backbone", *flags(config, out, "--resume"), *change)


def test_a_table_of_another_device_or_space(config, refused, here, tmp_path):
    from prunet_det.latency.table import predict_table
    from prunet_det.search.costs import space_keys
    from tests.search.test_space import config_space

    table = predict_table(space_keys(config_space("quick"), 256), "v100")
    table.save(tmp_path / "other.json")
    args = flags(config, tmp_path / "out", "--device", tmp_path / "other.json")
    assert "another space or input size" in refused("search_backbone", *args)
    data = json.loads((tmp_path / "other.json").read_text())
    data["conditions"].update(kind="measured", device="another machine")
    (tmp_path / "away.json").write_text(json.dumps(data))
    args = flags(config, tmp_path / "out", "--device", tmp_path / "away.json")
    assert "was measured on another machine" in refused("search_backbone", *args)


@pytest.mark.slow
def test_this_machine(config, tmp_path, here, monkeypatch):
    """Its blocks are priced by the analytic model here: measuring them has tests of its own."""
    from prunet_det.latency.block_timer import BlockTimer
    from prunet_det.latency.table import Table, predict_table
    from prunet_det.utils.env import device_title

    def quick(timer, keys):
        return predict_table(keys, "v100").entries, {}

    monkeypatch.setattr(BlockTimer, "measure", quick)
    args = ("--device", "here", "--threads", 1, "--tables", tmp_path / "tables")
    few = ("--cfg-options", "search.warmup=1", "search.steps=3")
    done = here("search_backbone", *flags(config, tmp_path / "out", *args, *few))
    assert done.returncode == 1, done.stderr  # a CPU is no V100, and the search says so
    assert "measured here" in done.stdout and "does not meet its budget" in done.stdout
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["conditions"]["device"] == device_title("cpu") and run["measured_ms"] > 0
    assert 0.97 * BUDGET <= run["after_repair_ms"] <= BUDGET and not run["accepted"]
    (path,) = (tmp_path / "tables").glob("*_onnxruntime_fp32_batch1_1threads.json")
    assert Table.load(path).kind == "measured"


def test_rule(here, tmp_path):
    done = here("search_backbone", "rule", "--json", "--out", tmp_path / "rule.csv")
    plain, biased = map(json.loads, done.stdout.splitlines())
    assert plain["clear"] >= 0.95 and biased["bias"] == 2 and biased["within_one"] >= 0.75
    written = read_csv(tmp_path / "rule.csv")[1]
    assert [float(r["within_one"]) for r in written] == [plain["within_one"], biased["within_one"]]
    assert "with a clear optimum" in here("search_backbone", "rule").stdout
