"""From a config and a budget to a search on mmengine's Runner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner, set_random_seed
from torch.utils.data import DataLoader

from prunet_det.search.architecture import Architecture
from prunet_det.search.costs import Budget, SpaceCosts
from prunet_det.search.data import search_loader
from prunet_det.search.loop import SearchLoop
from prunet_det.search.model import SearchModel
from prunet_det.search.motion import MotionRule
from prunet_det.search.results import Request
from prunet_det.search.supernet import SuperNet
from prunet_det.search.tiers import Tiers
from prunet_det.training.evaluate import unwrap_model
from prunet_det.training.launch import keep_messages
from prunet_det.training.schedule import fitted_schedule
from prunet_det.utils.config import check_keys, from_mapping
from prunet_det.utils.errors import UserError
from prunet_det.zoo.weights import check_fit

_LOOP_SETTINGS = {
    "warmup",
    "steps",
    "temperature",
    "checkpoint_interval",
    "ema_momentum",
    "expansion",
    "rule",
}
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
        """Called on the main process only."""
        loop: Any = runner.train_loop
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
        loop: Any = runner.train_loop
        loop.load_structure(state)
        check_fit(unwrap_model(runner).state_dict(), checkpoint["state_dict"], "the checkpoint")
        self._resumed = state

    def before_train(self, runner: Runner) -> None:
        """Sets the random states last: building and loading draw from them."""
        if self._resumed is not None:
            loop: Any = runner.train_loop
            loop.load_random(self._resumed)
            self._resumed = None


def _short(value: Any) -> str:
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


def build_search(
    cfg: Config,
    costs: SpaceCosts,
    budget: Budget,
    seed: int,
    out: str,
    loaders: tuple[DataLoader[Any], DataLoader[Any]],
    request: Request,
    tiers: Tiers,
    resume: bool = False,
    on_save: Callable[[SearchLoop], None] | None = None,
    progress: bool = True,
) -> Runner:
    """Builds supernet, architecture and Runner.

    Args:
        cfg: `search` (warmup, steps, temperature, expansion, rule, ...), `model`, `optim_wrapper`,
            `param_scheduler` and the hooks.
        costs: Of the space.
        budget: What the result may cost.
        seed: Of everything random.
        out: Folder of checkpoints and logs.
        loaders: See `load_data`.
        request: What a resumed search must agree on.
        tiers: What is pruned and when.
        resume: Go on from the newest checkpoint in `out`.
        on_save: See SearchLoop.
        progress: Whether to show a bar.
    """
    set_random_seed(seed)
    options = dict(cfg.search)
    check_keys(options, _LOOP_SETTINGS, (), "the config's search")
    rule = from_mapping(MotionRule, options.pop("rule", {}), "search.rule")
    architecture = Architecture(costs, tiers, rule, options.pop("expansion", None))
    classes = len(loaders[0].dataset.metainfo["classes"])  # type: ignore[attr-defined]
    model = SearchModel(SuperNet(costs.space, classes), **cfg.get("model", {}))
    wrapper = cfg.get("model_wrapper_cfg")
    if cfg.launcher == "pytorch":
        kind = dict(type="MMDistributedDataParallel", broadcast_buffers=False)
        if not torch.cuda.is_available():
            kind["device_ids"] = None
        wrapper = kind
    length = dict(max_iters=options["warmup"] + options["steps"])
    keep_messages()
    return Runner(
        model=model,
        work_dir=out,
        train_dataloader=loaders[0],
        train_cfg=dict(
            type="SearchLoop",
            architecture_loader=loaders[1],
            architecture=architecture,
            budget_ms=AIM * budget.ms,
            seed=seed,
            on_save=on_save,
            progress=progress,
            **options,
        ),
        optim_wrapper=cfg.optim_wrapper,
        param_scheduler=fitted_schedule(cfg.get("param_scheduler"), length),
        default_hooks=cfg.get("default_hooks"),
        custom_hooks=[dict(type="SearchStateHook", identity=request.digest())],
        resume=resume,
        launcher=cfg.launcher,
        env_cfg=cfg.env_cfg,
        log_processor=cfg.get("log_processor"),
        log_level=cfg.get("log_level", "INFO"),
        visualizer=cfg.get("visualizer"),
        default_scope=cfg.get("default_scope", "mmengine"),
        randomness=dict(seed=seed),
        experiment_name=Path(out).name,
        cfg=Config(dict(model_wrapper_cfg=wrapper)) if wrapper else None,
    )


def has_checkpoint(out: str) -> bool:
    """Whether a folder holds a search that can be resumed."""
    return (Path(out) / "last_checkpoint").is_file()
