"""Trains what a study of searches compares, and makes what a search has to beat."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import DATASETS

from prunet_det.arch.spec import ArchSpec
from prunet_det.benchmark.search_baselines import Rows
from prunet_det.benchmark.search_study import (
    ENTRIES,
    RANDOM,
    SEARCHED,
    SURROGATE,
    Entry,
    SearchStudy,
    read_entries,
    write_entries,
)
from prunet_det.benchmark.search_tables import draw_comparison, draw_curves
from prunet_det.search.costs import Pricing
from prunet_det.search.data import load_crops
from prunet_det.training.crops import DeviceCrops
from prunet_det.training.divergence import DivergedError
from prunet_det.training.short_run import ShortRecipe, short_run
from prunet_det.utils import plots
from prunet_det.utils.config import from_mapping, read_config
from prunet_det.utils.errors import InputError, UserError
from prunet_det.utils.io import digest, make_folder, rounded
from prunet_det.utils.package import find_config, relative_path
from prunet_det.utils.runs import Key, Run, RunStore, campaign, made_here

logger = logging.getLogger(__name__)

PLOTS = {"comparison.svg": draw_comparison, "curves.svg": draw_curves}


@dataclass(frozen=True)
class Judge:
    """The recipe by which networks are trained and scored: a config of configs/search/judge_*.py.

    Attributes:
        path: The config. It has `recipe`, fields of ShortRecipe, and `train_data` and
            `score_data`, as `load_crops` takes them.
    """

    path: str

    @cached_property
    def _config(self) -> Mapping[str, Any]:
        cfg = read_config(self.path)
        for key in ("recipe", "train_data", "score_data"):
            if key not in cfg:
                raise InputError(
                    f"{self.path} is no judge: it has no `{key}`; "
                    "configs/search/judge_quick.py is one."
                )
        return cfg

    @cached_property
    def recipe(self) -> ShortRecipe:
        """How long and how networks are trained."""
        return from_mapping(ShortRecipe, dict(self._config["recipe"]), f"the recipe of {self.path}")

    def crops(self, device: str) -> tuple[DeviceCrops, DeviceCrops]:
        """Crops to train on and to score on."""
        train, score = (
            load_crops(self._config[key], device=device) for key in ("train_data", "score_data")
        )
        return train, score

    @cached_property
    def digest(self) -> str:
        """Digest of all that trains or scores, data included, wherever they lie."""
        recipe = dataclasses.asdict(self.recipe)
        for key in ("marks", "capture"):  # they change no training
            del recipe[key]
        data = []
        for key in ("train_data", "score_data"):
            config = dict(self._config[key])
            content = DATASETS.build(dict(config["dataset"])).data_hash
            dataset = {k: v for k, v in config["dataset"].items() if k != "data_root"}
            data.append([{**config, "dataset": dataset}, content])
        return digest([recipe, data])

    @property
    def data(self) -> str:
        """Name of the data, for people."""
        return str(self._config["train_data"]["dataset"].get("name", "own data"))


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a process needs to train a network.

    Attributes:
        spec: The network.
        judge: The judge's config.
        recipe: Its digest.
        seed: Seed of weights, order and augmentation.
        device: `cpu` or `cuda`.
        made: Commit, date and machine.
    """

    spec: ArchSpec
    judge: str
    recipe: str
    seed: int
    device: str
    made: dict[str, str]

    @property
    def key(self) -> Key:
        """Of the run that comes of it."""
        return self.spec.digest, self.recipe, self.seed


@lru_cache(maxsize=1)
def _loaded(path: str, device: str) -> tuple[ShortRecipe, DeviceCrops, DeviceCrops]:
    """What all trainings of a process share."""
    judge = Judge(path)
    return (judge.recipe, *judge.crops(device))


def train(training: Training) -> Run:
    """Trains a network and scores it; a training that diverges has learned nothing."""
    recipe, crops, score = _loaded(training.judge, training.device)
    start = time.perf_counter()
    curve: Mapping[int, tuple[float, float | None]]
    try:
        curve = short_run(training.spec, recipe, crops, score, training.seed).curve
    except DivergedError as e:  # it would whenever the study is gone on with
        logger.warning("it counts as a top-1 of 0: %s", e)
        curve = dict.fromkeys(recipe.scored, (0.0, None))
    subject, digest, seed = training.key
    return Run(
        subject=subject,
        recipe=digest,
        seed=seed,
        figures={"curve": {str(mark): rounded(scores) for mark, scores in curve.items()}},
        seconds=round(time.perf_counter() - start, 2),
        made=training.made,
    )


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What is compared, as `tools/search_backbone.py compare` has it.

    Attributes:
        out: Folder of networks, trainings and plots; what it holds already counts.
        judge: Config of the recipe by which networks are trained.
        networks: Files or folders of other studies, whose networks are compared.
        searches: Folders of results of searches for the budget; NAME=FOLDER for a group of another
            name than `searched`.
        config: Config of the search, for prices and networks to compare with; none are made
            without.
        budget_ms, device, batch, input_size: Budget that networks are filled to, as of a search.
        random: Number of random networks that are made.
        surrogates: Number of networks that a surrogate proposes, told by random networks alone.
        trainings: Number of trainings of each network; 0 for none, with what the folder holds.
        jobs: Number of processes at once.
        train_on: `cpu` or `cuda`; None for a GPU where there is one.
        progress: Whether to show a progress bar.
    """

    out: str
    judge: str
    networks: Sequence[str] = ()
    searches: Sequence[str] = ()
    config: str | None = None
    budget_ms: float | None = None
    device: str = "v100"
    batch: int = 1
    input_size: int = 512
    random: int = 20
    surrogates: int = 3
    trainings: int = 4
    jobs: int = 1
    train_on: str | None = None
    progress: bool = True


def compare(options: CompareOptions) -> SearchStudy:
    """Trains and compares networks; what is there already is not done again.

    Args:
        options: What is compared.

    Raises:
        UserError: Nothing is to be compared, the folder holds another comparison, or trainings
            failed.
    """
    study = _trained(options) if options.trainings else SearchStudy.load(options.out)
    for name, draw in PLOTS.items():
        plots.save(draw(study), Path(options.out) / name, study)
    return study


def _trained(options: CompareOptions) -> SearchStudy:
    judge = Judge(os.fspath(find_config(options.judge)))
    rows = None
    if options.config is None and options.searches:
        raise UserError("searches are compared by the prices of their --config; name it.")
    if options.config is not None:
        if options.budget_ms is None:
            raise UserError("networks are filled to a budget: give --budget-ms.")
        pricing = Pricing(device=options.device, batch=options.batch, progress=options.progress)
        rows = Rows(options.config, pricing, options.budget_ms, options.input_size)
    make_folder(options.out)
    about, entries = _gathered(options, judge, rows)
    study = _train_all(options, judge, about, entries)
    if rows is not None and study.group(RANDOM):
        names = {entry.name for entry in entries}
        missing = [i for i in range(options.surrogates) if f"{SURROGATE} {i}" not in names]
        if missing:
            entries += [rows.by_surrogate(study, seed) for seed in missing]
            study = _train_all(options, judge, about, entries)
    return study


def _train_all(
    options: CompareOptions, judge: Judge, about: dict[str, Any], entries: Sequence[Entry]
) -> SearchStudy:
    write_entries(Path(options.out), about, entries)
    device = options.train_on or ("cuda" if torch.cuda.is_available() else "cpu")
    made = {"device": device, **made_here()}
    shared: dict[str, Any] = dict(judge=judge.path, recipe=judge.digest, device=device, made=made)
    tasks = [  # so that an early end leaves all networks with as many trainings
        Training(spec=entry.spec, seed=seed, **shared)
        for seed in range(options.trainings)
        for entry in entries
    ]
    title = "training" if options.progress else ""
    campaign(tasks, train, RunStore(options.out), options.jobs, title)
    return SearchStudy.load(options.out)


def _gathered(
    options: CompareOptions, judge: Judge, rows: Rows | None
) -> tuple[dict[str, Any], list[Entry]]:
    """What is compared, and under what: from other studies, made anew, and from searches.

    Raises:
        UserError: It does not belong together, or there is nothing.
    """
    given = [read_entries(path) for path in options.networks]
    own = {"recipe": judge.digest, "recipe_file": relative_path(judge.path), "data": judge.data}
    abouts = [{**about, **own} for about, _ in given]
    if rows is not None:
        abouts.append({**rows.about, **own})
    if (Path(options.out) / ENTRIES).is_file():
        given.insert(0, read_entries(options.out))
        abouts = [given[0][0], {**given[0][0], **own}, *abouts]
    if not abouts:
        raise UserError("nothing is to be compared: give --networks, or --config and --budget-ms.")
    for key in ("space", "table", "budget_ms", "recipe"):
        for other in abouts:
            if other.get(key) != abouts[0].get(key):
                raise UserError(
                    f"{options.out} holds a comparison with another {key} ({abouts[0].get(key)}, "
                    f"not {other.get(key)}); give another --out."
                )
    every = [entry for _, entries in given for entry in entries]
    if rows is not None:
        if options.random:
            every += rows.by_chance(options.random, {entry.name for entry in every})
        for named in options.searches:
            group, _, folder = named.rpartition("=")
            every += rows.of_search(Path(folder), group or SEARCHED)
    found: dict[str, Entry] = {}
    for entry in every:
        if found.setdefault(entry.name, entry).spec.digest != entry.spec.digest:
            raise UserError(
                f"{options.out} compares another network of the name {entry.name!r}; give another "
                "--out, or another group by NAME=FOLDER."
            )
    return abouts[0], list(found.values())
