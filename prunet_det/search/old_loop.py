"""The search's own training loop: network weights and architecture in turn, on two halves of the
data.

One iteration: a batch of the architecture's half gives the gradient of the logits; a batch of the
weights' half steps the weights. The logits' gradient is on its way to the host while the weights'
step runs, so no step waits for the device.
"""

from __future__ import annotations

import json
import signal
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.registry import LOOPS
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from prunet_det.search.checkpoints import save_checkpoint
from prunet_det.search.layer import LayerMixture
from prunet_det.search.model import SearchModel
from prunet_det.search.objective import BudgetController
from prunet_det.search.old_architecture import Architecture
from prunet_det.search.old_supernet import Structure, SuperNet, rebind_optimizer
from prunet_det.training.divergence import diverged
from prunet_det.training.ema import ForeachEMA
from prunet_det.training.evaluate import unwrap_model
from prunet_det.training.repeatable import random_state, set_random_state

_SHRINK = 0.85  # a candidate is cut to what can be chosen when that is less than this share of it
_RECORDS = 200  # of a search, for its plots
_GRADIENT_SCALE = 1024.0


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long a search is, what it aims at, and what it leaves on the way.

    Attributes:
        aim_ms: Expected latency to arrive at, in milliseconds.
        warmup: Iterations of the weights alone.
        steps: Iterations of weights and architecture, after the warm-up.
        temperature: Temperatures of the Gumbel softmax at the start and at the end of the steps;
            between them it falls geometrically.
        checkpoint_interval: Iterations between checkpoints.
        ema_momentum: Momentum of the averaged weights that a result inherits.
        seed: Seed of the Gumbel noise.
        progress: Whether to show a bar.
    """

    aim_ms: float
    warmup: int
    steps: int
    temperature: tuple[float, float] = (2.0, 0.3)
    checkpoint_interval: int = 100
    ema_momentum: float = 0.02
    seed: int = 0
    progress: bool = True


@LOOPS.register_module()
class SearchLoop(BaseLoop):
    """Warm-up of the weights alone, then architecture and weights in turn.

    Args:
        runner: mmengine's.
        dataloader: Of the weights' half.
        architecture_loader: Of the other half.
        architecture: What is searched.
        settings: How long it is, and what it aims at.
        on_save: Called after every checkpoint but the last with the loop, on the main process.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader[Any],
        architecture_loader: DataLoader[Any],
        architecture: Architecture,
        settings: LoopSettings,
        on_save: Callable[[SearchLoop], None] | None = None,
    ) -> None:
        super().__init__(runner, dataloader)
        self.architecture_loader = architecture_loader
        self.architecture = architecture
        self.settings, self.on_save = settings, on_save
        self.controller = BudgetController(budget_ms=settings.aim_ms)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.model: SearchModel = unwrap_model(runner)
        self.supernet: SuperNet = self.model.supernet
        self.ema = self._average(self.supernet)
        self.device = next(self.supernet.parameters()).device
        self.history: list[dict[str, Any]] = []
        self.events: list[tuple[int, str]] = []
        self.seconds = 0.0
        self._iter = self._epoch = 0
        self.stop_training = False
        self.interrupted = False
        self._losses = {"weights": 0.0, "architecture": 0.0}
        self._weight = 0.0  # of the latency, for the record
        self._note_structure()

    @property
    def max_epochs(self) -> int:
        return 1

    @property
    def max_iters(self) -> int:
        """Of the whole search."""
        return self.settings.warmup + self.settings.steps

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def iter(self) -> int:
        """Iterations that are done."""
        return self._iter

    @property
    def progress(self) -> float:
        """Of the part with the architecture, 0..1."""
        return max(self._iter - self.settings.warmup, 0) / max(self.settings.steps, 1)

    @property
    def expected_ms(self) -> float:
        """Expected latency now."""
        return self.architecture.expected_ms(self.progress)[0]

    def _average(self, network: nn.Module) -> ForeachEMA:
        return ForeachEMA(network, momentum=self.settings.ema_momentum)

    # The loop.

    def run(self) -> nn.Module:
        """Runs to the end, or to Ctrl-C: then a checkpoint and a result are written first.

        Raises:
            KeyboardInterrupt: After them.
        """
        from tqdm import tqdm

        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        weights, other = self._positions(self.dataloader), self._positions(self.architecture_loader)
        bar = tqdm(
            total=self.max_iters,
            initial=self._iter,
            desc="search",
            unit="step",
            disable=not self.settings.progress or not dist.is_main_process(),
        )
        previous = signal.signal(signal.SIGINT, self._interrupt)
        try:
            while self._iter < self.max_iters and not self.stop_training:
                start = time.perf_counter()
                self.runner.call_hook("before_train_iter", batch_idx=self._iter)
                outputs = self._run_iter(weights, other)
                self.seconds += time.perf_counter() - start
                self._record(time.perf_counter() - start)
                bar.set_postfix_str(self._postfix(), refresh=False)
                bar.update()
                last = self._iter + 1 == self.max_iters
                due = (self._iter + 1) % self.settings.checkpoint_interval == 0
                self.runner.call_hook("after_train_iter", batch_idx=self._iter, outputs=outputs)
                if last or due or self.interrupted:
                    # The last result is for whoever started the loop.
                    self._save(result=not last or self.interrupted)
                self._iter += 1
                if self.interrupted:
                    raise KeyboardInterrupt
        finally:
            signal.signal(signal.SIGINT, previous)
            bar.close()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def _interrupt(self, *_: Any) -> None:
        """The first Ctrl-C ends the iteration, the second one the process."""
        self.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _positions(self, loader: DataLoader[Any]) -> Iterator[dict[str, torch.Tensor]]:
        """The loader's batches from where the search stands."""
        sampler: Any = loader.sampler
        done = self._iter
        if loader is self.architecture_loader:
            done = max(self._iter - self.settings.warmup, 0)
        sampler.batches_done = done
        return iter(loader)

    def _run_iter(self, weights: Iterator[Any], other: Iterator[Any]) -> dict[str, float]:
        if self._iter < self.settings.warmup:
            loss = self._weight_step(next(weights))
            if self._iter % 10 == 0:  # a look at the loss waits for the device
                self._losses["weights"] = float(loss)
            return {"loss": self._losses["weights"]}
        batch = next(weights)
        fetched = self._architecture_step(next(other))
        loss = self._weight_step(batch)
        gradient = fetched()
        self._losses["architecture"] = float(gradient[-1])
        if gradient[-2] != self._own_checksum:
            raise RuntimeError(
                "the processes of this search disagree on what is pruned; please report it with "
                "the command."
            )
        if not np.isfinite(gradient[-1]):
            raise diverged(self.runner, f"the loss is {gradient[-1]}", self._iter)
        if np.isfinite(gradient).all():  # an overflow of half precision is no evidence
            self._update(gradient[:-2].astype(float))
        expected = self.expected_ms
        return {
            "loss": self._losses["architecture"],
            "expected_ms": expected,
            "of_budget": expected / self.controller.budget_ms,
            "latency_weight": self._weight,
        }

    def _on_device(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor

    def _mixtures(self, theta: torch.Tensor) -> list[LayerMixture | None]:
        noise = self._on_device(self.architecture.noise(self.generator))
        first, last = self.settings.temperature
        temperature = first * (last / first) ** self.progress
        return self.architecture.mixtures(theta, noise, temperature, self.progress)

    def _place(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(  # type: ignore[return-value]
            batch[key].to(self.device, non_blocking=True) for key in ("inputs", "labels")
        )

    def _architecture_step(self, batch: dict[str, torch.Tensor]) -> Callable[[], np.ndarray]:
        """Starts the gradient of the loss by the logits on its way to the host.

        Returns:
            A function that waits for it and gives the gradient with the loss at its end.
        """
        theta = self._on_device(self.architecture.theta()).requires_grad_()
        images, labels = self._place(batch)
        with self.runner.optim_wrapper.optim_context(self.model):
            mixtures = self._mixtures(theta)
            loss = self.model(images, labels, mixtures=mixtures)["loss"]
        # Scaled, so that half precision keeps what is small; a power of two, so that it is exact.
        # Where all is decided, nothing of the loss hangs on the logits.
        (gradient,) = torch.autograd.grad(
            _GRADIENT_SCALE * loss, theta, allow_unused=True, materialize_grads=True
        )
        gradient = gradient / _GRADIENT_SCALE
        flat = torch.cat([gradient, self._checksum, loss.detach().reshape(1)]).float()
        if dist.get_world_size() > 1:
            dist.all_reduce(flat, "mean")
        if self.device.type != "cuda":
            return flat.numpy
        host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
        host.copy_(flat, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()

        def fetch() -> np.ndarray:
            arrived.synchronize()
            return host.numpy().copy()

        return fetch

    def _weight_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        theta = self._on_device(self.architecture.theta())
        images, labels = self._place(batch)
        wrapper = self.runner.optim_wrapper
        with wrapper.optim_context(self.runner.model):
            loss = self.runner.model(images, labels, mixtures=self._mixtures(theta))["loss"]
        wrapper.update_params(loss)
        self.ema.update_parameters(self.supernet)
        return loss.detach()

    def _update(self, task: np.ndarray) -> None:
        """One step of the architecture, and what it leads to."""
        progress = self.progress
        expected, gradient = self.architecture.expected_ms(progress)
        self._weight = self.controller.weight(expected)
        self.architecture.project(expected - self.controller.budget_ms, progress)
        self.architecture.update(task, gradient / expected, self._weight, progress)
        entered = self.architecture.skips_entered
        events = self.architecture.prune(progress, self.controller.budget_ms)
        if self.architecture.skips_entered != entered:
            self.controller.integral = 0.0  # the price was that of a network without skips
        self.events += [(self._iter, event) for event in events]
        self._shrink(bool(events))

    def _shrink(self, removed: bool) -> None:
        """Restructures the supernet where something left or became much narrower."""
        target, now = self.architecture.structure(), self.supernet.structure()
        narrower = any(
            wanted[key] < _SHRINK * width
            for wanted, have in zip(target, now, strict=True)
            if wanted and have
            for key, width in have.items()
            if key in wanted
        )
        if (removed or narrower) and target != now:
            self.restructure(target)

    def restructure(self, structure: Structure) -> None:
        """Cuts supernet, optimizer, average and, where there is one, the DDP wrapper."""
        before = dict(self.supernet.named_parameters())
        self.supernet.restructure(structure)
        self._note_structure()
        optimizer = self.runner.optim_wrapper.optimizer
        rebind_optimizer(optimizer, before, dict(self.supernet.named_parameters()))
        average, steps = self.ema.module, self.ema.steps
        average.restructure(structure)
        self.ema = self._average(average)
        self.ema.steps = steps
        if self.runner.model is not self.model:
            self.runner.model = self.runner.wrap_model(
                self.runner.cfg.get("model_wrapper_cfg"), self.model
            )

    def _note_structure(self) -> None:
        """A checksum goes with every gradient: processes that disagree find out at once."""
        text = json.dumps(self.supernet.structure())
        self._own_checksum = float(zlib.crc32(text.encode()) % 4096)  # exact in half a mean
        self._checksum = torch.tensor([self._own_checksum], device=self.device)

    def _record(self, seconds: float) -> None:
        every = max(self.max_iters // _RECORDS, 1)
        if self._iter % every and self._iter + 1 != self.max_iters:
            return
        architecture, progress = self.architecture, self.progress
        a, b = architecture.pairs(progress)
        record: dict[str, Any] = {
            "iter": self._iter,
            "progress": progress,
            "expected_ms": self.expected_ms,
            "weight": self._weight,
            **{f"{k}_loss": v for k, v in self._losses.items()},
            "seconds": seconds,
            "parameters": sum(p.numel() for p in self.supernet.parameters()),
            "probabilities": architecture.probabilities().round(4).tolist(),
            "pairs": [a.tolist(), b.tolist()],
            "skips": architecture.skip_probabilities().round(4).tolist(),
            **architecture.counts(),
        }
        if self.device.type == "cuda":
            record["memory_mb"] = torch.cuda.max_memory_allocated(self.device) / 2**20
            torch.cuda.reset_peak_memory_stats(self.device)
        self.history.append(record)

    def _postfix(self) -> str:
        if self._iter < self.settings.warmup:
            return f"warm-up, loss {self._losses['weights']:.2f}"
        left = self.architecture.counts()
        return (
            f"{self.expected_ms:.3f} of {self.controller.budget_ms:.3f} ms, "
            f"loss {self._losses['architecture']:.2f}, {left['layers']} layers, "
            f"{left['candidates']} candidates, {left['widths']} widths"
        )

    # Checkpoints.

    def _save(self, result: bool) -> None:
        if not dist.is_main_process():
            return
        save_checkpoint(self.runner, self._iter + 1)
        if result and self.on_save is not None:
            self._iter, saved = self._iter + 1, self._iter  # a result is of what is done
            try:
                self.on_save(self)
            finally:
                self._iter = saved

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside mmengine's tensors."""
        return {
            "structure": self.supernet.structure(),
            "architecture": self.architecture.state_dict(),
            "integral": self.controller.integral,
            "ema": self.ema.module.state_dict(),
            "ema_steps": self.ema.steps,
            "history": self.history,
            "events": self.events,
            "losses": self._losses,
            "seconds": self.seconds,
            "random": {
                "generator": self.generator.get_state(),
                **random_state(),
            },
        }

    def load_structure(self, state: dict[str, Any]) -> None:
        """The structure and everything but the tensors that mmengine loads afterwards."""
        self.restructure(state["structure"])
        self.architecture.load_state_dict(state["architecture"])
        self.controller.integral = state["integral"]
        self.ema.module.load_state_dict(state["ema"])
        self.ema.steps = state["ema_steps"].cpu()  # on a device, counting would wait for it
        self.history, self.events = state["history"], [tuple(e) for e in state["events"]]
        self.seconds, self._losses = state["seconds"], state["losses"]

    def load_random(self, state: dict[str, Any]) -> None:
        """The random states; last, since building things draws from them."""
        states = state["random"]
        self.generator.set_state(states["generator"].cpu())
        set_random_state(states)
