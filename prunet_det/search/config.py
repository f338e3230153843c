"""What a search is asked for: everything that its result depends on, checked where it is made."""

from __future__ import annotations

import dataclasses
import difflib
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from prunet_det.search.costs import Pricing
from prunet_det.search.finalists import FinalistSettings
from prunet_det.search.schedule import EvolutionSettings, LoopSettings, Tiers, WidthRule
from prunet_det.search.space import SearchSpace
from prunet_det.training.short_run import ShortRecipe
from prunet_det.utils.config import check_keys, from_mapping, positive_int, read_config
from prunet_det.utils.errors import InputError, MissingFileError
from prunet_det.utils.io import digest
from prunet_det.utils.package import find_config, relative_path

SCOPES = ("backbone", "detector", "e2e")
PARTS = ("widths", "candidates", "layers", "evolution", "surrogate", "finalists")
_OPTIMIZER = {
    "type": "OptimWrapper",
    "optimizer": {"type": "AdamW", "lr": 2e-3, "weight_decay": 0.01, "fused": True},
    "clip_grad": {"max_norm": 5.0},
}
# Fields that come from the file, or by another name.
_NOT_ASKED = {"space", "data", "budgets_ms", "config", "command", "detector"}
# Fields without influence on a result.
_SILENT = ("out", "resume", "progress", "launcher", "tables", "jobs")


# Sections of a config file, and the records that they become.
_SECTIONS: dict[str, type] = {
    "search": LoopSettings,
    "tiers": Tiers,
    "rule": WidthRule,
    "evolution": EvolutionSettings,
    "finalists": FinalistSettings,
    "recipe": ShortRecipe,
}
_KEYS = ("space", "data", *_SECTIONS, "optim_wrapper", "custom_imports", "default_scope")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """A search: what may be chosen, for which budgets, on which data, and how.

    Attributes:
        space: What may be chosen.
        data: The images that it is searched on, where no detector has its own: `dataset`, and
            optionally `classes` and `memory_gb`, see `load_halves`.
        budgets_ms: Milliseconds that the networks may take at most, one network each, in increasing
            order; six digits count, as in the names of their folders.
        pricing: Where milliseconds come from.
        input_size: Side of the square images that the budgets are for, in pixels, whatever the
            search trains on.
        search: Length and course of the supernet's training.
        tiers: When candidates and layers leave.
        rule: How the Prunodes' widths move.
        evolution: The second chooser.
        finalists: The last tier.
        recipe: How the last tier trains networks from scratch.
        optim_wrapper: mmengine's, of the supernet's weights.
        input_sizes: Sizes of images that a detector's search chooses among for each budget, in
            pixels; that of `input_size` alone by default.
        detector: Config of the detector whose loss is learned, on whose data; None for classifying
            crops.
        scope: What of it the budgets are for: `backbone`, `detector` (and neck and head) or `e2e`
            (and what stands before and behind it; on `here`).
        supernet: Checkpoint of a finished search in the same space, from whose weights a detector's
            supernet starts; empty for random ones.
        off: Parts that are switched off, of `widths` (all layers keep one expansion), `candidates`
            and `layers` (none leaves before the end), `evolution`, `surrogate` (evolution and last
            tier do without), `finalists` (no last tier).
        seed: Seed of everything random, at least 0.
        names: Names of the networks, one for each budget; none for `prunet_search_0.5ms` and so on.
        amp: Mixed precision in bfloat16, on CUDA.
        launcher: `none`, or `pytorch` under torchrun.
        out: Folder of the result.
        jobs: Trainings of the last tier at once on a CPU, in processes of their own, which import
            the program's main script: above 1 it needs an `if __name__ == "__main__"`.
        resume: Go on with the search that `out` holds.
        progress: Show progress bars.
        config: File that all this was read from.
        command: Command line that gives the same result again.

    Raises:
        InputError: If a value makes no sense; the sentence says what to do.
    """

    space: SearchSpace
    budgets_ms: tuple[float, ...]
    out: str
    data: Mapping[str, Any] = field(default_factory=dict)
    pricing: Pricing = field(default_factory=Pricing)
    input_size: int = 512
    search: LoopSettings = field(default_factory=LoopSettings)
    tiers: Tiers = field(default_factory=Tiers)
    rule: WidthRule = field(default_factory=WidthRule)
    evolution: EvolutionSettings = field(default_factory=EvolutionSettings)
    finalists: FinalistSettings = field(default_factory=FinalistSettings)
    recipe: ShortRecipe = field(default_factory=ShortRecipe)
    optim_wrapper: Mapping[str, Any] = field(default_factory=lambda: dict(_OPTIMIZER))
    detector: Config | None = None
    scope: str = "backbone"
    supernet: str = ""
    input_sizes: tuple[int, ...] = ()
    off: tuple[str, ...] = ()
    seed: int = 0
    names: tuple[str, ...] = ()
    amp: bool = False
    launcher: str = "none"
    jobs: int = 1
    resume: bool = False
    progress: bool = True
    config: str = ""
    command: str = ""

    def __post_init__(self) -> None:
        budgets = self.budgets_ms
        if not budgets or any(not 0 < ms < float("inf") for ms in budgets):
            given = ", ".join(f"{ms:g}" for ms in budgets) or "none"
            raise InputError(f"the budgets must be milliseconds above 0, got {given}.")
        if list(budgets) != sorted(budgets):
            raise InputError("the budgets must be in increasing order.")
        for ms in budgets:
            if float(f"{ms:g}") != ms:
                raise InputError(
                    f"a budget has at most six digits, since its folder is named by it: got {ms}; "
                    f"give {ms:g}."
                )
        if len(set(budgets)) < len(budgets):
            raise InputError("a budget is given twice.")
        positive_int(self.input_size, "the input size")
        positive_int(self.jobs, "the number of jobs")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise InputError(f"the seed must be 0 or more, got {self.seed!r}.")
        wrong = [part for part in self.off if part not in PARTS]
        if wrong:
            raise InputError(
                f"the parts to switch off must be of {', '.join(PARTS)}, got {wrong[0]!r}."
            )
        object.__setattr__(self, "off", tuple(part for part in PARTS if part in self.off))
        if self.names and len(self.names) != len(budgets):
            raise InputError(
                f"give a name for each of the {len(budgets)} budgets, got {len(self.names)}."
            )
        if len(set(self.names)) < len(self.names) or any(set("/\\") & set(n) for n in self.names):
            raise InputError("names must differ, and become those of files: without / and \\.")
        kind = self.optim_wrapper.get("type", "OptimWrapper")
        if kind != "OptimWrapper" or "accumulative_counts" in self.optim_wrapper:
            raise InputError(
                "the search's optim_wrapper must be an OptimWrapper without accumulative_counts; "
                "for mixed precision give --amp."
            )
        if self.scope not in SCOPES:
            raise InputError(f"the scope must be one of {', '.join(SCOPES)}, got {self.scope!r}.")
        if not (self.data or self.detector):
            raise InputError("a search needs data, or a detector that has some.")
        if self.detector is None and (self.supernet or self.scope != "backbone"):
            raise InputError(
                "scope and supernet are for the search with a detector; give one (--detector)."
            )
        for size in self.input_sizes:
            positive_int(size, "an input size")
        if self.input_sizes and self.detector is None:
            raise InputError("input sizes are chosen for a detector; give one (--detector).")
        if len(set(self.input_sizes)) < len(self.input_sizes):
            raise InputError("an input size is given twice.")
        if self.supernet and not Path(self.supernet).is_file():
            raise MissingFileError(f"there is no checkpoint of a search {self.supernet}.")
        if self.detector is not None and self.search.warmup_batch != self.search.batch:
            raise InputError(
                "search.warmup_batch must be search.batch where a detector learns, got "
                f"{self.search.warmup_batch} and {self.search.batch}."
            )
        if self.scope == "e2e" and self.pricing.device != "here":
            raise InputError("scope e2e is measured: give the device here (--device here).")
        if self.amp and not torch.cuda.is_available():
            raise InputError("mixed precision (--amp) needs a CUDA device, and there is none here.")

    @classmethod
    def from_file(  # noqa: PLR0913 (the command's flags)
        cls,
        path: str | os.PathLike[str],
        *,
        budget_ms: float | Iterable[float],
        options: Mapping[str, Any] | None = None,
        data: str | os.PathLike[str] | None = None,
        classes: Sequence[str] | int | None = None,
        detector: str | os.PathLike[str] | None = None,
        detector_options: Mapping[str, Any] | None = None,
        **asked: Any,
    ) -> SearchConfig:
        """Reads a config file.

        Args:
            path: Config of configs/search/, or one of one's own.
            budget_ms: Milliseconds of the budgets, one or several, in any order.
            options: Values that replace those of the file, by dotted key.
            data: An ImageFolder whose train/ is searched on, in the place of the file's data; or
                the folder of a detector's data, as `tools/train.py --data-root` takes it.
            classes: Classes to keep, by name or as a number of the first ones.
            detector: Config of a detector, whose loss and data are learned; the size of its images
                is that of the budgets, unless another one is asked for.
            detector_options: Values that replace those of its config, by dotted key.
            **asked: Further fields of SearchConfig, such as `seed` and `out`, and of Pricing, such
                as `device` and `batch`. By default the result goes to
                `work_dirs/search/CONFIG_seedSEED`.

        Raises:
            UserError: If the file is missing or no search config, a key is unknown, or a value
                makes no sense.
        """
        where = os.fspath(path)
        cfg = read_config(path, options).to_dict()
        if "space" not in cfg or not (detector or "data" in cfg):
            raise InputError(f"{where} is no search config: it has no `space` or no `data`.")
        # A file may have variables of its own; what is nearly a section was meant to be one.
        meant = {key for key in cfg if difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.75)}
        check_keys({key: cfg[key] for key in meant}, _KEYS, (), where, InputError)
        own = {f.name for f in fields(cls)} - _NOT_ASKED
        priced = {f.name for f in fields(Pricing)} - {"progress"}
        known = sorted((own | priced) - set(_SECTIONS) - {"pricing", "optim_wrapper"})
        check_keys(asked, known, (), "the search", InputError)
        for name in ("off", "names", "input_sizes"):
            if name in asked:  # one of them may be given by itself
                value = asked[name]
                asked[name] = (value,) if isinstance(value, (str, int)) else tuple(value)
        if isinstance(classes, str):
            classes = (classes,)
        values: dict[str, Any] = {
            name: from_mapping(kind, cfg.get(name, {}), f"{where}: {name}", InputError)
            for name, kind in _SECTIONS.items()
        }
        values |= {key: value for key, value in asked.items() if key in own}
        values["pricing"] = Pricing(
            **{key: value for key, value in asked.items() if key in priced},
            progress=values.get("progress", True),
        )
        if "optim_wrapper" in cfg:
            values["optim_wrapper"] = cfg["optim_wrapper"]
        budgets = list(budget_ms) if isinstance(budget_ms, Iterable) else [budget_ms]
        if isinstance(budget_ms, str) or not all(isinstance(ms, (int, float)) for ms in budgets):
            raise InputError(f"the budgets must be milliseconds above 0, got {budget_ms!r}.")
        order = sorted(range(len(budgets)), key=lambda i: budgets[i])
        if len(values.get("names", ())) == len(budgets):
            values["names"] = tuple(values["names"][i] for i in order)
        name = f"{Path(where).stem}_seed{values.get('seed', 0)}"
        values.setdefault("out", os.path.join("work_dirs", "search", name))
        given = {"options": options, "data": data, "classes": classes, "detector": detector}
        given |= {"detector_options": detector_options, **asked}
        if detector is not None:
            if classes is not None:
                raise InputError("a detector's classes are those of its data; leave --classes out.")
            values["detector"] = _read_detector(detector, data, detector_options)
            size = values.get("input_sizes", ()) or (_detector_size(values["detector"]),)
            values.setdefault("input_size", size[0])
        elif detector_options:
            raise InputError("options of a detector need one (--detector).")
        else:
            values["data"] = _chosen_data(cfg["data"], data, classes)
        return cls(
            space=SearchSpace.from_config(cfg["space"]),
            budgets_ms=tuple(float(budgets[i]) for i in order),
            config=relative_path(find_config(where)),
            command=_command(where, budgets, given),
            **values,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What a search and its continuation must agree on, beside data and prices."""
        settings = {name: dataclasses.asdict(getattr(self, name)) for name in _SECTIONS}
        of_detector: dict[str, Any] = {}
        if self.detector is not None:
            of_detector = {
                "scope": self.scope,
                "input sizes": list(self.input_sizes),
                "supernet": self.supernet,
                "detector (digest)": digest(self.detector.to_dict()),
            }
        return {
            **of_detector,
            "seed": self.seed,
            "off": list(self.off),
            "device": self.pricing.device,
            "batch": self.pricing.batch,
            "input size": self.input_size,
            "space (digest)": self.space.hash,
            "config (digest)": digest([settings, dict(self.optim_wrapper), self.amp]),
        }

    @property
    def active_tiers(self) -> Tiers:
        """`tiers` without those that are switched off."""
        off = {part: False for part in ("widths", "candidates", "layers") if part in self.off}
        return dataclasses.replace(self.tiers, **off)

    def name_of(self, budget_ms: float) -> str:
        """Name of a budget's network."""
        if self.names and budget_ms in self.budgets_ms:
            return self.names[self.budgets_ms.index(budget_ms)]
        return f"prunet_search_{budget_ms:g}ms"


def _read_detector(
    path: str | os.PathLike[str],
    data: str | os.PathLike[str] | None,
    options: Mapping[str, Any] | None,
) -> Config:
    from prunet_det.training.launch import load_config

    cfg = load_config(path, data_root=None if data is None else os.fspath(data), options=options)
    if not cfg.get("train_dataloader") or not cfg.get("test_dataloader"):
        raise InputError(f"{path} has no training or no test data, which the search needs.")
    return cfg


def _detector_size(cfg: Config) -> int:
    from prunet_det.detection.build import image_size

    return image_size(cfg) or SearchConfig.input_size


def _chosen_data(
    data: Mapping[str, Any],
    folder: str | os.PathLike[str] | None,
    classes: Sequence[str] | int | None,
) -> dict[str, Any]:
    """The data of a config, with another folder or other classes if they are asked for."""
    chosen = dict(data)
    if folder is not None:
        chosen.pop("span", None)  # of the file's own data
        chosen["dataset"] = {
            "type": "ImageFolder",
            "data_root": os.fspath(folder),
            "split": "train",
            "transform": data["dataset"]["transform"],
        }
    if classes is not None:
        only_number = not isinstance(classes, int) and len(classes) == 1 and classes[0].isdigit()
        chosen["classes"] = int(classes[0]) if only_number else classes  # type: ignore[index]
    return chosen


def _command(path: str, budgets: Sequence[float], given: Mapping[str, Any]) -> str:
    """The command line that gives the same result again, whatever folder and bar this one had."""
    words = ["python", "tools/search_backbone.py", relative_path(find_config(path)), "--budget-ms"]
    words += [f"{ms:g}" for ms in budgets]
    for key, value in given.items():
        if key in _SILENT or value is None or value is False or value in ((), [], {}):
            continue
        words.append({"options": "--cfg-options"}.get(key, f"--{key.replace('_', '-')}"))
        if isinstance(value, Mapping):
            words += [f"{k}={v}" for k, v in value.items()]
        elif isinstance(value, (list, tuple)):
            words += map(str, value)
        elif value is not True:
            words.append(str(value))
    return shlex.join(words)
