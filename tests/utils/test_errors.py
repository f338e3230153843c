"""How a tool ends: in one line where the user can mend it, with a traceback where we must."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from prunet_det.utils.errors import InputError, MissingPackageError, UserError, run_tool
from prunet_det.zoo.models import UnknownModelError


class Damaged(Dataset):
    """Raises an error for the one item that it has."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise self.error


def raising(error):
    def main():
        raise error

    return main


def in_a_worker(error):
    return lambda: next(iter(DataLoader(Damaged(error), num_workers=1)))


def sending(number):
    """As a library that makes something else of any exception."""

    def main():
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        except BaseException as e:
            raise SyntaxError("mmengine: Failed to format the config file") from e

    return main


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_tool_ends_in_order(number, code, capsys):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop:
        run_tool(sending(number))
    assert (stop.value.code, capsys.readouterr().err) == (code, "interrupted.\n")
    assert signal.getsignal(number) is before


def test_a_tool_that_still_imports_ends_in_order():
    code = "import os, sys, time; sys.path.insert(0, 'tools'); import _flags; "
    code += "os.kill(os.getpid(), 2); time.sleep(9)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted.\n")


class Dropping:
    """Python drops what is raised while an object is taken away."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)


def test_an_interruption_that_python_drops_comes_again(capsys):
    def main():
        Dropping()
        time.sleep(5)

    with pytest.raises(SystemExit) as stop:
        run_tool(main)
    assert (stop.value.code, capsys.readouterr().err) == (130, "interrupted.\n")


def test_a_child_ends_at_sigterm_as_any_process(capfd):
    def main():
        fork = multiprocessing.get_context("fork")
        started = fork.Event()
        child = fork.Process(target=lambda: (started.set(), time.sleep(60)))
        child.start()
        started.wait(30)
        child.terminate()
        child.join(30)
        return abs(child.exitcode)

    with pytest.raises(SystemExit) as stop:
        run_tool(main)
    assert stop.value.code == signal.SIGTERM and capfd.readouterr().err == ""


MISSING = FileNotFoundError(2, "No such file or directory", "gone.json")


@pytest.mark.parametrize(
    ("main", "sentence"),
    [
        (raising(UserError("a\nb")), "error: a b (set"),
        (raising(InputError("it does not fit.")), "error: it does not fit. (set"),
        (raising(UnknownModelError("no network 'x'.")), "error: no network 'x'. (set"),
        (raising(MissingPackageError("pip install x")), "error: pip install x (set"),
        (raising(MISSING), "error: [Errno 2] No such file or directory: 'gone.json' (set"),
        (in_a_worker(InputError("1.png: no image.")), "error: 1.png: no image. (set"),
        (in_a_worker(MISSING), "error: [Errno 2] No such file or directory: 'gone.json' (set"),
    ],
)
def test_what_a_user_can_mend(main, sentence, capsys, monkeypatch):
    monkeypatch.delenv("PRUNET_DEBUG", raising=False)
    with pytest.raises(SystemExit) as stop:
        run_tool(main)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith(sentence) and said.count("\n") == 1
    monkeypatch.setenv("PRUNET_DEBUG", "1")
    with pytest.raises((UserError, OSError)):
        run_tool(main)


@pytest.mark.parametrize(
    ("main", "kind"),
    [
        (lambda: np.zeros(2) + np.zeros(3), ValueError),
        (lambda: {}["key"], KeyError),
        (lambda: torch.zeros(2) @ torch.zeros(3), RuntimeError),
        (in_a_worker(ValueError("of NumPy")), ValueError),
        (raising(OSError("no file is named")), OSError),
    ],
)
def test_a_bug_shows_its_traceback(main, kind):
    with pytest.raises(kind):
        run_tool(main)


@pytest.mark.parametrize(
    ("name", "extra"), [("mmengine.dist", "det"), ("onnx", "onnx"), ("plotly", "benchmark")]
)
def test_a_package_of_an_extra_is_named(name, extra, capsys):
    missing = ModuleNotFoundError(f"No module named {name!r}", name=name)
    with pytest.raises(SystemExit) as stop:
        run_tool(raising(missing))
    assert stop.value.code == 2
    assert f"pip install 'prunet_det[{extra}]'" in capsys.readouterr().err


def test_extras_are_those_of_the_metadata():
    import importlib.metadata as metadata

    from prunet_det.utils.errors import EXTRAS

    assert set(EXTRAS.values()) <= set(metadata.metadata("prunet_det").get_all("Provides-Extra"))


def test_a_module_of_ours_that_is_missing_is_a_bug():
    with pytest.raises(ModuleNotFoundError):
        run_tool(
            raising(ModuleNotFoundError("No module named 'prunet_det.x'", name="prunet_det.x"))
        )


def test_output_that_nobody_reads_is_no_error():
    """A short one too, which is still in the buffer when the tool ends."""
    code = "import time; from prunet_det.utils.errors import run_tool\n"
    code += "run_tool(lambda: (time.sleep(0.3), print('x'))[1])"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    pipe = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, "-c", code], env=env, **pipe) as tool:
        tool.stdout.close()
        assert (tool.stderr.read(), tool.wait()) == ("", 141)
