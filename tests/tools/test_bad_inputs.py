"""Whatever a user gets wrong: one sentence that says what and where, exit code 2, nothing written.

A bug instead shows its traceback.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import prunet_det
from prunet_det.utils.errors import UserError
from tests.conftest import ROOT
from tests.tools.bad_files import BINARY, CUT, device, not_finite, other_weights, png, spec, write
from tests.tools.bad_rows import DEMO, ROWS, Row

# A Runner notes its config and keeps a log of what it did, also of what it could not do; and the
# lock of a work dir stays, empty.
LOGS = re.compile(r".*\d{8}_\d{6}(/.*)?|(out|work_dirs/\w+)(/evaluation)?/(\w+\.py|\.lock)")


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder, but not of logs and of the data that it links to."""
    files = (p for p in folder.rglob("*") if p.is_file())
    named = {p.relative_to(folder).as_posix(): p for p in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in named.items()
        if not LOGS.fullmatch(name) and not name.startswith("data/")
    }


@pytest.fixture
def folder(digits, tmp_path, monkeypatch):
    """An empty folder to work in, from which data/digits are found."""
    for name in ("PRUNET_DEBUG", "RANK"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "data").symlink_to(digits.parent)
    return tmp_path


def check_refused(row: Row, code: int, stdout: str, stderr: str) -> None:
    """Checks that a tool ended in one sentence, and that it is the right one."""
    output = stdout + stderr
    assert code == 2, output
    assert "Traceback" not in output
    errors = [line for line in stderr.splitlines() if "error: " in line]
    assert len(errors) == 1, output
    assert re.search(row.says, errors[0]), errors[0]


def lay_out(row: Row, folder: Path) -> dict[str, str]:
    """Writes a row's files, and weights of before where it trains; returns what lies there."""
    good = {"out/weights.safetensors": "of before"} if "--work-dir out" in row.args else {}
    write(folder, {**good, **row.files})
    return contents(folder)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_mistake(row, folder, here):
    before = lay_out(row, folder)
    done = here(row.tool, *shlex.split(row.args), cwd=folder)
    check_refused(row, done.returncode, done.stdout, done.stderr)
    assert contents(folder) == before


def test_there_are_rows_of_every_tool():
    tools = {p.stem for p in (ROOT / "tools").glob("[!_]*.py")}
    assert {row.tool for row in ROWS} == tools
    assert len(ROWS) >= 100


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["train", "latency"])
def test_a_mistake_in_a_process_of_its_own(tool, folder):
    row = [row for row in ROWS if row.tool == tool][-1]
    before = lay_out(row, folder)
    command = [sys.executable, "-m", "prunet_det", tool, *shlex.split(row.args)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    check_refused(row, done.returncode, done.stdout, done.stderr)
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["trian", "", "../tools/train", "_flags"])
def test_a_tool_that_is_none(name, monkeypatch, capsys):
    from prunet_det.__main__ import main

    monkeypatch.setattr(sys, "argv", ["prunet", name])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "the tools are benchmark, " in said and said.count("\n") == 1


@pytest.mark.parametrize("error", [TypeError, KeyError, AssertionError])
def test_a_bug_shows_its_traceback(error, folder, here, monkeypatch):
    """Deep inside, where the errors of a user's files are told apart."""
    import prunet_det.latency.kernels as kernels

    def broken(*args, **kwargs):
        raise error("a planted bug")

    monkeypatch.setattr(kernels, "_conv", broken)
    with pytest.raises(error, match="a planted bug"):  # as Python shows it, with exit code 1
        here("latency", "predict", *DEMO.split(), cwd=folder)
    with pytest.raises(error, match="a planted bug"):
        here("search_backbone", *["quick.py", "--budget-ms", "0.5", "--quiet"], cwd=folder)


@pytest.mark.slow
def test_a_bug_shows_its_traceback_in_a_process_of_its_own(folder):
    code = (
        "import prunet_det.latency.kernels as k, prunet_det.__main__ as m, sys; k._conv = None; "
        f"sys.argv = ['prunet', 'latency', 'predict', *{DEMO.split()}]; m.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" in done.stderr and "TypeError" in done.stderr


CALLS = [
    (lambda: prunet_det.create("prunet_dem"), "Did you mean 'prunet_demo'"),
    (lambda: prunet_det.create("s.json"), "there is no spec file s.json"),
    (lambda: prunet_det.create({"name": "x"}), "schema None is not known"),
    (lambda: prunet_det.create("prunet_demo", checkpoint="none.pth"), "no checkpoint none.pth"),
    (lambda: prunet_det.create("prunet_demo", checkpoint="cut.json"), "cut.json is"),
    (lambda: prunet_det.create("prunet_demo", checkpoint="other.safetensors"), "another network"),
    (lambda: prunet_det.create("prunet_demo", checkpoint="nan.safetensors"), "not finite"),
    (lambda: prunet_det.create("prunet_demo", pretrained=True), "no pretrained weights"),
    (lambda: prunet_det.load_spec("resnet18"), "there is no network 'resnet18'"),
    (lambda: prunet_det.ArchSpec.load("."), "there is no spec file ."),
    (lambda: prunet_det.ArchSpec.load("cut.json"), "cut.json is no spec file: it is no JSON"),
    (lambda: prunet_det.ArchSpec.load("binary.json"), "binary.json is no spec file"),
    (lambda: prunet_det.ArchSpec.from_dict([]), "a spec is an object with keys"),
    (lambda: build("gone.py"), "there is no config file gone.py"),
    (lambda: build("prunet_digits.py"), "is no detector.s config"),
    (lambda: build("prunet_effdet.py", "other.safetensors"), "does not fit the model"),
    (lambda: build("prunet_effdet.py", device="tpu"), "there is no device 'tpu'"),
    (lambda: build("prunet_effdet.py", classes=["a"]), "10 classes, but 1 names"),
    (lambda: prunet_det.load_detector("gone"), "gone"),
    (lambda: prunet_det.load_detector("cut.json"), "cut.json"),
    (lambda: prunet_det.load_detector(runtime="warp"), "'?warp"),
    (lambda: prunet_det.load_detector(device="cuda:7"), "there is no CUDA device cuda:7"),
    (lambda: prunet_det.load_detector(score_thr=2), "score"),
    (lambda: subject("prunet_demo", "whole"), "there is no scope 'whole'"),
    (lambda: subject("prunet_demo", "detector"), "needs a detector's config"),
    (lambda: subject("prunet_demo", "backbone", 0), "the input size must be a positive integer"),
    (lambda: predict("prunet_demo", "v1000"), "there is no device 'v1000'"),
    (lambda: predict("prunet_demo", "cut.json"), "cut.json is no device file"),
    (lambda: predict("prunet_demo", batch=0), "the batch must be a positive integer, got 0"),
    (lambda: predict("prunet_demo", batch=1.5), "the batch must be a positive integer, got 1.5"),
    (lambda: predict("prunet_demo", input_size="big"), "the input size must be a positive"),
    (lambda: predict("prunet_demo", scope="whole"), "there is no scope 'whole'"),
    (lambda: load_table("cut.json"), "cut.json is no latency table"),
]


def build(*args, **kwargs):
    from prunet_det.detection.build import build_detector

    return build_detector(*args, **kwargs)


def subject(*args):
    from prunet_det.latency.subject import load_named

    return load_named(*args)


def predict(*args, **kwargs):
    from prunet_det.latency import predict

    return predict(*args, **kwargs)


def load_table(*args):
    from prunet_det.latency.table import Table

    return Table.load(*args)


@pytest.mark.parametrize(("call", "says"), CALLS, ids=[says for _, says in CALLS])
def test_a_call_from_python(call, says, folder, monkeypatch):
    """UserErrors of one line, and ValueErrors or of what there is in Python for it."""
    monkeypatch.chdir(folder)
    write(folder, {"cut.json": CUT, "binary.json": BINARY})
    write(folder, {"other.safetensors": other_weights, "nan.safetensors": not_finite})
    with pytest.raises(UserError, match=says) as caught:
        call()
    assert isinstance(caught.value, (ValueError, FileNotFoundError))
    assert "\n" not in str(caught.value)


def test_names_of_all_alphabets(folder, here):
    """What is unusual and right works."""
    odd = "Prüfung 测试 (1)"
    write(folder, {f"{odd}/netz λ.json": spec(), f"{odd}/gerät.json": device()})
    write(folder, {f"{odd}/bild ö.png": png()})
    flags = ["--model", f"{odd}/netz λ.json", "--input-size", 64]
    done = here("latency", "predict", *flags, "--device", f"{odd}/gerät.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    table = f"{odd}/tabelle ß.json"
    for _ in range(2):  # anew, and once more
        done = here("latency", "table", *flags, "--device", "v100", "--out", table, cwd=folder)
        assert done.returncode == 0, done.stderr
    done = here("detect", f"{odd}/bild ö.png", "--out", f"{odd}/gefunden", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / odd / "gefunden" / "detections.json").is_file()


def test_a_device_file_is_read_as_it_is_now(tmp_path):
    from prunet_det.latency import load_device

    path = tmp_path / "d.json"
    write(tmp_path, {"d.json": device()})
    before = load_device(str(path))
    write(tmp_path, {"d.json": device(net_us=2 * before.net_us)})
    assert load_device(str(path)).net_us == 2 * before.net_us


def test_what_a_killed_process_left_is_no_obstacle(folder, here):
    write(folder, {"out/.99999.t.json": CUT})
    flags = [*DEMO.split(), "--device", "v100", "--out", "out/t.json"]
    done = here("latency", "table", *flags, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert contents(folder).keys() == {"out/.99999.t.json", "out/t.json"}
