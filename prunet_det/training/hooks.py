"""Hooks that check classes, write records beside checkpoints, log without waiting, fix norms."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook, LoggerHook, RuntimeInfoHook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from torch.nn.modules.batchnorm import _BatchNorm

from prunet_det.training.divergence import check_scalars, check_weights
from prunet_det.training.evaluate import unwrap_model
from prunet_det.training.records import TRAINING_FILE, read_training
from prunet_det.training.resume import check_resumed, describe_training, say_if_finished
from prunet_det.utils.env import environment
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import write_json
from prunet_det.zoo.weights import save_safetensors

WEIGHTS_FILE = "weights.safetensors"


@HOOKS.register_module()
class ClassCheckHook(Hook):
    """Gives all data sets the same classes, and checks that the model has as many."""

    def before_run(self, runner: Runner) -> None:
        """Compares the data sets with the first one; mmengine calls this when they are built.

        Raises:
            UserError: If the classes of two data sets differ and cannot be matched by name, or
                their number is not the model's.
        """
        loops = {"train": runner._train_loop, "val": runner._val_loop, "test": runner._test_loop}
        built = {split: loop for split, loop in loops.items() if isinstance(loop, BaseLoop)}
        by_split = {split: _classes(loop) for split, loop in built.items() if _classes(loop)}
        outputs = class_counts(unwrap_model(runner))
        for split, classes in by_split.items():
            first = next(iter(by_split))
            if classes != by_split[first]:
                if _use_classes(built[split], by_split[first]):
                    continue
                raise UserError(
                    f"the {first} and {split} data have different classes, or in another order: "
                    f"{_abbreviate(by_split[first])} and {_abbreviate(classes)}."
                )
            others = {key: n for key, n in outputs.items() if n != len(classes)}
            if others:
                raise UserError(
                    f"the data has {len(classes)} class{'es' * (len(classes) != 1)} and the model "
                    f"{next(iter(others.values()))}; set "
                    f"{' '.join(f'{key}={len(classes)}' for key in others)}."
                )


def class_counts(model: torch.nn.Module) -> dict[str, int]:
    """Finds for how many classes a classifier or each head of a detector is built.

    Args:
        model: MMDetection's detector or a classifier.

    Returns:
        Numbers by the option of a config that sets them, such as
        `model.roi_head.bbox_head.num_classes`; none for a part that does not say.
    """
    heads = {"model": model}
    for path in ("bbox_head", "mask_head", "roi_head.bbox_head", "roi_head.mask_head"):
        head: Any = model
        for name in path.split("."):
            head = getattr(head, name, None)
        if isinstance(head, torch.nn.ModuleList):  # of a cascade
            heads.update({f"model.{path}.{i}": stage for i, stage in enumerate(head)})
        else:
            heads[f"model.{path}"] = head
    counts = {f"{path}.num_classes": getattr(h, "num_classes", None) for path, h in heads.items()}
    return {
        key: count
        for (key, count), head in zip(counts.items(), heads.values(), strict=True)
        if isinstance(count, int) and not getattr(head, "class_agnostic", False)
    }


def _classes(loop: Any) -> tuple[str, ...]:
    metainfo = getattr(loop.dataloader.dataset, "metainfo", None) or {}
    return tuple(metainfo.get("classes") or ())


def _use_classes(loop: Any, classes: tuple[str, ...]) -> bool:
    """Gives a loop's data set other classes, where it can match them by name; says if it could."""
    dataset = loop.dataloader.dataset
    if not hasattr(dataset, "use_classes"):
        return False
    dataset.use_classes(classes)
    loop.evaluator.dataset_meta = dataset.metainfo
    return True


def _abbreviate(names: tuple[str, ...]) -> str:
    return ", ".join(names[:8]) + (f", ... ({len(names)})" if len(names) > 8 else "")


@HOOKS.register_module()
class RecordHook(Hook):
    """Writes weights.safetensors and train.json with every checkpoint, and checks a resumed one.

    Weights that are not finite are not saved: the training ends, and the files stay as they were.

    A checkpoint holds pickled state and serves --resume alone. Everything else reads the weights
    beside it, which are the averaged ones if there is an EMA. train.json says how they came about;
    its minutes include those of earlier, interrupted processes.
    """

    priority = "LOWEST"  # after the EMA hook has swapped its weights in

    def before_train(self, runner: Runner) -> None:
        """Stores the start of the training: iteration, time, commit and machine."""
        self._first_iter = runner.iter
        if self._first_iter:
            say_if_finished(runner)
        self._started = time.time()
        self._environment = environment()
        # As mmengine names the copy that it writes into the work dir.
        self._config = Path(runner.cfg.filename or f"{runner.timestamp}.py").name
        metainfo = getattr(runner.train_dataloader.dataset, "metainfo", None) or {}
        self._classes = metainfo.get("classes") or ()
        earlier = read_training(Path(runner.work_dir) / WEIGHTS_FILE) if runner.iter else {}
        self._earlier_minutes = float(earlier.get("minutes", 0.0))
        started = getattr(runner, "started", None) or earlier.get("started_from")
        self._start = {"started_from": started} if started else {}

    def _write_record(self, runner: Runner, iterations: int) -> None:
        minutes = self._earlier_minutes + (time.time() - self._started) / 60
        record = {
            "command": shlex.join(["python", *sys.argv]),
            "config": self._config,
            "iterations": iterations,
            "minutes": round(minutes, 2),
            "resumed": self._first_iter > 0,
            **self._start,
            "classes": list(self._classes),
            **self._environment,
        }
        write_json(Path(runner.work_dir) / TRAINING_FILE, record)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Writes the weights and the record; mmengine calls this on the main process only.

        Args:
            runner: Runner of the training.
            checkpoint: Content of the checkpoint; what `check_resumed` compares is added to it.

        Raises:
            DivergedError: If the weights are not finite.
        """
        check_weights(runner, checkpoint)
        checkpoint["meta"].update(describe_training(runner))
        save_safetensors(checkpoint["state_dict"], Path(runner.work_dir) / WEIGHTS_FILE)
        self._write_record(runner, checkpoint["meta"]["iter"])

    def after_train(self, runner: Runner) -> None:
        """Adds the minutes of the last evaluation, unless there was nothing left to train."""
        if runner.rank == 0 and runner.iter > self._first_iter:
            self._write_record(runner, runner.iter)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Refuses to resume what was trained otherwise (mmengine only logs another model).

        Args:
            runner: Runner of the training.
            checkpoint: Content of the checkpoint.

        Raises:
            CheckpointError: See `check_resumed`.
        """
        check_resumed(runner, checkpoint)


@HOOKS.register_module()
class DeferredInfoHook(RuntimeInfoHook):
    """mmengine's RuntimeInfoHook, which waits for the device only to log or to save something.

    A training that diverges ends then: before anything of it is saved.

    mmengine makes a number of each loss and of the gradients' norm in every iteration. On a GPU the
    host then waits for all that it has launched, and the GPU for the next iteration's launches.
    Here they stay on the device until the logger or a checkpoint takes them. Logs are the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held: list[dict[str, Any]] = []
        self._norm: torch.Tensor | None = None

    def before_train(self, runner: Runner) -> None:
        """Finds out when numbers are needed, and takes the gradients' norm.

        Args:
            runner: Runner of the training.
        """
        super().before_train(runner)
        self._held.clear()
        self._intervals = {h.interval for h in runner.hooks if isinstance(h, LoggerHook)}
        wrapper = runner.optim_wrapper
        if isinstance(wrapper, OptimWrapper) and wrapper.clip_grad_kwargs:
            clip = wrapper.clip_func

            def clip_quietly(parameters: Iterable[torch.Tensor], **kwargs: Any) -> None:
                norm = clip(parameters, **kwargs)  # returned, it would be made a number
                if norm is not None:  # a second training's hook wraps the first one's
                    self._norm = norm

            wrapper.clip_func = clip_quietly
            self._norm_key = f"train/{wrapper.grad_name}"

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Keeps the losses, and hands them on when they are needed.

        Args:
            runner: Runner of the training.
            batch_idx: Number of the batch in its epoch.
            data_batch: Not used.
            outputs: Losses by name.
        """
        held = {} if self._norm is None else {self._norm_key: self._norm}
        self._norm = None
        for key, value in (outputs or {}).items():
            held[f"train/{key}"] = value.detach() if isinstance(value, torch.Tensor) else value
        if not self._held:
            self._first = runner.iter
        self._held.append(held)
        due = any(self.every_n_inner_iters(batch_idx, n) for n in self._intervals)
        last = self.is_last_train_iter(runner)
        if due or last or self.end_of_epoch(runner.train_dataloader, batch_idx):
            self._hand_on(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Hands on what is held, so that the checkpoint has the losses up to its iteration.

        Args:
            runner: Runner of the training.
            checkpoint: Content of the checkpoint; its messages are completed.
        """
        if self._held:
            self._hand_on(runner)
            checkpoint["message_hub"] = runner.message_hub.state_dict()

    def _hand_on(self, runner: Runner) -> None:
        """Gives the message hub all that is held, in the order of iterations.

        Raises:
            DivergedError: If a loss or gradient is not finite.
        """
        held, self._held = self._held, []
        for key in dict.fromkeys(key for scalars in held for key in scalars):
            of_key = [scalars for scalars in held if key in scalars]
            values = [scalars[key] for scalars in of_key]
            if all(isinstance(value, torch.Tensor) for value in values):
                values = torch.stack([value.reshape(()) for value in values]).tolist()
            for scalars, value in zip(of_key, values, strict=True):
                scalars[key] = value
                runner.message_hub.update_scalar(key, value)
        check_scalars(runner, self._first, held)


@HOOKS.register_module()
class FreezeNormsHook(Hook):
    """Has batch norms use the statistics that they have, from a share of the training on.

    In batches of a few images statistics differ from batch to batch, and a network that is used to
    that may be worse with those that it is evaluated with. So it trains on with these.

    Args:
        begin: Share of the iterations after which statistics are fixed, 0..1.
    """

    def __init__(self, begin: float) -> None:
        self.begin = begin

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Puts batch norms in eval mode; a resumed training and each validation undo it."""
        if runner.iter >= self.begin * runner.max_iters:
            for module in runner.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
