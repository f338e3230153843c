"""Searched networks beside what they have to beat: trained by one short recipe from scratch.

Records are JSON lines, one a training, keyed by the network's blocks, the recipe, the data and the
seed; a network that several questions ask for is trained once.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from prunet_det.arch.spec import ArchSpec, Provenance
from prunet_det.errors import UserError
from prunet_det.files import atomic_path
from prunet_det.machine import environment
from prunet_det.search.baselines import random_repaired, scaled_repaired
from prunet_det.search.costs import BudgetError, Pricing, SpaceCosts
from prunet_det.search.finals import digest_of_blocks, uniform
from prunet_det.search.repair import repair
from prunet_det.search.results import ARCH_FILE, FOUND_FILE, RUN_FILE
from prunet_det.search.space import Network, SearchSpace
from prunet_det.search.trial import recipe_hash, recipe_of
from prunet_det.training.records import write_json

RECORDS, ENTRIES, PLOT = "records.jsonl", "entries.json", "comparison.png"
# Group to the flags of a search with one tier off, in the order of the tables. They have no last
# tier, which would hide what the others are worth: they stand beside the group FOUND.
ABLATIONS = {
    "tier 1 off: expansions 1, 3, 6": ["--no-finals", "--fixed-expansions", "1", "3", "6"],
    "tier 2 off: candidates stay": ["--no-finals", "--no-block-pruning"],
    "tier 3 off: skip from the start": ["--no-finals", "--skip-from-start"],
}
SEARCHED, FOUND, UNIFORM, WIDTHS = (
    "searched",
    "before the last tier",
    "uniform widths",
    "random widths",
)
RANDOM, SCALED = "random", "scaled P0"
_WIDTH_DRAWS = 1


@dataclass(frozen=True)
class Entry:
    """A network that is compared.

    Attributes:
        group: What it stands for, such as `random`.
        name: Its own, unique.
        spec: The network.
        latency_ms: As priced.
        search_seed: Of the search that it belongs to, if any.
        search_seconds: What that search took, last tier included.
    """

    group: str
    name: str
    spec: ArchSpec
    latency_ms: float
    search_seed: int | None = None
    search_seconds: float = 0.0

    @property
    def digest(self) -> str:
        """Of the blocks: the same network is the same whatever it is called."""
        return digest_of_blocks(self.spec)

    def to_dict(self) -> dict[str, Any]:
        """For entries.json; blocks as stage, kind, kernel, input and inner width."""
        values = {k: v for k, v in self.__dict__.items() if k != "spec"}
        blocks = [
            [i, b.kind, b.kernel, b.in_chs, b.hidden]
            for i, stage in enumerate(self.spec.stages)
            for b in stage.blocks
        ]
        return {**values, "network": self.digest, "blocks": blocks}


@dataclass(frozen=True)
class Job:
    """One training."""

    entry: str
    spec: dict[str, Any]
    network: str
    recipe: str
    train_seed: int
    recipe_hash: str

    @property
    def key(self) -> tuple[str, str, int]:
        """What a record of it says."""
        return self.network, self.recipe_hash, self.train_seed


def run_searches(
    out: Path,
    wanted: Sequence[tuple[str, list[str]]],
    command: Callable[[list[str]], list[str]],
    jobs: int,
    say: Callable[[str], None],
) -> None:
    """Runs the searches whose results are not there yet, `jobs` at a time.

    Args:
        out: Their folders' folder.
        wanted: Name and flags of each.
        command: From flags to a command line.
        jobs: At once.
        say: Told what starts and ends.

    Raises:
        UserError: One failed; its log says why.
    """
    running: list[tuple[str, subprocess.Popen[bytes], Path]] = []

    def wait_for_one() -> None:
        name, process, log = running.pop(0)
        if process.wait():
            raise UserError(f"the search {name} failed; {log} says why. The rest is kept.")
        say(f"{name} is done")

    try:
        for name, flags in wanted:
            folder = out / name
            if is_finished(folder):
                continue
            while len(running) >= jobs:
                wait_for_one()
            folder.mkdir(parents=True, exist_ok=True)
            log = folder / "console.log"
            argv = command([*flags, "--out", str(folder), "--quiet", "--resume"])
            with log.open("ab") as stream:
                running.append((name, subprocess.Popen(argv, stdout=stream, stderr=stream), log))
            say(f"{name} runs: {log}")
        while running:
            wait_for_one()
    finally:
        for _, process, _ in running:
            process.terminate()
            process.wait()


def is_finished(folder: Path) -> bool:
    """Whether a folder holds the result of a search that came to its end."""
    try:
        run = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        return "inherited_top1" in run
    except (OSError, ValueError):
        return False


def searched_entries(
    folder: Path, group: str, seed: int, costs: SpaceCosts, budget_ms: float
) -> Iterator[Entry]:
    """The result of a search, what it was before the last tier, and, of the whole search, its
    operators with other widths.

    Args:
        folder: Of the search.
        group: SEARCHED, or an ablation.
        seed: Of the search.
        costs: Of the space with free widths.
        budget_ms: To fill to.
    """
    run = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    spec = ArchSpec.load(folder / ARCH_FILE)
    ms, seconds = run["after_repair_ms"], run["search_seconds"] + run.get("final_seconds", 0.0)
    yield Entry(group, f"{group} {seed}", spec, ms, seed, seconds)
    if group != SEARCHED:
        return
    found = ArchSpec.load(folder / FOUND_FILE)
    network = costs.space.network_of(found)
    yield Entry(
        FOUND, f"{FOUND} {seed}", found, costs.network_ms(network), seed, run["search_seconds"]
    )
    final = costs.space.network_of(spec)
    try:
        even = uniform(final, costs, budget_ms)
        yield _entry(UNIFORM, f"{UNIFORM} {seed}", even, costs, seed)
    except BudgetError:
        pass
    for draw in range(_WIDTH_DRAWS):
        other = _random_widths(final, costs, budget_ms, seed * _WIDTH_DRAWS + draw)
        if other is not None:
            yield _entry(WIDTHS, f"{WIDTHS} {seed}.{draw}", other, costs, seed)


def _random_widths(
    network: Network, costs: SpaceCosts, budget_ms: float, seed: int, tries: int = 100
) -> Network | None:
    chosen = random.Random(seed)
    for _ in range(tries):
        drawn = tuple(
            layer.block(layer.operator_of(b), chosen.choice(layer.widths_of(layer.operator_of(b))))
            if b
            else None
            for layer, b in zip(costs.space.layers, network, strict=True)
        )
        try:
            return repair(drawn, costs, budget_ms, change_layers=False, fill=True).network
        except BudgetError:
            continue
    return None


def _entry(
    group: str, name: str, network: Network, costs: SpaceCosts, seed: int | None = None
) -> Entry:
    reason = f"{name}, what a search is compared with"
    spec = costs.space.to_spec(
        network, "compared", Provenance("hand-written", {"reason": reason}), costs.input_size
    )
    return Entry(group, name, spec, costs.network_ms(network), seed)


def baseline_entries(
    pricing: Pricing, costs: SpaceCosts, budget_ms: float, count: int
) -> Iterator[Entry]:
    """Random networks of the space, and the published P0 scaled to the budget."""
    for i in range(count):
        yield _entry(RANDOM, f"{RANDOM} {i}", random_repaired(costs, budget_ms, i).network, costs)
    scaled_costs, repaired = scaled_repaired(pricing, costs.input_size, budget_ms)
    yield _entry(SCALED, SCALED, repaired.network, scaled_costs)


# Training.


def read_records(out: Path) -> list[dict[str, Any]]:
    """The trainings that are done; a line that an interruption cut off is left out.

    Raises:
        UserError: A line before the last one is damaged.
    """
    path = out / RECORDS
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for i, line in enumerate(lines):
        try:
            record = json.loads(line)
            record["network"], record["recipe"], record["train_seed"], record["top1"]
            records.append(record)
        except (ValueError, KeyError, TypeError) as e:
            if i + 1 < len(lines):
                raise UserError(
                    f"line {i + 1} of {path} is damaged ({e}); remove the line, and its training "
                    "is done again."
                ) from e
    return records


def key_of(record: dict[str, Any]) -> tuple[str, str, int]:
    """As of Job."""
    return record["network"], record["recipe"], record["train_seed"]


def train_all(
    out: Path, entries: Sequence[Entry], recipe: str, seeds: int, jobs: int, progress: bool
) -> None:
    """Trains what has no record yet, `jobs` at a time, and writes each record when it is there.

    Raises:
        UserError: A process died; what is done is kept.
    """
    from tqdm import tqdm

    digest, done = recipe_hash(recipe), {key_of(r) for r in read_records(out)}
    todo: dict[tuple[str, str, int], Job] = {}
    for seed in range(seeds):  # so that an early end leaves all networks with as many trainings
        for entry in entries:
            job = Job(entry.name, entry.spec.to_dict(), entry.digest, recipe, seed, digest)
            if job.key not in done:
                todo.setdefault(job.key, job)
    if not todo:
        return
    _mend(out / RECORDS)
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // jobs)
    bar = tqdm(total=len(todo), desc="training", unit="network", disable=not progress)
    pool = ProcessPoolExecutor(jobs, context, _start_worker, (threads,))
    try:
        futures = [pool.submit(_train, job) for job in todo.values()]
        with (out / RECORDS).open("a", encoding="utf-8") as stream:
            for future in as_completed(futures):
                stream.write(json.dumps(future.result()) + "\n")
                stream.flush()
                bar.update()
    except BrokenProcessPool as e:
        raise UserError(
            "a training's process died; run the command again, and it goes on from there."
        ) from e
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        bar.close()


def _mend(path: Path) -> None:
    """Cuts off a last line without an end."""
    if path.is_file():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            with path.open("r+b") as stream:
                stream.truncate(data.rfind(b"\n") + 1)


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends everything
    parent = multiprocessing.parent_process()

    def leave_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _train(job: Job) -> dict[str, Any]:
    from prunet_det.search.trial import run_trial

    trial = run_trial(ArchSpec.from_dict(job.spec), Config.fromfile(job.recipe), job.train_seed)
    return {
        "entry": job.entry,
        "network": job.network,
        "recipe": job.recipe_hash,
        "train_seed": job.train_seed,
        "top1": trial.top1,
        "seconds": round(trial.seconds, 2),
        **{k: v for k, v in environment().items() if k in ("commit", "machine", "date")},
    }


def write_entries(out: Path, entries: Sequence[Entry], about: dict[str, Any]) -> None:
    """Writes which networks are compared, and under what; records refer to them.

    Raises:
        UserError: The folder holds another comparison.
    """
    path = out / ENTRIES
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))["about"]
        for key in ("space", "table", "budget_ms", "recipe"):
            if before.get(key) != about[key]:
                raise UserError(
                    f"{out} holds a comparison with another {key} ({before.get(key)}, not "
                    f"{about[key]}); give another --out."
                )
    write_json(path, {"about": about, "entries": [e.to_dict() for e in entries]})
    for entry in entries:
        entry.spec.save(out / "networks" / f"{entry.digest}.json")


def compare(args: argparse.Namespace, command: Callable[[list[str]], list[str]]) -> int:
    """Everything that the command line asks for; what is there already is not done again.

    Args:
        args: See `tools/search_backbone.py compare`.
        command: From a search's flags to its command line.

    Returns:
        0, or 1 where a searched network does not beat what it has to.
    """
    from prunet_det.console import print_table
    from prunet_det.search import verdict
    from prunet_det.training import launch

    for name, least in (("random", 3), ("seeds", 0), ("train_seeds", 1), ("ablations", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}.")
    if args.jobs < 1:
        raise UserError("--jobs must be at least 1.")
    load = argparse.Namespace(
        config=args.config, launcher="none", cfg_options=None, data_root=None, work_dir=None
    )
    load.local_rank = 0
    cfg = launch.load_config(load)
    recipe = recipe_of(cfg, args.config, "compare_recipe")
    pricing = Pricing(args.device, args.batch, progress=not args.quiet)
    costs = pricing.costs(SearchSpace.from_config(cfg.space), args.input_size)
    print(costs.describe())
    costs.check_budget(args.budget_ms)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)

    shared = [args.config, "--budget-ms", f"{args.budget_ms:g}", "--device", args.device]
    shared += ["--batch", str(args.batch), "--input-size", str(args.input_size)]
    wanted: list[tuple[str, int, str, list[str]]]
    wanted = [(SEARCHED, seed, f"search_{seed}", []) for seed in range(args.seeds)]
    for i, (group, flags) in enumerate(ABLATIONS.items()):
        wanted += [(group, s, f"ablation{i}_{s}", flags) for s in range(args.ablations)]
    searches = [(name, [*shared, "--seed", str(seed), *f]) for _, seed, name, f in wanted]
    run_searches(out / "searches", searches, command, args.jobs, print)

    entries = list(baseline_entries(pricing, costs, args.budget_ms, args.random))
    for group, seed, name, _ in wanted:
        entries += searched_entries(out / "searches" / name, group, seed, costs, args.budget_ms)
    about = {
        "budget_ms": args.budget_ms,
        "device": str(costs.conditions),
        "input_size": args.input_size,
        "space": costs.space.hash,
        "table": costs.table_hash,
        "config": args.config,
        "recipe": recipe_hash(recipe),
        "recipe_file": os.path.normpath(recipe),
        "data": str(Config.fromfile(recipe).train_dataloader.dataset.get("name", "own data")),
    }
    write_entries(out, entries, about)
    train_all(out, entries, recipe, args.train_seeds, args.jobs, not args.quiet)

    found = verdict.Comparison.load(out)
    print_table("networks of one latency", verdict.GROUP_HEADER, verdict.group_rows(found))
    if args.train_seeds > 1:
        between, within = found.spread()
        print(
            f"spread of random networks {between:.4f}, of trainings {within:.4f}: "
            f"ratio {between / within:.1f}"
        )
    verdict.draw_comparison(found, out / PLOT)
    if args.publish:
        for name in (ENTRIES, RECORDS, PLOT):
            with atomic_path(Path(args.publish) / name) as temporary:
                temporary.write_bytes((out / name).read_bytes())
    if not args.seeds:
        return 0
    print_table("how far the searches agree", verdict.AGREEMENT_HEADER, verdict.agreement(found))
    header, rows = verdict.searched_header(found), verdict.searched_rows(found)
    print_table("searched networks", header, rows)
    return 0 if all(all(checks.values()) for _, checks in found.checks()) else 1
