"""A suite: which backbones, at which input sizes, in which detector, by which recipe."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from prunet_det.arch.spec import ArchSpec
from prunet_det.benchmark.data import data_hash, hold_out, make_data
from prunet_det.benchmark.records import FAMILIES, run_key
from prunet_det.detection.letterbox import set_input_size
from prunet_det.latency.measure import default_runtime, local_device
from prunet_det.training.launch import set_amp, set_data_root
from prunet_det.training.repeatable import make_repeatable
from prunet_det.training.schedule import explicit_schedule, set_length
from prunet_det.utils.config import check_keys, from_mapping, positive_int, read_config
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import digest
from prunet_det.utils.package import find_config, package_file, relative_path

# Keys of a suite's file; candidates are made of its models.
KEYS = (
    *("config", "models", "options", "learning_rates"),
    *("seeds", "max_iters", "crop", "amp", "threads"),
)
# Raise it by hand in the commit that changes what a training, an export or an evaluation gives:
# records of different revisions are never compared. A refactoring leaves it alone.
TRAINING_REVISION = 1
# Of a recipe, what is no part of it: places, what a candidate sets, and what changes no result.
_PLACES = {"data_root", "ann_file", "work_dir", "resume", "load_from", "randomness", "seed"}
_PLACES |= {"cache"}
# Evaluators of ours that give the same figures as those that records were made with.
_SAME = {"CocoFolderMetric": "CocoMetric"}


@dataclass(frozen=True)
class Candidate:
    """Network of a suite: a backbone at an input size, which a detector is trained on.

    Attributes:
        source: A network of the zoo's or of timm's, or the file of a spec (*.json), such as the
            `arch.json` that a search leaves.
        family: One of FAMILIES.
        input_size: In pixels.
    """

    source: str
    family: str
    input_size: int

    @cached_property
    def spec(self) -> ArchSpec | None:
        """The backbone's spec; None for timm's.

        Raises:
            UserError: There is no such file, or it holds no spec.
        """
        from prunet_det.runtime.subject import is_ours
        from prunet_det.zoo.models import resolve_spec

        if not is_ours(self.source):
            return None
        try:
            return resolve_spec(self.source)
        except (OSError, ValueError) as e:
            raise UserError(str(e)) from e

    @property
    def model(self) -> str:
        """The network's name; of a file, the name that it holds."""
        if self.source.endswith(".json") and self.spec is not None:
            return self.spec.name
        return self.source

    def __str__(self) -> str:
        return f"{self.model}@{self.input_size}"

    def key(self, seed: int) -> str:
        """Names a run of it."""
        return run_key(self.model, self.input_size, seed)

    @property
    def backbone(self) -> dict[str, Any]:
        """Config of the backbone; its weights are random."""
        if self.spec is None:
            return dict(type="TimmBackbone", name=self.source)
        return dict(type="PruNet", arch=self.source)

    @property
    def arch(self) -> dict[str, Any] | None:
        """The backbone's spec as JSON has it; None for timm's."""
        return None if self.spec is None else dict(json.loads(json.dumps(self.spec.to_dict())))


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What a file of configs/benchmark/ says, and what the command line changed of it.

    Attributes:
        name: Name of the file.
        path: Path of the file.
        config: The detector and its recipe.
        candidates: In the order in which they are trained.
        options: `--cfg-options` of the recipe.
        seeds: How many, where the command line does not say.
        max_iters: Iterations of a training, or epochs where the config counts these, with its
            schedule's shape; None leaves the config's.
        crop: Side of what is cut out of a training image, of the input size.
        amp: Automatic mixed precision, where there is CUDA.
        threads: Threads of a CPU, in training, evaluation and timing.
        learning_rates: To choose from, once.
        data_root: In the place of the config's.
        held_out: Whether a part of the training data is kept from training and evaluated on, and
            the test split left alone.
    """

    name: str
    path: str
    config: str
    candidates: tuple[Candidate, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 3
    max_iters: int | None = None
    crop: float = 1.0
    amp: bool = False
    threads: int = 1
    learning_rates: tuple[float, ...] = ()
    data_root: str | None = None
    held_out: bool = False

    @property
    def device(self) -> str:
        """Where everything runs: CUDA where there is one."""
        return local_device()

    @property
    def artifact(self) -> str:
        """Runtime and precision of accuracy and latency, such as `onnxruntime fp32`."""
        return " ".join(default_runtime(self.device))

    @property
    def sources(self) -> dict[str, str]:
        """Name of each network to where it is from."""
        return {c.model: c.source for c in self.candidates}

    def choose(self, names: Sequence[str]) -> Suite:
        """With some of its candidates, by model or `model@size`; others of that form are added.

        The file of a spec needs no size: it has its own.

        Raises:
            UserError: A name that is neither, or two networks of one name.
        """
        candidates: list[Candidate] = []
        for name in names:
            found = [
                c
                for c in self.candidates
                if name in (c.model, str(c), f"{c.source}@{c.input_size}")
            ]
            if not found:
                found = [_other_candidate(name, self)]
            candidates += [c for c in found if c not in candidates]
        _check_names(candidates, "the command line")
        return replace(self, candidates=tuple(candidates))

    def recipe(self) -> Config:
        """The config that all candidates share.

        Raises:
            UserError: There is no such config, or it cannot be changed as the suite says.
        """
        for option in self.options:
            if option.startswith("model.backbone"):
                raise UserError(f"{option} cannot be an option: backbones are a suite's models.")
        cfg = read_config(self.config, self.options)
        if self.max_iters is not None:
            positive_int(self.max_iters, "max_iters")
            set_length(cfg, self.max_iters)
        if self.data_root:
            set_data_root(cfg, self.data_root)
        if self.amp and torch.device(self.device).type == "cuda":
            set_amp(cfg)
        # Accuracy is measured once, at the end, on what is deployed.
        cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
        cfg.train_cfg.pop("val_interval", None)
        cfg.visualizer.vis_backends = [dict(type="LocalVisBackend")]
        cfg.default_hooks.pop("visualization", None)
        cfg.launcher = "none"
        return cfg

    def build(self, candidate: Candidate, seed: int, work: str | os.PathLike[str]) -> Config:
        """The config of one run.

        Args:
            candidate: Network of this suite.
            seed: Seed of everything random.
            work: Folder of checkpoints and logs.
        """
        cfg = self.recipe()
        cfg.model.backbone = candidate.backbone
        set_input_size(cfg, candidate.input_size, self.crop)
        if self.held_out:
            hold_out(cfg, Path(work).parent)
        make_repeatable(cfg, seed)
        cfg.work_dir = os.fspath(work)
        return cfg

    def config_hash(self) -> str:
        """A digest of the recipe, whatever the backbone, the input size and the data's place."""
        cfg = self.recipe()
        cfg.model.pop("backbone")
        cfg.param_scheduler = explicit_schedule(cfg.get("param_scheduler"), cfg.train_cfg)
        if "env_cfg" in cfg:
            cfg.env_cfg.cudnn_benchmark = False  # changes no result; early records have it
        set_input_size(cfg, 0)
        cfg.test_evaluator.type = _SAME.get(cfg.test_evaluator.type, cfg.test_evaluator.type)
        recipe = _without_places(json.loads(json.dumps(cfg.to_dict(), default=str)))
        if cfg.test_dataloader.dataset.type == "EmbeddedDataset":
            recipe = _with_resize(recipe)
        recipe |= {"held_out": self.held_out, "crop": self.crop}
        return digest(recipe)

    def identity(self) -> dict[str, str | int]:
        """Says what a record that is made here and now has for the keys of `records.SHARED`.

        The embedded data are made where they are missing.
        """
        cfg = self.recipe()
        make_data(cfg)
        return {
            "suite": self.name,
            "artifact": self.artifact,
            "config_hash": self.config_hash(),
            "data_hash": data_hash(cfg),
            "training_revision": TRAINING_REVISION,
        }


def load_suite(path: str | os.PathLike[str]) -> Suite:
    """Reads a suite's file, or one of configs/benchmark/ by its name.

    Raises:
        UserError: There is no such file, or it says something that no suite has.
    """
    file = Path(path)
    if file.suffix != ".py":
        file = Path("configs/benchmark") / f"{file.name}.py"
    file = find_config(file)
    if not file.is_file():
        own = sorted(p.stem for p in package_file("configs/benchmark").glob("*.py"))
        raise UserError(f"there is no suite {path}; the package's are {', '.join(own)}.")
    found = {k: v for k, v in read_config(file).to_dict().items() if not k.startswith("_")}
    check_keys(found, KEYS, ("config", "models"), f"{file} is no valid suite")
    models = found.pop("models")
    if not isinstance(models, dict) or not isinstance(found.get("options", {}), dict):
        raise UserError(
            f"{file}: models must be a dict of a list for each family, and options a dict of "
            "values by dotted key."
        )
    for key in {"seeds", "threads"} & set(found):
        positive_int(found[key], f"{file}: {key}")
    check_keys(models, FAMILIES, (), f"{file}: families of models")
    try:
        candidates = [
            Candidate(str(find_config(name)) if name.endswith(".json") else name, family, int(size))
            for family in models
            for name, size in models[family]
        ]
    except (TypeError, ValueError, AttributeError) as e:
        raise UserError(f"{file}: models need (network, pixels) pairs: {e}.") from e
    if not candidates:
        raise UserError(f"{file} names no models.")
    _check_names(candidates, os.fspath(file))
    found |= {"name": file.stem, "path": relative_path(file), "candidates": tuple(candidates)}
    suite = from_mapping(Suite, found, os.fspath(file))
    read_config(suite.config)  # missed now, not once the folder is made
    rates = tuple(suite.learning_rates)
    if not all(isinstance(n, (int, float)) and 0 < n < math.inf for n in (*rates, suite.crop)):
        raise UserError(f"{file}: learning_rates and crop must be above 0.")
    return replace(suite, learning_rates=rates)


def check_candidates(candidates: Iterable[Candidate]) -> None:
    """Refuses unknown networks before anything slow starts.

    Raises:
        UserError: The sentence lists the known ones.
    """
    import timm

    from prunet_det.zoo.models import model_names

    for candidate in candidates:
        positive_int(candidate.input_size, "the input size")
        if candidate.spec is None and not timm.is_model(candidate.source):
            raise UserError(
                f"there is no network {candidate.source!r}, neither here "
                f"({', '.join(model_names())}) nor in timm."
            )


def _check_names(candidates: Sequence[Candidate], place: str) -> None:
    """Refuses two networks of one name and input size: their runs could not be told apart."""
    names = [str(c) for c in candidates]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{place} names {name} twice; files of specs hold their own names.")


def _other_candidate(name: str, suite: Suite) -> Candidate:
    source, _, size = (name, "", "") if name.endswith(".json") else name.rpartition("@")
    source = suite.sources.get(source, source)
    spec = Candidate(source, "", 0).spec if source.endswith(".json") else None
    family = next((f for f in FAMILIES if f in (spec.name if spec else source)), None)
    if spec is not None:
        size = size or str(spec.input_size)
        family = "searched" if spec.provenance.kind == "searched" else family
    if not size.isdigit() or family is None:
        known = dict.fromkeys(c.model for c in suite.candidates)
        by_name = ", ".join(f for f in FAMILIES if f != "searched")
        raise UserError(
            f"the suite {suite.name} has no model {name!r}; it has {', '.join(known)}. Another "
            f"network of {by_name} is named with its input size: MODEL@PIXELS; one that was "
            "searched, by its file arch.json."
        )
    return Candidate(source, family, int(size))


def _with_resize(data: Any) -> Any:
    """A recipe of square images as records have it: letterboxing them was called resizing."""
    if isinstance(data, dict):
        if data.get("type") == "Letterbox" and data.keys() <= {"type", "scale", "pad_val"}:
            return {"type": "Resize", "scale": data["scale"], "keep_ratio": True}
        return {k: _with_resize(v) for k, v in data.items()}
    return [_with_resize(v) for v in data] if isinstance(data, list) else data


def _without_places(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: _without_places(v) for k, v in data.items() if k not in _PLACES}
    if isinstance(data, list):
        return [_without_places(v) for v in data]
    return data
