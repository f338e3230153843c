"""tools/search_backbone.py as a user runs it, on a space small enough for a test."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from prunet_det import ArchSpec
from tests.conftest import ENV, NO_WORKERS, ROOT, kill_once
from tests.search.conftest import SMALL
from tests.tools.test_training import torchrun

CONFIG = """
_base_ = ["{root}/configs/search/quick.py"]
space = {space}
search = dict(
    warmup=3, warmup_batch=8, paths=3, tiers=4, batch=4, draws_batch=8, score_images=16,
    checkpoint_interval=2,
)
evolution = dict(evaluations=20)
finalists = dict(iterations=(3, 6), kept=(2,), evolved=1, random=1)
recipe = dict(batch_size=8, warmup=0.5, norm_batches=1, capture=False)
data = dict(classes=2, dataset=dict(transform=dict(input_size=(3, 16, 16))))
"""
BUDGETS = (0.24, 0.27)


@pytest.fixture(scope="module")
def config(tmp_path_factory, digits):
    path = tmp_path_factory.mktemp("search") / "tiny.py"
    path.write_text(CONFIG.format(root=ROOT, space={"_delete_": True, **SMALL}))
    return path


def flags(config, out, *more, budgets=BUDGETS):
    given = ("--budget-ms", *budgets, "--device", "v100", "--input-size", 256, "--jobs", 1)
    return [str(a) for a in (config, *given, "--out", out, "--quiet", *more)]


@pytest.fixture(scope="module")
def found(config, tmp_path_factory, here):
    """A finished search."""
    out = tmp_path_factory.mktemp("found") / "out"
    done = here("search_backbone", *flags(config, out))
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stderr + done.stdout


def test_a_search_says_what_its_space_reaches_and_what_it_found(found, here):
    out, printed = found
    assert "space: 6 layers, 10^" in printed and "report.md, and a folder for each" in printed
    for ms in BUDGETS:
        (line,) = [line for line in printed.splitlines() if line.startswith(f"{ms:g} ms: 0.2")]
        assert "blocks, by" in line and "top-1" in line
        arch = out / f"{ms:g}ms" / "arch.json"
        predict = ("--model", arch, "--device", "v100", "--input-size", 256, "--json")
        record = json.loads(here("latency", "predict", *predict).stdout.splitlines()[-1])
        assert 0.97 * ms <= record["latency_ms"] <= ms


def test_results_become_rows_of_the_docs(found, tmp_path):
    """Published as they are, without weights."""
    spec = importlib.util.spec_from_file_location("report", ROOT / "tools" / "_search_report.py")
    report = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(report)
    assert report.budgets_met(tmp_path) == []
    lacks = shutil.ignore_patterns("*.safetensors", "*.pth", "finalists")
    shutil.copytree(found[0], tmp_path / "found" / "tiny", ignore=lacks)
    header, _, *rows = report.budgets(tmp_path).splitlines()
    for ms, row in zip(BUDGETS, rows, strict=True):
        cells = dict(zip(header.split(" | "), row.split(" | "), strict=True))
        assert cells["| config"] == "| tiny" and cells["device"] == "v100, predicted"
        assert (float(cells["budget ms"]), cells["seed"]) == (ms, "0")
        assert 0.97 <= float(cells["ms"]) / ms <= 1
    (clause,) = report.budgets_met(tmp_path)
    assert "2 results (V100, predicted) lie at" in clause


def test_a_network_is_regenerated_from_its_provenance(config, here, tmp_path):
    given = (
        "--names",
        "mine",
        "--off",
        "finalists",
        "--seed",
        0,
        "--cfg-options",
        "search.tiers=2",
    )
    done = here("search_backbone", *flags(config, tmp_path / "first", *given, budgets=(0.26,)))
    assert done.returncode == 0, done.stdout + done.stderr
    path = tmp_path / "first" / "0.26ms" / "arch.json"
    spec = ArchSpec.load(path)
    program, tool, *argv = shlex.split(spec.provenance.details["command"])
    assert (program, tool, spec.name) == ("python", "tools/search_backbone.py", "mine")
    assert argv[argv.index("--seed") + 1] == "0"  # given, though it is the default
    again = here("search_backbone", *argv, "--quiet", "--out", tmp_path / "second")
    assert again.returncode == 0, again.stdout + again.stderr
    assert (tmp_path / "second" / "0.26ms" / "arch.json").read_bytes() == path.read_bytes()


def test_a_finished_search_is_resumed_as_what_it_was(config, found, here, refused):
    again = here("search_backbone", *flags(config, found[0], "--resume"))
    assert again.returncode == 0 and again.stdout in found[1]
    args = flags(config, found[0], "--resume", "--seed", 1)
    assert "has another seed (0, not 1)" in refused("search_backbone", *args)


def test_ctrl_c_ends_with_its_code(config, here, tmp_path, monkeypatch):
    from prunet_det.search.loop import SearchLoop

    run_step = SearchLoop._run_step

    def interrupted(loop):
        if loop.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        run_step(loop)

    monkeypatch.setattr(SearchLoop, "_run_step", interrupted)
    done = here("search_backbone", *flags(config, tmp_path))
    assert done.returncode == 130 and "interrupted" in done.stderr
    assert (tmp_path / "search.pth").is_file() and (tmp_path / "0.24ms" / "arch.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("at", ["search.pth", "0.27ms/finalists/records.jsonl"])
def test_a_search_that_was_killed_goes_on(config, found, here, tmp_path, at):
    """By SIGKILL, in a process of its own, while the supernet trains and in the last tier."""
    out = tmp_path / "out"
    command = [sys.executable, "tools/search_backbone.py", *flags(config, out)]
    kill_once((out / at).exists, command, tmp_path / "log")
    done = here("search_backbone", *flags(config, out, "--resume"))
    assert done.returncode == 0, done.stdout + done.stderr
    for ms in BUDGETS:
        for name in ("arch.json", "weights.safetensors"):
            place = f"{ms:g}ms/{name}"
            assert (out / place).read_bytes() == (found[0] / place).read_bytes()


def test_a_table_of_another_device_or_space(config, refused, tmp_path):
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
    args += ("--off", "finalists")
    done = here("search_backbone", *flags(config, tmp_path / "out", *args, budgets=(0.26,)))
    assert done.returncode == 1, done.stderr  # a CPU is no V100, and the search says so
    assert "measured here" in done.stdout and "does not meet its budget" in done.stdout
    run = json.loads((tmp_path / "out" / "0.26ms" / "run.json").read_text())
    assert run["conditions"]["device"] == device_title("cpu") and run["measured_ms"] > 0
    assert 0.97 * 0.26 <= run["ms"] <= 0.26 and not run["accepted"]
    (path,) = (tmp_path / "tables").glob("*_onnxruntime_fp32_batch1_1threads.json")
    assert Table.load(path).kind == "measured"


@pytest.mark.slow
def test_what_was_found_trains_without_the_search(found, few, tmp_path):
    """As a detector and a classifier, and exports, with prunet_det/search gone."""
    out = found[0] / "0.27ms"
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
    assert printed.count("report.md, and a folder for each") == 1
    for ms in BUDGETS:
        run = json.loads((out / f"{ms:g}ms" / "run.json").read_text())
        assert run["accepted"] and run["final"]


@pytest.mark.slow
def test_three_lines_of_python(config, tmp_path):
    """In a script of a fresh interpreter; what was found builds without the search's code."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    (tmp_path / "search.py").write_text(
        "from prunet_det.search import SearchConfig, search\n"
        f"file = {str(config)!r}\n"
        "config = SearchConfig.from_file(file, budget_ms=0.26, input_size=256, out='o')\n"
        "search(config).networks[0.26].build()\n"
    )
    (tmp_path / "use.py").write_text(
        "import sys, torch, prunet_det\n"
        "o = 'o/0.26ms'\n"
        "given = dict(checkpoint=f'{o}/weights.safetensors', num_classes=2)\n"
        "net = prunet_det.create(f'{o}/arch.json', **given)\n"
        "assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 2)\n"
        "assert not any(name.startswith('prunet_det.search') for name in sys.modules)\n"
    )
    for script in ("search.py", "use.py"):
        done = subprocess.run(
            [sys.executable, script],
            cwd=tmp_path,
            env=ENV,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stdout + done.stderr
