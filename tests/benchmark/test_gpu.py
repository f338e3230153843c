"""The frame of `make gpu`: whatever becomes of a part is a row, and a second call goes on."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import replace
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest

from prunet_det.benchmark.gpu import run as gpu
from prunet_det.benchmark.gpu.run import Part, Place, Plan, SkippedError, run_plan
from prunet_det.benchmark.gpu.summary import Summary
from prunet_det.utils.env import usable_cores
from prunet_det.utils.errors import UserError


def probe(place):
    place.write("machine", {"device": "a device", "commit": "abc", "cores": usable_cores()})


def probe_by_spawning(place):
    """As where CUDA cannot be used in a forked process."""
    works_by_spawning(place)
    probe(place)


def works_by_spawning(place):
    """A fork server's child is another's than of the process that asked for it."""
    if os.getppid() != multiprocessing.parent_process().pid:
        raise RuntimeError("CUDA error: initialization error")


def prepare(what, place):
    assert what == "crops"
    time.sleep(0.3)
    place.data.mkdir(exist_ok=True)


def works(place):
    times = place.read("works").get("times", 0) + 1
    place.write("works", {"times": times, "data": place.data.is_dir()})
    (place.out / "works.csv").write_text("1\n")


def figures(place):
    (place.out / "works.csv").read_text()
    return {"times": str(place.read("works")["times"])}


def none(place):
    return {}


def refuses(place):
    raise UserError("there is no such network.")


def breaks(place):
    raise ZeroDivisionError("a bug")


def cannot(place):
    raise SkippedError("pytest is not here.")


def hangs(place):
    """With a process of its own, and deaf to Ctrl-C."""
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    place.write("hangs", {"child": child})
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            continue


def goes_on(place):
    rounds = place.read("goes_on").get("rounds", 0)
    try:
        while True:
            time.sleep(0.05)
            rounds += 1
    finally:
        place.write("goes_on", {"rounds": rounds})


pytestmark = pytest.mark.slow
WORKS = Part(
    name="works", run=works, figures=figures, seconds=60, files=("works.csv",), data="crops"
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE_SECONDS", 3)
    return Place(
        out=tmp_path / "out",
        work=tmp_path / "work",
        data=tmp_path / "data",
        command="make gpu",
        scale=None,
    )


def plan(*parts, probe=probe, device="cpu"):
    made = [p if isinstance(p, Part) else Part(name=p[0], run=p[1], **p[2]) for p in parts]
    return Plan(parts=made, probe=probe, prepare=prepare, preload=(__name__,), device=device)


def limited(seconds, **options):
    return {"figures": none, "seconds": seconds, **options}


def ended(pid):
    """Whether a process is gone, or is soon."""
    stat = Path(f"/proc/{pid}/stat")
    for _ in range(100):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":  # nobody has asked for it
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_every_end_is_a_row(place):
    parts = [
        ("refuses", refuses, limited(60)),
        ("breaks", breaks, limited(60)),
        ("cannot", cannot, limited(60)),
        ("hangs", hangs, limited(2)),
        ("goes_on", goes_on, limited(3, open_ended=True)),
        WORKS,
    ]
    assert run_plan(plan(*parts), place, minutes=1.5) == 1
    rows = Summary.load(place.out).rows
    assert {name: row.state for name, row in rows.items()} == {
        "refuses": "failed",
        "breaks": "failed",
        "cannot": "skipped",
        "hangs": "out of time",
        "goes_on": "partial",
        "works": "done",
    }
    assert rows["refuses"].reason == "there is no such network."
    assert "ZeroDivisionError: a bug" in rows["breaks"].tail
    assert rows["cannot"].reason == "pytest is not here."
    assert ended(rows["hangs"].record["child"])
    assert rows["works"].record == {"times": 1, "data": True}  # it has waited for them
    text = (place.out / "summary.md").read_text()
    assert "# a device" in text and "| works | done | " in text and "| times: 1 |" in text
    assert {p.name for p in place.out.iterdir()} == {"summary.json", "summary.md", "works.csv"}


def test_another_call_goes_on(place):
    going = ("goes_on", goes_on, limited(6, open_ended=True))
    assert run_plan(plan(going, WORKS), place, minutes=1.2) == 0
    first = Summary.load(place.out).rows
    (place.work / "goes_on.json").unlink()  # as on a fresh machine, that has the records alone
    assert run_plan(plan(going, WORKS), place, minutes=0.12) == 0
    second = Summary.load(place.out).rows
    assert second["works"] == first["works"]
    assert second["goes_on"].record["rounds"] > first["goes_on"].record["rounds"] > 0
    assert second["goes_on"].seconds > first["goes_on"].seconds
    (place.out / "works.csv").unlink()  # a record is missing
    assert run_plan(plan(going, WORKS), place, only=["works"]) == 0
    third = Summary.load(place.out).rows
    assert third["works"].record["times"] == 2 and third["goes_on"] == second["goes_on"]


def test_another_folder_begins_afresh(place):
    assert run_plan(plan(WORKS), place) == 0
    assert run_plan(plan(WORKS), replace(place, out=place.out / "other")) == 0
    assert Summary.load(place.out / "other").rows["works"].record["times"] == 1


def test_records_that_make_no_sense_give_no_figures(place):
    part = Part(name="works", run=works, figures=breaks, seconds=60, files=("works.csv",))
    assert run_plan(plan(part), place) == 0
    assert Summary.load(place.out).rows["works"].figures == {}


def test_too_little_time(place):
    """What would not come far is not started, and what there is stays."""
    last = ("refuses", refuses, limited(1))
    assert run_plan(plan(WORKS, last), place, minutes=0.002) == 0
    assert {r.state for r in Summary.load(place.out).rows.values()} == {"no time left"}


def test_no_data(place):
    place.data.write_text("")  # in the way
    assert run_plan(plan(WORKS, ("cannot", cannot, limited(1))), place) == 1
    rows = Summary.load(place.out).rows
    assert rows["works"].reason.startswith("there are no data: ")
    assert rows["cannot"].state == "skipped"


def test_a_gpu_that_no_forked_process_can_use(place, caplog, monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_context", BaseContext().get_context)
    caplog.set_level("INFO", "prunet_det")
    part = ("spawned", works_by_spawning, limited(60))
    assert run_plan(plan(part, probe=probe_by_spawning, device="cuda"), place) == 0
    assert Summary.load(place.out).rows["spawned"].state == "done"
    assert "every part imports for itself" in caplog.text


def test_refusals(place):
    with pytest.raises(UserError, match="no part 'x'; the parts are works"):
        run_plan(plan(WORKS), place, only=["x"])
    with pytest.raises(UserError, match=r"there is no such network\."):
        run_plan(plan(WORKS, probe=refuses), place)
    Summary(machine={"device": "another"}).save(place.out)
    with pytest.raises(UserError, match="holds records of another, this is a device; give"):
        run_plan(plan(WORKS), place)
    (place.out / "summary.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        run_plan(plan(WORKS), place)


def test_interrupted(place, monkeypatch):
    """Ctrl-C ends the part and all that it started, and leaves a row."""
    wait = gpu._Runner._wait

    def interrupt(self, process, title, seconds):
        if "hangs" in title:
            while not place.read("hangs"):
                time.sleep(0.05)
            raise KeyboardInterrupt
        return wait(self, process, title, seconds)

    monkeypatch.setattr(gpu._Runner, "_wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan(("hangs", hangs, limited(60)), WORKS), place)
    rows = Summary.load(place.out).rows
    assert list(rows) == ["hangs"] and rows["hangs"].state == "interrupted"
    assert ended(rows["hangs"].record["child"])
