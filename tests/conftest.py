"""Shared fixtures."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
# One thread a process: several busy-waiting thread pools on two cores would stall one another.
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
# Options of tools/train.py and test.py with `here`: data are loaded by this process.
NO_WORKERS = [
    f"{split}_dataloader.{option}"
    for split in ("train", "val", "test")
    for option in ("num_workers=0", "persistent_workers=False")
]


# Runs that must give the same bytes, here and in processes of their own, need as many threads.
torch.set_num_threads(1)
# What a shell starts in the background ignores Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A loader in a reference cycle, as after an error in a worker, cannot tell its workers to end any
# more when it is collected: it would wait five seconds for each and then kill it, in another test.
torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.5


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the longest, lest one process waits for another's at the end."""
    items.sort(key=lambda item: item.name != "test_rehearsal")


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    torch.set_num_threads(1)  # a network that was timed may have left another number


@pytest.fixture(scope="session", autouse=True)
def _warm_start() -> Iterator[None]:
    """Lets processes that are begun afresh find everything imported: that takes seconds for each.

    They are children of this process's one fork server, which has imported and done nothing else.
    It starts here, before any test: who starts it says what it imports, whatever preload a program
    under test sets later, and all its children see the environment of now. Processes of a program
    that a test starts begin from nothing, as a user's; a test of what happens to processes takes
    `multiprocessing.context.SpawnContext`.
    """
    context_of = multiprocessing.get_context

    def warm_context(method=None):
        if method != "spawn":
            return context_of(method)
        return context_of("forkserver")

    multiprocessing.set_forkserver_preload(["prunet_det.benchmark.search_compare"])
    multiprocessing.forkserver.ensure_running()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing, "get_context", warm_context)
        yield


@pytest.fixture
def full_precision():
    """Without TF32, by which a GPU's convolutions differ from a CPU's in the third digit."""
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [f.allow_tf32 for f in flags]
    for f in flags:
        f.allow_tf32 = False
    yield
    for f, allowed in zip(flags, before, strict=True):
        f.allow_tf32 = allowed


@pytest.fixture(scope="session")
def digits() -> Path:
    """The embedded digits, made once in the checkout's data folder."""
    from prunet_det.datasets import ensure

    return ensure("digits", ROOT / "data" / "digits")


@pytest.fixture(scope="session")
def few(digits, tmp_path_factory) -> list[str]:
    """Options of tools/train.py and test.py that evaluate on four of the digits' 300 images."""
    coco = json.loads((digits / "annotations" / "val.json").read_text())
    coco["images"] = coco["images"][:4]
    ids = {i["id"] for i in coco["images"]}
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in ids]
    path = tmp_path_factory.mktemp("few") / "few.json"
    path.write_text(json.dumps(coco))
    keys = ("evaluator.ann_file", "dataloader.dataset.ann_file")
    return [f"{split}_{key}={path}" for split in ("val", "test") for key in keys]


@pytest.fixture(scope="session")
def tiny_suite(few, tmp_path_factory) -> Path:
    """A suite's file: one network of four blocks, 64 px, ten iterations, four test images."""
    from prunet_det.arch.spec import ArchSpec, BlockSpec, Provenance, StageSpec, StemSpec, TailSpec

    folder = tmp_path_factory.mktemp("suite")
    stage = StageSpec((BlockSpec("fused_irb", 8, 8, stride=2, hidden=16),))
    network = ArchSpec(
        name="prunet_tiny",
        stem=StemSpec((8,)),
        stages=(stage,) * 4,
        tail=TailSpec(16),
        provenance=Provenance("hand-written", {"reason": "a test"}),
    )
    network.save(folder / "prunet_tiny.json")
    options = dict(option.split("=", 1) for option in few)
    options |= {
        "train_dataloader.batch_size": 2,
        "default_hooks.logger.interval": 1,
        "test_dataloader.batch_size": 4,
        "model.neck.num_cells": 1,
        "model.bbox_head.repeats": 1,
        "custom_hooks": [{"type": "EMAHook"}, {"type": "FreezeNormsHook", "begin": 0.2}],
    }
    for split in ("train", "test"):
        options |= {
            f"{split}_dataloader.num_workers": 0,
            f"{split}_dataloader.persistent_workers": False,
        }
    suite = {
        "config": "configs/prunet_effdet.py",
        "max_iters": 10,
        "options": options,
        "seeds": 1,
        "learning_rates": [0.01, 0.02],
        "models": {"prunet": [(str(folder / "prunet_tiny.json"), 64)]},
    }
    path = folder / "tiny.py"
    path.write_text("".join(f"{key} = {value!r}\n" for key, value in suite.items()))
    return path


def run_here(name: str, *args: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Runs a tool, or any script by its path, in this process, as a user runs it in one of its own.

    Imports are most of the time of a short run; a process of its own is for what needs one. The
    next most is how a runner describes its environment.
    """
    import mmengine.runner.runner

    script = name if name.endswith(".py") else str(ROOT / "tools" / f"{name}.py")
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    ctrl_c = signal.getsignal(signal.SIGINT)
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.chdir(cwd)
        patch.setattr(mmengine.runner.runner, "collect_env", dict)
        patch.setattr(sys, "argv", [script, *map(str, args)])
        patch.setattr(sys, "path", [str(Path(script).parent), *sys.path])
        forget_runs()
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            signal.signal(signal.SIGINT, ctrl_c)
            forget_runs()
    return subprocess.CompletedProcess([script, *args], code, out.getvalue(), err.getvalue())


def kill_once(seen: Callable[[], bool], command: Sequence[object], log: Path) -> None:
    """Runs a program and ends it by SIGKILL, with the processes that it started.

    Args:
        seen: Whether it has come to where it is killed.
        command: The program, which must get there and not end before.
        log: File for what it prints.
    """
    with open(log, "w") as stream:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env=ENV,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 200
            while not seen():
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.01)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def forget_runs() -> None:
    """Drops mmengine's global loggers, message hubs, visualizers and default scope.

    It names them by the second: a run that starts in the same one would write to the other's
    streams and folders.
    """
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.registry import DefaultScope
    from mmengine.visualization import Visualizer

    for kind in (MMLogger, MessageHub, DefaultScope, Visualizer, *Visualizer.__subclasses__()):
        kind._instance_dict.clear()


@pytest.fixture(scope="session")
def here():
    """`run_here`, as a fixture."""
    return run_here


def published_counts() -> list[dict[str, str]]:
    """Parameters and MACs measured on the original builder (tests/data/gpunet_counts.csv)."""
    with open(ROOT / "tests" / "data" / "gpunet_counts.csv", encoding="utf-8") as handle:
        return list(csv.DictReader(line for line in handle if not line.startswith("#")))
