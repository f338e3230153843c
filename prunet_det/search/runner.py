"""From a config and a budget to a search on mmengine's Runner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch
from mmengine import dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner, set_random_seed
from torch.utils.data import DataLoader

from prunet_det.search.costs import SpaceCosts
from prunet_det.search.data import search_loader
from prunet_det.search.model import SearchModel
from prunet_det.search.motion import MotionRule
from prunet_det.search.old_architecture import Architecture
from prunet_det.search.old_loop import LoopSettings, SearchLoop
from prunet_det.search.old_supernet import SuperNet
from prunet_det.search.results import Request
from prunet_det.search.tiers import Tiers
from prunet_det.training.divergence import check_weights
from prunet_det.training.evaluate import unwrap_model
from prunet_det.training.launch import keep_messages
from prunet_det.training.schedule import fitted_schedule
from prunet_det.utils.config import check_keys, from_mapping
from prunet_det.utils.errors import UserError
from prunet_det.zoo.weights import check_fit

_ARCHITECTURE_KEYS = ("tiers", "rule", "expansion")  # of a config's `search`
AIM = 0.985  # of the budget, in the middle of what is accepted


@HOOKS.register_module()
class SearchStateHook(Hook):
    """Puts the search's own state into checkpoints, and back before the tensors are loaded.

    Args:
        identity: What a resumed search must agree on.
    """

    priority = "VERY_HIGH"

    def __init__(self, identity: Mapping[str, Any]) -> None:
        self.identity = dict(identity)
        self._resumed: dict[str, Any] | None = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Called on the main process only.

        Raises:
            DivergedError: If the weights are not finite.
        """
        check_weights(runner, checkpoint)
        loop = cast("SearchLoop", runner.train_loop)
        checkpoint["search"] = {**loop.state_dict(), "identity": self.identity}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Restores the structure; mmengine then loads the tensors into it.

        Raises:
            UserError: The checkpoint is of another search; the sentence says what differs.
        """
        state = checkpoint.get("search")
        if state is None:
            raise UserError("the checkpoint to resume from is none of a search.")
        before = state["identity"]
        for key, value in self.identity.items():
            if before.get(key) != value:
                raise UserError(
                    f"the search to resume has another {key} ({_short(before.get(key))}, not "
                    f"{_short(value)}); resume with the command that it was started with, or give "
                    "another --out."
                )
        loop = cast("SearchLoop", runner.train_loop)
        loop.load_structure(state)
        check_fit(unwrap_model(runner).state_dict(), checkpoint["state_dict"], "the checkpoint")
        self._resumed = state

    def before_train(self, runner: Runner) -> None:
        """Sets the random states last: building and loading draw from them."""
        if self._resumed is not None:
            loop = cast("SearchLoop", runner.train_loop)
            loop.load_random(self._resumed)
            self._resumed = None


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def load_data(cfg: Config, seed: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """The two halves of the search's data.

    Raises:
        ValueError, FileNotFoundError, UserError: Of the data.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    loader = cfg.search_dataloader
    weights, other = (
        search_loader(loader, part, seed, rank, world) for part in ("weights", "architecture")
    )
    return weights, other


def build_architecture(cfg: Config, costs: SpaceCosts, tiers: Tiers) -> Architecture:
    """Builds the architecture of a search at its start.

    Args:
        cfg: A search's config; `rule` and `expansion` of its `search` are read.
        costs: Costs of the space.
        tiers: What is pruned and when.
    """
    rule = from_mapping(MotionRule, cfg.search.get("rule", {}), "search.rule")
    return Architecture(costs, tiers, rule, cfg.search.get("expansion"))


def _loop_settings(cfg: Config, request: Request, progress: bool) -> LoopSettings:
    """Settings of the loop: the config's `search`, less what the architecture has of it."""
    options = dict(cfg.search)
    asked: dict[str, Any] = dict(
        aim_ms=AIM * request.budget.ms, seed=request.seed, progress=progress
    )
    own = [f.name for f in fields(LoopSettings) if f.name not in asked]
    check_keys(options, [*own, *_ARCHITECTURE_KEYS], (), "the config's search")
    return LoopSettings(**{k: v for k, v in options.items() if k in own}, **asked)


def build_search(
    cfg: Config,
    architecture: Architecture,
    loaders: tuple[DataLoader[Any], DataLoader[Any]],
    request: Request,
    on_save: Callable[[SearchLoop], None] | None = None,
    progress: bool = True,
) -> Runner:
    """Builds supernet and Runner.

    Args:
        cfg: `search` (warmup, steps, temperature, ...), `model`, `optim_wrapper`,
            `param_scheduler`, the hooks, `work_dir`, and `resume` to go on from the newest
            checkpoint there.
        architecture: See `build_architecture`.
        loaders: See `load_data`.
        request: What was asked for; a resumed search must agree on it.
        on_save: See SearchLoop.
        progress: Whether to show a bar.
    """
    set_random_seed(request.seed)
    settings = _loop_settings(cfg, request, progress)
    classes = len(loaders[0].dataset.metainfo["classes"])  # type: ignore[attr-defined]
    # The widest supernet of the full space has 718 million weights, which one thread of a CPU takes
    # seconds to draw. Where there is no GPU they are drawn as ever: the same seed, the same bytes.
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        supernet = SuperNet(architecture.space, classes)
    model = SearchModel(supernet, **cfg.get("model", {}))
    wrapper = cfg.get("model_wrapper_cfg")
    if cfg.launcher == "pytorch":
        kind = dict(type="MMDistributedDataParallel", broadcast_buffers=False)
        if not torch.cuda.is_available():
            kind["device_ids"] = None
        wrapper = kind
    length = dict(max_iters=settings.warmup + settings.steps)
    keep_messages()
    return Runner(
        model=model,
        work_dir=cfg.work_dir,
        train_dataloader=loaders[0],
        train_cfg=dict(
            type="SearchLoop",
            architecture_loader=loaders[1],
            architecture=architecture,
            settings=settings,
            on_save=on_save,
        ),
        optim_wrapper=cfg.optim_wrapper,
        param_scheduler=fitted_schedule(cfg.get("param_scheduler"), length),
        default_hooks=dict(
            runtime_info=dict(type="DeferredInfoHook"), **cfg.get("default_hooks", {})
        ),
        custom_hooks=[dict(type="SearchStateHook", identity=request.digest())],
        resume=cfg.get("resume", False),
        launcher=cfg.launcher,
        env_cfg=cfg.env_cfg,
        log_processor=cfg.get("log_processor"),
        log_level=cfg.get("log_level", "INFO"),
        visualizer=cfg.get("visualizer"),
        default_scope=cfg.get("default_scope", "mmengine"),
        randomness=dict(seed=request.seed),
        experiment_name=Path(cfg.work_dir).name,
        cfg=Config(dict(model_wrapper_cfg=wrapper)) if wrapper else None,
    )


def has_checkpoint(out: str) -> bool:
    """Whether a folder holds a search that can be resumed."""
    return (Path(out) / "last_checkpoint").is_file()
