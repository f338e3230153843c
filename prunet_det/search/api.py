"""`search(config)`: from what is asked for to a network for every budget."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from mmengine import dist
from mmengine.optim import build_optim_wrapper
from mmengine.registry import OPTIMIZERS

from prunet_det.arch.spec import Provenance
from prunet_det.search.architecture import Architecture
from prunet_det.search.config import SearchConfig
from prunet_det.search.costs import BudgetError
from prunet_det.search.evolution import Region, Scored, propose
from prunet_det.search.finalists import (
    TIERS,
    Finalist,
    Propose,
    Score,
    first_finalists,
    halve,
)
from prunet_det.search.hooks import (
    BarHook,
    CheckpointHook,
    EvolutionHook,
    HistoryHook,
    SearchHook,
    ending_in_order,
)
from prunet_det.search.loop import SearchLoop
from prunet_det.search.pricing import OnDevice, priced
from prunet_det.search.report import write_report
from prunet_det.search.result import (
    CHECKPOINT_FILE,
    LAST_TIER,
    MEASURED_FILE,
    RUN_FILE,
    FoundNetwork,
    SearchResult,
    network_folder,
    prepared_folder,
)
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import Shape
from prunet_det.search.tasks import make_task
from prunet_det.utils.config import config_errors
from prunet_det.utils.env import environment
from prunet_det.utils.errors import InputError, UserError
from prunet_det.utils.io import digest

logger = logging.getLogger(__name__)

_OUT = " --out DIR"  # of commands that share a folder


def search(config: SearchConfig) -> SearchResult:
    """Searches a network for every budget.

    Args:
        config: What is asked for.

    Returns:
        The networks of the budgets asked for, and of those that the folder held before. In all
        but the main process of a distributed search, a result without networks.

    Raises:
        UserError: If the data, the budgets or the folder cannot be used; before the first step.
        KeyboardInterrupt: After Ctrl-C, once a checkpoint and a result so far are written.
    """
    found = _Search(config)
    found.train()
    if dist.is_distributed():
        torch.distributed.destroy_process_group()  # what follows is the main process's
    if not found.is_main:
        return SearchResult(networks={}, run={}, folder=found.folder)
    return found.finish()


def train_supernet(config: SearchConfig) -> SearchLoop:
    """Trains the supernet of a search, or resumes that, and chooses nothing.

    Args:
        config: What is asked for. With `search.tiers=0` all candidates are there at the end.

    Raises:
        UserError, KeyboardInterrupt: As `search`.
    """
    found = _Search(config)
    found.train()
    return found.loop


class _Search:
    """A search at work."""

    def __init__(self, config: SearchConfig) -> None:
        self.config = config
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if config.detector is not None:  # a wrong one is refused before a device is measured
            self.folder = prepared_folder(config.out, config.resume)
            self.task = make_task(config, device)
        self.spaces = priced(config)
        self.is_main = dist.is_main_process()
        for ms in config.budgets_ms:
            self._met_by(ms)
        if config.detector is None:
            self.folder = prepared_folder(config.out, config.resume)
            self.task = make_task(config, device)
        identity = {
            **config.identity,
            "processes": dist.get_world_size(),
            "prices (digest)": self._prices,
            "data (digest)": digest(self.task.identity),
        }
        self.history = HistoryHook(self.folder if self.is_main else None)
        wanted = self._has_last_tier and "evolution" not in config.off
        kept = config.finalists.evolved if wanted else 0
        self.evolution = EvolutionHook(config.evolution.evaluations, kept)
        self.checkpoint = CheckpointHook(
            self.folder / CHECKPOINT_FILE,
            identity,
            config.search.checkpoint_interval,
            {"history": self.history, "evolution": self.evolution},
            config.command,
        )
        state = self.checkpoint.read()
        if state is None and self.is_main:  # a former search's, of other detectors perhaps
            (self.folder / MEASURED_FILE).unlink(missing_ok=True)
        self.on_device = OnDevice(config, self.folder / MEASURED_FILE)
        budgets = config.budgets_ms if state is None else state["budgets_ms"]
        self.loop = self._build_loop([a for ms in budgets for a in self._architectures(ms)])
        if state is not None:
            self.checkpoint.load(self.loop, state)

    @property
    def _has_last_tier(self) -> bool:
        return "finalists" not in self.config.off and bool(self.config.finalists.iterations)

    @property
    def _prices(self) -> str:
        """A digest of all prices, those of a detector's neck and head among them."""
        if self.config.detector is None:
            return self.spaces[0].costs.table_hash
        return digest([[s.costs.table_hash, s.costs.fixed_ms] for s in self.spaces])

    def _met_by(self, ms: float) -> list[Shapes]:
        """The sizes of images at which a budget can be met.

        Raises:
            BudgetError: If there is none.
        """
        found, errors = [], []
        for shapes in self.spaces:
            try:
                shapes.check(ms)
                found.append(shapes)
            except BudgetError as error:
                errors.append(error)
        if not found:
            raise errors[0] if len(errors) == 1 else BudgetError(" ".join(map(str, errors)))
        return found

    def _architectures(self, ms: float) -> list[Architecture]:
        """What chooses for a budget, one for each size of images."""
        c, several = self.config, len(self.spaces) > 1
        return [
            Architecture(
                shapes,
                ms,
                c.active_tiers,
                c.rule,
                c.seed,
                f"{ms:g}@{shapes.costs.input_size}" if several else "",
            )
            for shapes in self._met_by(ms)
        ]

    @property
    def _by_budget(self) -> dict[float, list[Architecture]]:
        found: dict[float, list[Architecture]] = {}
        for architecture in self.loop.architectures:
            found.setdefault(architecture.budget_ms, []).append(architecture)
        return found

    def _build_loop(self, architectures: list[Architecture]) -> SearchLoop:
        config = self.config
        torch.manual_seed(config.seed)
        model = self.task.build(config.space)
        settings: dict[str, Any] = dict(config.optim_wrapper)
        if config.amp:  # bfloat16 needs no scale of the loss, which the host would wait for
            settings.update(type="AmpOptimWrapper", dtype="bfloat16", loss_scale={"enabled": False})
        kind = (settings.get("optimizer") or {}).get("type")
        if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
            raise InputError(f"there is no optimizer {kind!r}.")
        with config_errors():
            wrapper = build_optim_wrapper(model, settings)
        hooks: list[SearchHook] = [self.history, self.evolution, self.checkpoint]
        if config.progress and self.is_main:
            hooks.append(BarHook())
        return SearchLoop(model, architectures, self.task, config.search, wrapper, hooks)

    def train(self) -> None:
        """Trains the supernet, and lets further budgets choose from it once it is trained.

        Raises:
            UserError: If further budgets are asked for before it is.
        """
        loop, known = self.loop, [f"{ms:g}" for ms in self._by_budget]
        new = [ms for ms in self.config.budgets_ms if f"{ms:g}" not in known]
        if loop.phase != "done":
            if new or len(known) != len(self.config.budgets_ms):
                raise UserError(
                    f"the search to resume is for {', '.join(known)} ms and has not ended; resume "
                    "it with these budgets, and ask for others afterwards."
                )
            with ending_in_order(loop):
                loop.run()
            if loop.phase != "done":
                if self.is_main:
                    self._result(self._networks_so_far())
                raise KeyboardInterrupt
        # Whatever cannot be met is refused before the first.
        further = [a for ms in new for a in self._restricted(self._architectures(ms))]
        for architecture in further:
            loop.add(architecture)
            self.evolution.evolve(loop, architecture)
        if further:
            before = self.checkpoint.command.removesuffix(_OUT)
            self.checkpoint.command = f"{before}{_OUT} && {self.config.command} --resume{_OUT}"
            self.checkpoint.save(loop)

    def _restricted(self, architectures: Sequence[Architecture]) -> list[Architecture]:
        """Those that a budget has in what is left of the supernet, at one size at least."""
        found, errors = [], []
        for architecture in architectures:
            try:
                architecture.restrict(self.loop.left)
                found.append(architecture)
            except BudgetError as error:
                errors.append(error)
        if not found:
            raise errors[0]
        return found

    def _networks_so_far(self, settled: bool = False) -> dict[float, FoundNetwork]:
        """The tiers' networks, which are saved, or what a finished search has for a budget.

        Args:
            settled: Whether they spend it as measured, which takes a while, or as priced.
        """
        networks = {}
        for ms, architectures in self._by_budget.items():
            folder = network_folder(self.folder, ms)
            done = None
            if (folder / RUN_FILE).exists():
                try:
                    done = FoundNetwork.load(folder)
                except UserError as error:
                    logger.warning("%s The network for %g ms is made anew.", error, ms)
            if done is None or not done.final:
                each = []
                for a in architectures:
                    shape = a.shape()
                    if settled:
                        shape = self.on_device.settle(a.shapes, ms, shape)
                    each.append(self._found(a.shapes, shape, ms, TIERS))
                done = min(each, key=lambda network: network.figures["loss"])
                done.save(folder)
            networks[ms] = done
        return networks

    def finish(self) -> SearchResult:
        """Chooses the network of every budget, in one process."""
        networks = self._networks_so_far(settled=True)
        self._result(networks, report=False)  # a last tier may be interrupted
        for ms, architectures in self._by_budget.items():
            network = networks[ms]
            if network.final:
                continue
            tiers = network.spec
            if self._has_last_tier:
                network = self._last_tier(ms, architectures)
            networks[ms] = replace(network.measured(), final=True, tiers=tiers)
            networks[ms].save(network_folder(self.folder, ms))
        return self._result(networks)

    def _last_tier(self, ms: float, architectures: Sequence[Architecture]) -> FoundNetwork:
        """Lets the choosers' networks meet; the weights are the better ones of two kinds."""
        config, folder = self.config, network_folder(self.folder, ms) / "finalists"
        several = len(self.spaces) > 1
        own = {a.input_size if several else 0: a.shapes for a in architectures}
        trainings = {
            size: self.task.trainings(config, shapes, folder, self.loop.ema.module)
            for size, shapes in own.items()
        }
        entrants: list[Finalist] = []
        for (size, shapes), architecture in zip(own.items(), architectures, strict=True):
            whole, evolved = Region(shapes=shapes, ms=ms), self.evolution.found
            those = evolved.get(architecture.name, [])
            tiers = architecture.shape()
            settle = partial(self.on_device.settle, shapes, ms)
            first = first_finalists(whole, tiers, those, config.finalists, config.seed, settle)
            suffix = f" at {size} px" if several else ""
            entrants += [replace(f, name=f.name + suffix, input_size=size) for f in first]

        def train(finalists: Sequence[Finalist], steps: int) -> list[Score]:
            scores: dict[str, Score] = {}
            for size, trained in trainings.items():
                sized = [f for f in finalists if f.input_size == size]
                found = trained([f.shape for f in sized], steps)
                scores |= {f.name: score for f, score in zip(sized, found, strict=True)}
            return [scores[f.name] for f in finalists]

        told: Propose | None = None
        count = config.finalists.proposed
        if "surrogate" not in config.off and count and not several:

            def told(trained: Sequence[Scored]) -> list[Shape]:
                return [settle(s) for s in propose(whole, trained, config.seed, count)]

        finalists = halve(whole.shapes, entrants, train, config.finalists, told)
        best, steps = finalists[0], config.finalists.iterations[-1]
        shapes, trained = own[best.input_size], trainings[best.input_size]
        network, score = self._found(shapes, best.shape, ms, best.name), best.scores[steps]
        figures, weights = dict(network.figures), network.weights
        if score.loss < figures["loss"]:
            figures["weights"] = f"of {steps} steps {trained.start}, in the last tier"
            figures |= {self.task.metric: score.accuracy, "loss": score.loss}
            weights = trained.weights(best.shape, steps)
        figures["seconds"] = round(trained.seconds, 2)
        figures["finalists"] = [finalist.to_dict() for finalist in finalists]
        return replace(network, figures=figures, weights=weights)

    def _found(self, shapes: Shapes, shape: Shape, budget_ms: float, chooser: str) -> FoundNetwork:
        """A network, what it comes from, and the weights that it inherits from the supernet."""
        config, costs = self.config, shapes.costs
        budget = costs.budget(budget_ms)
        identity = self.checkpoint.identity
        details = {
            "command": self.checkpoint.command,
            "strategy": "search",
            "budget": {
                "latency_ms": budget.ms,
                "input_size": budget.input_size,
                "scope": config.scope,
                "kind": costs.table.kind,
                **asdict(budget.conditions),
            },
            "seed": config.seed,
            "data": self.task.about,
            "hashes": {
                "config": identity["config (digest)"],
                "space": identity["space (digest)"],
                "table": identity["prices (digest)"],
                "data": self.task.data_hash,
            },
        }
        made = Provenance("searched", details)
        spec = config.space.to_spec(shape, config.name_of(budget_ms), made, budget.input_size)
        loop = self.loop
        figures, weights = self.task.finished(loop.ema.module, spec, shape, loop.step, config.seed)
        return FoundNetwork(
            spec=spec,
            budget=budget,
            kind=costs.table.kind,
            ms=shapes.ms(shape),
            chooser=chooser,
            figures=figures,
            weights=weights,
            scope=config.scope,
            config=self.task.config(spec),
            classes=self.task.classes,
            final=False,
        )

    def _result(self, networks: dict[float, FoundNetwork], report: bool = True) -> SearchResult:
        """Writes the record of networks that are saved, if asked for with a report."""
        config = self.config
        last = sum(network.figures.get("seconds", 0.0) for network in networks.values())
        seconds = {**self.loop.seconds, LAST_TIER: last}
        digests = {k: v for k, v in self.checkpoint.identity.items() if "digest" in k}
        run = {
            "command": self.checkpoint.command,
            "config": config.config,
            "seed": config.seed,
            "off": list(config.off),
            "weights": config.search.weights,
            "hashes": digests,
            "seconds": {name: round(value, 2) for name, value in seconds.items()},
            **environment(),
        }
        result = SearchResult(networks=dict(sorted(networks.items())), run=run, folder=self.folder)
        result.save_run()
        if report:
            write_report(result, self.config.space, self.history.records, self.loop.events)
        return result
