"""The parts of `make gpu` that search: every budget at once, ablations, and the judge of both."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunet_det.benchmark.gpu.run import GRACE_SECONDS, Place, trace
from prunet_det.utils.config import read_config
from prunet_det.utils.errors import UserError, run_tool
from prunet_det.utils.io import write_text
from prunet_det.utils.package import find_config
from prunet_det.utils.runs import RunStore

if TYPE_CHECKING:
    from prunet_det.benchmark.search_study import SearchStudy
    from prunet_det.search import SearchResult

logger = logging.getLogger(__name__)

# What a search does without, by the name of its row: parts that are off, and the config's options.
ABLATIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "searched": ((), {}),
    "without tier 1": (("widths",), {}),
    "without tier 2": (("candidates",), {}),
    "without tier 3": (("layers",), {}),
    "mixture": ((), {"search.weights": "mixture"}),
    "without evolution": (("evolution",), {}),
    "without surrogate": (("surrogate",), {}),
    "without last tier": (("finalists",), {}),
}


def _search(
    place: Place, config: str, *, options: Mapping[str, Any] | None = None, **asked: Any
) -> SearchResult:
    """Runs a search on the data of the place; one that was cut off goes on."""
    from prunet_det.search import SearchConfig, search

    trace()
    crops = read_config(config).data.dataset.name
    data = {"data.dataset.data_root": str(place.data / crops)}
    return search(
        SearchConfig.from_file(
            config,
            options={**data, **place.scale.search_options, **(options or {})},
            resume=Path(asked["out"]).exists(),
            progress=False,
            **asked,
        )
    )


def _search_all(place: Place) -> None:
    """Searches the full space for every budget, in a fresh interpreter, and says what it took."""
    import torch

    scale, start = place.scale, time.monotonic()
    result = _search(
        place,
        scale.search,
        budget_ms=scale.budgets,
        out=str(place.work / "search"),
        amp=scale.amp and scale.device != "cpu",
    )
    cuda = torch.cuda.is_available()
    found = {
        f"{ms:g}": {"ms": n.ms, "chooser": n.chooser, "figures": dict(n.figures)}
        for ms, n in result.networks.items()
    }
    place.write(
        "search",
        {
            "run": result.run,
            "networks": found,
            "specs": {f"{ms:g}": n.spec.to_dict() for ms, n in result.networks.items()},
            "search_seconds": round(time.monotonic() - start, 1),
            "peak_mb": round(torch.cuda.max_memory_allocated() / 2**20) if cuda else 0,
        },
    )


def run_search(place: Place) -> None:
    """Searches the full space for every budget: minutes from a fresh interpreter, and memory.

    Raises:
        UserError: If the search failed.
    """
    start = time.monotonic()
    process = multiprocessing.get_context("spawn").Process(
        target=run_tool, args=(partial(_search_all, place),)
    )
    process.start()
    try:
        process.join()
    finally:
        if process.exitcode is None and process.pid:  # Ctrl-C: it saves what it has
            os.kill(process.pid, signal.SIGINT)
            process.join(GRACE_SECONDS - 2)
    if process.exitcode:
        raise UserError(f"the search ended with status {process.exitcode}.")
    record = place.read("search")
    place.write("search", {**record, "whole_seconds": round(time.monotonic() - start, 1)})


def search_figures(place: Place) -> dict[str, str]:
    """Minutes, memory, and what was found for every budget."""
    record = place.read("search")
    if "whole_seconds" not in record:
        return {}
    phases = ", ".join(f"{k} {v:.0f} s" for k, v in record["run"].get("seconds", {}).items())
    found = (f"{n['ms']:.3f} ms by {n['chooser']}" for n in record["networks"].values())
    return {
        "whole": f"{record['whole_seconds']:.0f} s ({phases})",
        "memory": f"{record['peak_mb'] / 1024:.1f} GiB",
        "found": ", ".join(found),
    }


@dataclass(frozen=True)
class _Ablation:
    """A search that a process of its own runs: name of its row, seed, and where it works."""

    name: str
    seed: int
    place: Place

    @property
    def folder(self) -> Path:
        """Folder of the result."""
        return self.place.work / "ablations" / f"{self.name.replace(' ', '_')}_{self.seed}"

    def run(self) -> float:
        """Runs it; returns seconds."""
        start, scale = time.monotonic(), self.place.scale
        off, options = ABLATIONS[self.name]
        _search(
            self.place,
            scale.ablated,
            budget_ms=scale.ablated_ms,
            options=options,
            out=str(self.folder),
            seed=self.seed,
            off=off,
        )
        return round(time.monotonic() - start, 1)


def _run(ablation: _Ablation) -> float:
    return ablation.run()


def _ablations(place: Place) -> list[_Ablation]:
    """All of them, seed by seed, so that an early end leaves every row as many."""
    scale = place.scale
    names = scale.ablations or tuple(ABLATIONS)
    return [_Ablation(name, seed, place) for seed in range(scale.search_seeds) for name in names]


def run_ablations(place: Place) -> None:
    """Searches with a part switched off each, several at once.

    Raises:
        UserError: If some failed.
    """
    from prunet_det.utils.jobs import run_in_processes

    record: dict[str, Any] = {"seconds": {}, "specs": {}, **place.read("ablations")}
    todo = [a for a in _ablations(place) if a.folder.name not in record["specs"]]
    failed = []
    calls = run_in_processes(_run, todo, "", place.scale.jobs, in_order=True, spawn=True)
    for ablation, call in zip(todo, calls, strict=True):
        key, error = ablation.folder.name, call.exception()
        if error is not None:
            logger.error("%s failed:", key, exc_info=error)
            failed.append(key)
            continue
        record["seconds"][key] = call.result()
        (arch,) = ablation.folder.glob("*ms/arch.json")
        record["specs"][key] = json.loads(arch.read_text(encoding="utf-8"))
        place.write("ablations", record)
    if failed:
        raise UserError(f"failed: {', '.join(failed)}")


def ablations_figures(place: Place) -> dict[str, str]:
    """How many searches, and seconds each."""
    seconds = place.read("ablations").get("seconds", {}).values()
    if not seconds:
        return {}
    return {"searches": f"{len(seconds)}, {sum(seconds) / len(seconds):.0f} s each"}


def run_ablations_judge(place: Place) -> None:
    """Judges what the ablations have found, beside random networks.

    Raises:
        UserError: If there are none.
    """
    scale = place.scale
    found = [a for a in _ablations(place) if any(a.folder.glob("*ms/arch.json"))]
    if not found:
        raise UserError("there are no ablations to judge.")
    searches = [f"{a.name}={a.folder}" for a in found]
    judge = _judge(place, scale.ablated_judge)
    study = _compared(
        place, "ablations_study", judge, searches, config=scale.ablated, budget_ms=scale.ablated_ms
    )
    place.write("ablations_judge", {"study": study})


def ablations_judge_figures(place: Place) -> dict[str, str]:
    """Spread over noise, seconds a training, and mean top-1 of each row."""
    return _means(place.read("ablations_judge").get("study"))


def run_judge(place: Place) -> None:
    """Judges random networks of the full space, beside what the search found for that budget."""
    scale, folder = place.scale, place.work / "search"
    found = [str(folder)] if (folder / f"{scale.judged_ms:g}ms" / "arch.json").exists() else []
    judge = _judge(place, scale.judge)
    study = _compared(
        place, "judge_study", judge, found, config=scale.search, budget_ms=scale.judged_ms
    )
    place.write("judge", {"study": study})


def judge_figures(place: Place) -> dict[str, str]:
    """Spread over noise, seconds a training, and mean top-1 of each row."""
    return _means(place.read("judge").get("study"))


def _judge(place: Place, judge: str) -> str:
    """Writes a judge's config with the data of the place; returns its path."""
    crops = place.scale.judge_data.get("name", read_config(judge).data.name)
    own = dict(place.scale.judge_data, data_root=str(place.data / crops))
    data = dict(dataset=own)
    changed = dict(recipe=dict(place.scale.judge_options), train_data=data, score_data=data)
    lines = [f"_base_ = [{str(find_config(judge).resolve())!r}]"]
    path = place.work / f"{Path(judge).stem}_here.py"
    write_text(path, "\n".join([*lines, *(f"{k} = {v!r}" for k, v in changed.items())]) + "\n")
    return str(path)


def _compared(
    place: Place, name: str, judge: str, searches: list[str], **space: Any
) -> dict[str, Any]:
    """Trains networks by the judge's recipe, several at once; returns what came of it."""
    from prunet_det.benchmark.search_compare import CompareOptions, compare

    scale, start, folder = place.scale, time.monotonic(), place.work / name
    options = CompareOptions(
        out=str(folder),
        judge=judge,
        searches=searches,
        random=scale.random,
        surrogates=0,
        trainings=scale.trainings,
        jobs=scale.jobs,
        train_on=scale.device,
        progress=False,
        **space,
    )
    study = compare(options)
    return {
        "seconds": round(time.monotonic() - start, 1),
        "training_seconds": [run.seconds for run in RunStore(folder)],
        "end": study.end,
        "spread_over_noise": _ratio(study),
        "means": {c.entry.name: round(study.mean(c), 4) for c in study.contestants},
        "groups": {c.entry.name: c.entry.group for c in study.contestants},
        "study": study.to_dict(),
    }


def _ratio(study: SearchStudy) -> float | None:
    try:
        return round(float(study.spread().ratio), 2)
    except UserError:  # one training of each says nothing of the noise
        return None


def _means(study: Mapping[str, Any] | None) -> dict[str, str]:
    if not study:
        return {}
    rows: dict[str, list[float]] = {}
    for name, top1 in study["means"].items():
        rows.setdefault(study["groups"][name], []).append(top1)
    each = study["training_seconds"]
    return {
        "trainings": f"{len(each)} in {study['seconds']:.0f} s, {sum(each) / len(each):.1f} s each",
        "spread over noise": str(study["spread_over_noise"]),
        **{name: f"{sum(v) / len(v):.3f}" for name, v in rows.items()},
    }
