"""Building a Runner from a config file and command-line flags, for detectors and classifiers."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIMIZERS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from prunet_det.training.batch import lr_factor
from prunet_det.training.checkpoints import is_whole, newest_checkpoint, use_safe_hook
from prunet_det.training.ema import use_foreach
from prunet_det.training.graphs import speed_up, use_own_stream
from prunet_det.training.loading import inner_dataset, set_loader_options
from prunet_det.training.numbers import check_average, check_numbers
from prunet_det.training.schedule import fit_iterations, fitted_schedule, set_length
from prunet_det.training.settings import check_settings
from prunet_det.training.smallest import check_smallest_batch, norm_errors
from prunet_det.training.start import Start
from prunet_det.utils.config import config_errors, positive_int, read_config
from prunet_det.utils.env import check_launcher
from prunet_det.utils.errors import InputError, MissingFileError, UserError
from prunet_det.utils.io import atomic_path, make_folder
from prunet_det.utils.log import PACKAGE
from prunet_det.utils.package import find_checkpoint
from prunet_det.zoo.imagenet import IMAGENET
from prunet_det.zoo.weights import refuse_pretrained

logger = logging.getLogger(__name__)


def load_config(
    config: str | os.PathLike[str],
    *,
    work_dir: str | None = None,
    data_root: str | None = None,
    options: Mapping[str, Any] | None = None,
    launcher: str = "none",
) -> Config:
    """Reads a config and overrides its settings.

    Args:
        config: Path of a config, or name of one of the package's own.
        work_dir: Folder of logs and checkpoints; None for the config's, or else work_dirs/CONFIG.
        data_root: Folder of the data; None for the config's.
        options: Values that replace those of the config, by dotted key.
        launcher: mmengine's launcher: none, pytorch, slurm or mpi.

    Raises:
        UserError: If the file is missing or not a valid config of a model, or an option does
            not fit.
    """
    path = Path(config)
    check_launcher(launcher)
    cfg = _read_with_length(path, options or {})
    cfg.launcher = launcher
    if "model" not in cfg:
        raise InputError(f"{path} is no model config: it has no `model`.")
    check_settings(cfg, os.fspath(path))
    if data_root:
        set_data_root(cfg, data_root)
    cfg.work_dir = work_dir or cfg.get("work_dir") or str(Path("work_dirs") / path.stem)
    return cfg


def _read_with_length(path: Path, options: Mapping[str, Any]) -> Config:
    """Reads a config; a length among the options moves the schedule, unless they set that too."""
    lengths = [f"train_cfg.{unit}" for unit in ("max_iters", "max_epochs")]
    given = [key for key in lengths if key in options]
    if len(given) != 1 or _set_schedule(options):
        return read_config(path, options)
    cfg = read_config(path, {key: value for key, value in options.items() if key not in given})
    if given[0].rpartition(".")[2] not in (cfg.get("train_cfg") or {}):  # another kind of loop
        return read_config(path, options)
    set_length(cfg, positive_int(options[given[0]], given[0]))
    return cfg


def _set_schedule(options: Mapping[str, Any]) -> bool:
    return any(key.partition(".")[0] == "param_scheduler" for key in options)


def set_data_root(cfg: Config, root: str) -> None:
    """Sets the folder of all data sets of a config, and of the annotations for its evaluation.

    Args:
        cfg: Config; changed in place.
        root: Folder of the data.
    """
    for key in ("train", "val", "test"):
        loader = cfg.get(f"{key}_dataloader")
        if loader is None:
            continue
        inner_dataset(loader.dataset).data_root = root
        evaluator = cfg.get(f"{key}_evaluator")
        if evaluator is not None and "ann_file" in evaluator:
            evaluator.ann_file = str(Path(root) / inner_dataset(loader.dataset).ann_file)


def set_max_iters(cfg: Config, max_iters: int, options: Mapping[str, Any] | None = None) -> None:
    """Sets the number of iterations of a training, and the schedule with it; see `set_length`.

    Args:
        cfg: Config that trains by iterations; changed in place.
        max_iters: Number of iterations, at least 1.
        options: Settings that the config was read with, by dotted key; a schedule that is among
            them stays as it is.

    Raises:
        UserError: If the config trains by epochs, or the number is not positive.
    """
    positive_int(max_iters, "the number of iterations")
    if "max_iters" not in cfg.train_cfg:
        raise UserError(
            "--max-iters is for configs that train by iterations; this one trains by epochs: "
            "--cfg-options train_cfg.max_epochs=N."
        )
    if _set_schedule(options or {}):
        cfg.train_cfg.max_iters = max_iters
    else:
        set_length(cfg, max_iters)


def set_amp(cfg: Config, dtype: str = "float16") -> None:
    """Trains in mixed precision.

    Args:
        cfg: Config; changed in place.
        dtype: `float16`, with a scale of the loss that is found in training, or `bfloat16`, which
            needs none: with one, the host waits in every iteration for the GPU to say whether a
            gradient overflowed.
    """
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.optim_wrapper.loss_scale = "dynamic"
    if dtype == "bfloat16":
        cfg.optim_wrapper.update(dtype=dtype, loss_scale=dict(enabled=False))


def set_teacher(cfg: Config, name: str | None, checkpoint: str | None) -> None:
    """Sets the teacher of a classifier.

    Args:
        cfg: Config of a classifier; changed in place.
        name: Name of the teacher in timm.
        checkpoint: Weights of the teacher; None to let timm download its own.

    Raises:
        UserError: If the config is not of a classifier, the name is missing, or there is no such
            checkpoint.
    """
    if cfg.model.type != "Classifier":
        raise UserError("--teacher is for classification configs; a detector has no teacher.")
    if name is None:
        raise UserError("--teacher-checkpoint needs --teacher NAME.")
    if checkpoint is not None:
        require_file(checkpoint, "teacher's checkpoint")
    cfg.model.teacher = {**(cfg.model.get("teacher") or {}), "name": name, "checkpoint": checkpoint}


def require_file(path: str | os.PathLike[str], title: str) -> None:
    """Checks that a file exists, before anything slow starts.

    Args:
        path: The file.
        title: Name of the file in the message, such as `checkpoint`.

    Raises:
        UserError: If there is no such file.
    """
    if not Path(path).is_file():
        raise MissingFileError(f"there is no {title} {path}.")


def set_resume(cfg: Config, resume: str | None, start: str | None = None) -> None:
    """Sets the checkpoint that a training resumes from, or the weights that it starts from.

    Args:
        cfg: Config; changed in place.
        resume: Path of a checkpoint, `auto` for the newest whole one in the work dir, if any, or
            None for what the config says.
        start: Weights to start from, see `Start`; None for the config's `load_from`. Where there
            is something to resume, they are not read.

    Raises:
        UserError: If there is no such checkpoint, or it is damaged.
    """
    if resume is None and cfg.get("resume"):
        resume, cfg.load_from = cfg.get("load_from") or "auto", None
    start = start or cfg.get("load_from")
    if resume == "auto":
        resume = newest_checkpoint(cfg.work_dir)
        if resume is None:
            logger.info("%s holds no checkpoint; the training starts afresh.", cfg.work_dir)
    elif resume is not None:
        require_file(resume, "checkpoint")
        if not is_whole(resume):
            raise UserError(f"{resume} is truncated or no checkpoint that training wrote.")
    if resume and start:
        logger.info("resumed from %s; %s is not read", resume, start)
    elif start and start != IMAGENET:
        require_file(find_checkpoint(start), "checkpoint")
    cfg.resume, cfg.load_from = bool(resume), resume or start


def set_up_cuda(cfg: Config) -> None:
    """Sets what makes a GPU fast and leaves results comparable.

    Float32 products in TF32, as PyTorch does convolutions by default, and for each size of images
    the fastest of cuDNN's algorithms. mmengine's `randomness.deterministic` takes the latter back.

    Args:
        cfg: Config, whose `env_cfg.cudnn_benchmark` may be False.
    """
    torch.set_float32_matmul_precision("high")
    fastest = bool((cfg.get("env_cfg") or {}).get("cudnn_benchmark", True))
    torch.backends.cudnn.benchmark = fastest
    logger.info("CUDA: TF32%s on", " and cuDNN's fastest algorithms are" if fastest else " is")


class OwnRunner(Runner):
    """mmengine's Runner: atomic checkpoints, `speed_up`, the optimizer's own rule of scaling.

    Attributes:
        start: Weights to start from, until they are loaded.
        started: Record of the weights that the training has started from.
    """

    start: Start | None = None
    started: dict[str, Any] | None = None

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **options: Any) -> None:
        """Saves a checkpoint, which takes its name when it is whole.

        Args:
            out_dir: Folder, or address of another store, which is left to mmengine.
            filename: Name of the file.
            *args: See mmengine.
            **options: See mmengine.
        """
        if not is_main_process() or "://" in out_dir:
            super().save_checkpoint(out_dir, filename, *args, **options)
            return
        with atomic_path(Path(out_dir) / filename) as temporary:
            super().save_checkpoint(str(temporary.parent), temporary.name, *args, **options)

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """Puts the model on its device, lets it be recorded and wraps it for several processes."""
        kind = self.cfg.get("speed_up") or "none"
        if kind == "graph" and torch.cuda.is_available():
            use_own_stream()
        wrapped = super().wrap_model(model_wrapper_cfg, model)
        speed_up(wrapped.module if is_model_wrapper(wrapped) else wrapped, kind)
        return wrapped

    def load_or_resume(self) -> None:
        """Loads the weights to start from, without unpickling, or resumes as mmengine does."""
        if self._resume or self.start is None:
            super().load_or_resume()
            return
        metainfo = getattr(self.train_dataloader.dataset, "metainfo", None) or {}
        self.started = self.start.load(metainfo.get("classes") or ())
        self.start, self._has_loaded = None, True

    def scale_lr(
        self, optim_wrapper: OptimWrapper, auto_scale_lr: Mapping[str, Any] | None = None
    ) -> None:
        """Scales the learning rate with the batch, see `lr_factor`."""
        if auto_scale_lr and auto_scale_lr.get("enable"):
            for group in optim_wrapper.optimizer.param_groups:
                group["lr"] *= lr_factor(self.cfg, self.world_size)


def build_runner(cfg: Config) -> Runner:
    """Builds a Runner that also works on several CPU processes, with this package's hooks.

    Raises:
        UserError: If the config would load pretrained weights by unpickling.
    """
    if cfg.launcher == "pytorch" and not torch.cuda.is_available():
        # mmengine's launcher picks a CUDA device and passes it to DDP, both of which fail here.
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        cfg.model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None)
    refuse_pretrained(cfg.model)
    check_numbers(cfg)
    if is_main_process():
        make_folder(cfg.work_dir)
    set_loader_options(cfg)
    cfg.param_scheduler = fitted_schedule(cfg.get("param_scheduler"), cfg.get("train_cfg") or {})
    cfg.setdefault("default_hooks", {}).setdefault("runtime_info", dict(type="DeferredInfoHook"))
    use_safe_hook(cfg)
    if "optimizer" in (cfg.get("optim_wrapper") or {}):
        cfg.optim_wrapper.setdefault("constructor", "MergingConstructor")
    cfg.setdefault("custom_hooks", [])
    use_foreach(cfg.custom_hooks)
    for name in ("ClassCheckHook", "RecordHook"):
        if not any(hook["type"] == name for hook in cfg.custom_hooks):
            cfg.custom_hooks.append(dict(type=name))
    keep_messages()
    if torch.cuda.is_available():
        set_up_cuda(cfg)
    with config_errors():
        runner = OwnRunner.from_cfg(cfg)
        if cfg.get("load_from") and not cfg.get("resume"):
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            runner.start = Start(model, cfg.model, cfg.load_from)
    optimizer = ((cfg.get("optim_wrapper") or {}).get("optimizer") or {}).get("type")
    if isinstance(optimizer, str) and OPTIMIZERS.get(optimizer) is None:
        raise InputError(f"there is no optimizer {optimizer!r}.")
    return runner


class _RunnerFile(logging.Handler):
    """Writes messages to the log file of the Runner that was built last."""

    def emit(self, record: logging.LogRecord) -> None:
        for handler in MMLogger.get_current_instance().handlers:
            if isinstance(handler, logging.FileHandler) and record.levelno >= handler.level:
                handler.handle(record)


def keep_messages() -> None:
    """Writes the package's messages to the log files of Runners that are built from now on."""
    package = logging.getLogger(PACKAGE)
    if not any(isinstance(handler, _RunnerFile) for handler in package.handlers):
        package.addHandler(_RunnerFile())


def train(runner: Runner) -> None:
    """Trains, once the data and all other parts of the config are built and checked.

    Raises:
        InputError: If the data do not fill a batch, or the config names something unknown.
        UserError: If a batch is too small for batch norms.
    """
    with config_errors(), norm_errors():
        check_one_batch(runner)
        check_smallest_batch(runner)
        check_average(runner)
        fit_iterations(runner)
        runner.train()


def check_one_batch(runner: Runner) -> None:
    """Checks that the training data fill at least one batch, for else nothing would be trained.

    Raises:
        UserError: If they do not.
    """
    loader = runner.train_loop.dataloader
    if isinstance(runner.train_loop, EpochBasedTrainLoop) and not len(loader):
        raise UserError(
            f"the {len(loader.dataset)} training images do not fill one batch of "
            f"{loader.batch_sampler.batch_size} a process; lower train_dataloader.batch_size."
        )


def build_evaluation_runner(cfg: Config, classes: Sequence[str] = ()) -> Runner:
    """Builds a Runner for evaluation, without the config's own weights; the caller loads some.

    Args:
        cfg: Config of the model.
        classes: Classes of the weights, in the order of their labels. A COCO file's categories are
            matched to them by name; by default they are taken as they come.

    Raises:
        UserError: If the config would load pretrained weights by unpickling.
    """
    if not cfg.get("test_dataloader"):
        raise InputError(f"{cfg.filename or 'the config'} has no test_dataloader to evaluate with.")
    cfg.load_from, cfg.resume, cfg.speed_up = None, False, "none"
    set_classes(cfg.test_dataloader.dataset, classes)
    # The Runner writes its config and logs there, and must leave the training's alone.
    cfg.work_dir = str(Path(cfg.work_dir) / "evaluation")
    return build_runner(cfg)


def set_classes(dataset: dict[str, Any], classes: Sequence[str]) -> None:
    """Has a COCO file's categories matched by name to the classes of weights.

    Args:
        dataset: Config of a data set; changed in place, unless it says its classes itself.
        classes: In the order of the labels; empty to take the categories as they come.
    """
    if classes and dataset["type"] in ("CocoFolder", "EmbeddedDataset"):
        dataset.setdefault("metainfo", dict(classes=tuple(classes)))
