"""The search's loop: a warm-up by mixtures, then paths, then paths and architectures in turn.

The supernet's weights learn from one half of the data, all budgets' architectures from the other.
All that is random in a step is drawn from (seed, purpose, step), so that a resumed search goes on
with the same bytes. On a GPU no step waits for what it has started itself: the losses of a step's
draws are on their way to the host while its weights learn, and the loss of the weights is read
one step later.
"""

from __future__ import annotations

import json
import logging
import math
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.optim import OptimWrapper
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from prunet_det.search.architecture import Architecture
from prunet_det.search.crops_on_device import DeviceCrops
from prunet_det.search.hooks import SearchHook, call
from prunet_det.search.shapes import Shape
from prunet_det.search.supernet import Mixture, Structure, SuperNet, drop_parameters
from prunet_det.training.divergence import DivergedError
from prunet_det.training.ema import ForeachEMA
from prunet_det.utils.errors import InputError

logger = logging.getLogger(__name__)

WARMUP, PATHS, TIERS, DONE = "warm-up", "paths", "tiers", "done"
_MIXTURE, _FAIR, _PAIRS = 4, 5, 6  # purposes of random numbers
_RUNNING = 0.95  # memory of the running loss, a step
_SCORED = 256  # crops in a batch of `score`


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long the phases are, and how large their batches.

    Attributes:
        warmup: Steps of the warm-up at most.
        warmup_loss: Share of log(classes), a guess's loss, that the running loss must fall below
            for the warm-up to end; 0 makes all of its steps.
        warmup_batch: Images in a step of the warm-up.
        warmup_expansions: Inner widths of its mixtures, in times a layer's input. Narrow blocks
            learn sooner and cost less; paths widen them afterwards.
        temperature: Temperature of the mixtures' Gumbel softmax.
        weights: What trains the weights after the warm-up: `paths`, or `mixture` to compare with.
        paths: Steps of weights alone after the warm-up.
        tiers: Steps of weights and architectures.
        batch: Images of a path of the weights.
        draws: Networks that each architecture draws in a step.
        draws_batch: Images that they are scored on.
        margin: Factor by which the paths' latencies go beyond the least and the greatest budget.
        ramp: Steps in which the learning rate rises at the start.
        last_lr: Share of the learning rate at the end of the tiers, to which it falls as a cosine
            from the end of the warm-up on.
        ema_momentum: Momentum of the averaged weights, which draws are scored with.
        score_images: Crops that `SearchLoop.score` uses at most.
        checkpoint_interval: Steps between checkpoints.
    """

    warmup: int = 400
    warmup_loss: float = 0.85
    warmup_batch: int = 64
    warmup_expansions: tuple[float, float] = (1.0, 2.0)
    temperature: float = 2.0
    weights: str = PATHS
    paths: int = 300
    tiers: int = 100
    batch: int = 32
    draws: int = 8
    draws_batch: int = 96
    margin: float = 1.25
    ramp: int = 30
    last_lr: float = 0.05
    ema_momentum: float = 0.02
    score_images: int = 512
    checkpoint_interval: int = 100

    def __post_init__(self) -> None:
        for name in ("warmup", "paths", "tiers"):
            if getattr(self, name) < 0:
                raise InputError(f"search.{name} must be 0 or more, got {getattr(self, name)}.")
        if self.weights not in (PATHS, "mixture"):
            raise InputError(f"search.weights must be paths or mixture, got {self.weights!r}.")
        if self.draws < 2:
            raise InputError(f"search.draws must be 2 or more, got {self.draws}.")


class _Sent:
    """Numbers on their way from the device to the host."""

    def __init__(self, tensor: Tensor) -> None:
        self._event = None
        self._host = tensor.float()
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> np.ndarray:
        """Waits for them."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy().astype(float)


class SearchLoop:
    """Trains a supernet and lets the architectures of all budgets choose from it.

    Args:
        supernet: At its start.
        architectures: One for every budget, over the same shapes.
        halves: The data by name of the half, `weights` and `architecture`.
        settings: Lengths and batches.
        optim_wrapper: mmengine's, for its optimizer, its clipping and its autocast.
        hooks: Called before the first step, after every step and after the last one.

    Attributes:
        ema: Averaged weights.
        step: Steps that are done.
        phase: `warm-up`, `paths`, `tiers` or `done`.
        losses: Of the `weights` and of the `architecture`, some steps old.
        events: Step, budget in ms or 0 for all, and what happened.
        seconds: By phase.
        stop: Set to end the loop after the step at work.
    """

    def __init__(
        self,
        supernet: SuperNet,
        architectures: Sequence[Architecture],
        halves: Mapping[str, DeviceCrops],
        settings: LoopSettings,
        optim_wrapper: OptimWrapper,
        hooks: Sequence[SearchHook] = (),
    ) -> None:
        self.supernet, self.architectures = supernet, list(architectures)
        self.shapes, self.halves, self.settings = architectures[0].shapes, halves, settings
        self.optim_wrapper, self.seed = optim_wrapper, architectures[0].seed
        self.hooks = list(hooks)
        self.ema = ForeachEMA(supernet, momentum=settings.ema_momentum)
        self.device = next(supernet.parameters()).device
        self.guess = math.log(supernet.num_classes)
        self.step, self.phase, self.begun = 0, WARMUP, 0
        self.running = self.guess
        self.losses = {"weights": self.guess, "architecture": self.guess}
        self.events: list[tuple[int, float, str]] = []
        self.seconds = dict.fromkeys((WARMUP, PATHS, TIERS), 0.0)
        self.stop = False
        self._unread: _Sent | None = None
        self._rates = [group["lr"] for group in optim_wrapper.optimizer.param_groups]
        self._expansions = self._nearest(settings.warmup_expansions)
        self._note_structure()
        self._next_phase(WARMUP)

    # How far it is.

    @property
    def most_steps(self) -> int:
        """Steps of the whole search at most, fewer once the warm-up has ended."""
        s = self.settings
        first = {WARMUP: s.warmup, PATHS: self.begun, TIERS: self.begun - s.paths}
        return first[self.phase] + s.paths + s.tiers if self.phase != DONE else self.step

    @property
    def progress(self) -> float:
        """Progress of the phase, 0..1."""
        return min((self.step - self.begun) / max(self._length(self.phase), 1), 1.0)

    @property
    def postfix(self) -> str:
        """A few words for a bar."""
        left = f", {int(self.left.sum())} candidates" if self.phase == TIERS else ""
        return f"{self.phase}, loss {self.losses['weights']:.2f}{left}"

    @property
    def left(self) -> np.ndarray:
        """Candidates that some architecture still has, bool (layers, operators)."""
        return np.logical_or.reduce([a.left for a in self.architectures])

    def _length(self, phase: str) -> int:
        s = self.settings
        return {WARMUP: s.warmup, PATHS: s.paths, TIERS: s.tiers, DONE: 1}[phase]

    def _next_phase(self, phase: str) -> None:
        """Begins a phase, or the first after it that has steps."""
        phases = (WARMUP, PATHS, TIERS, DONE)
        while not self._length(phase):
            phase = phases[phases.index(phase) + 1]
        self.phase, self.begun = phase, self.step

    # The loop.

    def run(self) -> None:
        """Runs to the end, or until a hook stops it.

        Raises:
            DivergedError: If a loss is not finite.
        """
        self.stop = False
        call(self.hooks, "before_run", self)
        while self.phase != DONE and not self.stop:
            start, phase = time.perf_counter(), self.phase
            self._run_step()
            self.step += 1
            self._end_of_phase()
            self.seconds[phase] += time.perf_counter() - start
            call(self.hooks, "after_step", self)
        call(self.hooks, "after_run", self)

    def _run_step(self) -> None:
        self._set_rate()
        sent = self._draw() if self.phase == TIERS else None
        if self.phase == WARMUP or self.settings.weights != PATHS:
            loss = self._mixture_step()
        else:
            loss = self._path_step()
        self._read_loss()
        self._unread = _Sent(loss)
        if sent is not None:
            self._learn(*sent)

    def _read_loss(self) -> None:
        """Reads the loss of the step before."""
        if self._unread is None:
            return
        loss = float(self._unread.read())
        self._unread = None
        if not math.isfinite(loss):
            raise _diverged("weights", loss, self.step)
        self.running = _RUNNING * self.running + (1 - _RUNNING) * loss
        self.losses["weights"] = self.running

    def _end_of_phase(self) -> None:
        s, over = self.settings, self.progress >= 1
        if self.phase == WARMUP:
            wanted = s.warmup_loss * self.guess
            learned = self.running < wanted
            if over and not learned and s.warmup_loss:
                self._note(
                    f"the warm-up ends after {self.step} steps without having learned: its running "
                    f"loss is {self.running:.2f}, not below {wanted:.2f} ({s.warmup_loss:.0%} of "
                    "a guess's); what follows may be no better than chance. Raise search.warmup."
                )
                logger.warning(self.events[-1][2])
            elif learned:
                self._note(f"the warm-up ends, its running loss is {self.running:.2f}")
            if over or learned:
                self._next_phase(PATHS)
        elif over:
            if self.phase == TIERS:
                for architecture in self.architectures:
                    self._settle_widths(architecture)
            self._next_phase(TIERS if self.phase == PATHS else DONE)

    def _note(self, text: str, budget_ms: float = 0.0) -> None:
        self.events.append((self.step, budget_ms, text))

    def _set_rate(self) -> None:
        s = self.settings
        factor = min((self.step + 1) / max(s.ramp, 1), 1.0)
        if self.phase != WARMUP:
            done = self.step - self.begun + (s.paths if self.phase == TIERS else 0)
            cosine = (1 + math.cos(math.pi * done / max(s.paths + s.tiers, 1))) / 2
            factor = s.last_lr + (1 - s.last_lr) * cosine
        groups = self.optim_wrapper.optimizer.param_groups
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate * factor

    # Weights.

    def _loss(self, net: SuperNet, images: Tensor, labels: Tensor, **way: Any) -> Tensor:
        with self.optim_wrapper.optim_context(net):
            logits = net(images, **way)
        return cross_entropy(logits.float(), labels)

    def _path_step(self) -> Tensor:
        """Weights learn from paths in which every candidate comes equally often."""
        shapes = self._paths()
        images, labels = self.halves["weights"].batch(self.step, len(shapes) * self.settings.batch)
        losses = []
        batches = zip(images.chunk(len(shapes)), labels.chunk(len(shapes)), strict=True)
        for shape, (own, own_labels) in zip(shapes, batches, strict=True):
            way = {"operators": shape.operators, "hidden": self.shapes.hidden(shape)}
            loss = self._loss(self.supernet, own, own_labels, **way) / len(shapes)
            loss.backward()
            losses.append(loss.detach())
        self._update()
        return torch.stack(losses).sum()

    def _paths(self) -> list[Shape]:
        """As many as the most candidates of a layer; in the tiers, architectures draw half."""
        left, margin = self.left, self.settings.margin
        count = int(left.sum(1).max())
        budgets = [a.budget_ms for a in self.architectures]
        span = min(budgets) / margin, max(budgets) * margin
        rng = np.random.default_rng((self.seed, _FAIR, self.step))
        shapes = self.shapes.fair(rng, count, span, left)
        if self.phase == TIERS:
            for k in range(self.step % 2, count, 2):
                architecture = self.architectures[(self.step + k // 2) % len(budgets)]
                shapes[k] = architecture.sample(self.step, self.settings.draws + 1)[-1].shape
        return shapes

    def _mixture_step(self) -> Tensor:
        warmup = self.phase == WARMUP
        size = self.settings.warmup_batch if warmup else self.settings.batch
        images, labels = self.halves["weights"].batch(self.step, size)
        loss = self._loss(self.supernet, images, labels, mixture=self._mixture(warmup))
        loss.backward()
        self._update()
        return loss.detach()

    def _mixture(self, warmup: bool) -> Mixture:
        """Random weights of all candidates that are left, and of two widths each."""
        left, tau = self.left, self.settings.temperature
        rng = np.random.default_rng((self.seed, _MIXTURE, self.step))
        weights = np.where(left, np.exp(rng.gumbel(size=left.shape) / tau), 0.0)
        weights /= np.maximum(weights.sum(1, keepdims=True), 1e-12)
        shares = 1 / (1 + np.exp(-rng.logistic(size=left.shape) / tau))
        small, large = self._expansions
        if not warmup:  # all columns have to learn
            rng = np.random.default_rng((self.seed, _PAIRS, self.step))
            middle = math.exp(rng.uniform(0, math.log(8)))
            small, large = self._nearest((middle / 1.5, middle * 1.5))
        both = torch.from_numpy(np.stack((weights, shares)).astype(np.float32))
        if self.device.type == "cuda":
            both = both.pin_memory().to(self.device, non_blocking=True)
        return Mixture(weights=both[0], shares=both[1], small=small, large=large)

    def _nearest(self, expansions: Sequence[float]) -> list[np.ndarray]:
        """Inner widths next to some expansions, in channels, (layers, operators) each."""
        found = [np.zeros(self.shapes.counts.shape, int) for _ in expansions]
        for i, layer in enumerate(self.supernet.space.layers):
            for j, operator in enumerate(layer.operators):
                widths = np.array(layer.widths_of(operator))
                for expansion, array in zip(expansions, found, strict=True):
                    array[i, j] = widths[abs(widths - expansion * layer.in_chs).argmin()]
        return found

    def _update(self) -> None:
        """One step of the optimizer on the gradients that there are."""
        optimizer, clip = self.optim_wrapper.optimizer, self.optim_wrapper.clip_grad_kwargs
        parameters = [p for p in self.supernet.parameters() if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if dist.get_world_size() > 1:
            flat = torch.cat([g.reshape(-1) for g in gradients])
            dist.all_reduce(flat, "mean")
            parts = flat.split([g.numel() for g in gradients])
            views = [part.view(g.shape) for part, g in zip(parts, gradients, strict=True)]
            torch._foreach_copy_(gradients, views)
        if clip:
            clip_grad_norm_(parameters, **clip, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if self.phase != WARMUP:
            self.ema.update_parameters(self.supernet)

    # Architectures.

    @torch.no_grad()
    def _draw(self) -> tuple[list[Any], _Sent]:
        """Starts scoring what every architecture draws, on one batch for all of them."""
        s = self.settings
        images, labels = self.halves["architecture"].batch(self.step, s.draws_batch)
        drawn = [a.sample(self.step, s.draws) for a in self.architectures]
        losses = [self._scored(d.shape, images, labels) for draws in drawn for d in draws]
        numbers = torch.stack([*losses, self._checksum])
        if dist.get_world_size() > 1:
            dist.all_reduce(numbers, "mean")
        return drawn, _Sent(numbers)

    def _scored(self, shape: Shape, images: Tensor, labels: Tensor) -> Tensor:
        way = {"operators": shape.operators, "hidden": self.shapes.hidden(shape)}
        return self._loss(self.ema.module, images, labels, **way)

    def _learn(self, drawn: list[Any], sent: _Sent) -> None:
        """One step of every architecture, and what follows from it for the supernet."""
        *losses, checksum = sent.read()
        if checksum != self._own_checksum:
            raise RuntimeError(
                "the processes of this search disagree on what is pruned; please report it with "
                "the command."
            )
        if not np.isfinite(losses).all():
            raise _diverged("architecture", float(np.mean(losses)), self.step)
        self.losses["architecture"] = float(np.mean(losses))
        each = np.split(np.array(losses), len(self.architectures))
        for architecture, draws, own in zip(self.architectures, drawn, each, strict=True):
            for event in architecture.step(draws, own, self.progress):
                self._note(event, architecture.budget_ms)
        self._restructure([np.flatnonzero(row).tolist() for row in self.left])

    def _restructure(self, structure: Structure) -> None:
        """Cuts what no architecture has any more from supernet, optimizer and average."""
        if structure == self.supernet.structure():
            return
        self.supernet.restructure(structure)
        self.ema.module.restructure(structure)
        drop_parameters(self.optim_wrapper.optimizer, self.supernet.parameters())
        self._note_structure()

    def _note_structure(self) -> None:
        """A checksum goes with the losses: processes that disagree find out at once."""
        text = json.dumps(self.supernet.structure())
        self._own_checksum = float(zlib.crc32(text.encode()) % 4096)  # exact in a mean
        self._checksum = torch.tensor(self._own_checksum, device=self.device)

    def _settle_widths(self, architecture: Architecture) -> None:
        """Keeps the widths that were found only where they are better than uniform ones."""
        found = architecture.shape()
        uniform = self.shapes.uniform(found, architecture.budget_ms)
        if uniform is None or uniform == found:
            return
        a, b = self._image_losses([found, uniform], None)
        gain, error = (b - a).mean(), (b - a).std(ddof=1) / len(a) ** 0.5
        kept = gain > 2 * error
        if not kept:
            architecture.nodes.centre[:] = 0.0
        self._note(
            f"widths {'stay as found' if kept else 'become uniform'}: they save {gain:.3f} +- "
            f"{error:.3f} of the uniform ones' loss {b.mean():.3f}",
            architecture.budget_ms,
        )

    def _image_losses(self, shapes: Sequence[Shape], images: int | None) -> np.ndarray:
        """Losses by the averaged weights on crops as they are, (shapes, images)."""
        crops, found = self.halves["architecture"], []
        with torch.no_grad():
            for number, (batch, labels) in enumerate(crops.scored(_SCORED)):
                if images is not None and number * _SCORED >= images:
                    break
                for shape in shapes:
                    way = {"operators": shape.operators, "hidden": self.shapes.hidden(shape)}
                    with self.optim_wrapper.optim_context(self.ema.module):
                        logits = self.ema.module(batch, **way)
                    found.append(cross_entropy(logits.float(), labels, reduction="none"))
        batches = [
            torch.stack(found[i : i + len(shapes)]) for i in range(0, len(found), len(shapes))
        ]
        return torch.cat(batches, 1).cpu().numpy()

    def score(self, shapes: Sequence[Shape]) -> np.ndarray:
        """Losses of networks on crops of the architecture's half, by the averaged weights.

        Args:
            shapes: The networks; one of which a candidate has left has an infinite loss.
        """
        structure = self.supernet.structure()
        known = [
            all(o < 0 or o in left for o, left in zip(shape.operators, structure, strict=True))
            for shape in shapes
        ]
        losses = np.full(len(shapes), np.inf)
        if any(known):
            asked = [shape for shape, there in zip(shapes, known, strict=True) if there]
            losses[known] = self._image_losses(asked, self.settings.score_images).mean(1)
        return losses

    def add(self, architecture: Architecture) -> None:
        """Lets a further architecture choose from the finished supernet, whose weights stay.

        Args:
            architecture: Of another budget, over the same shapes.

        Raises:
            BudgetError: If what is left of the supernet does not meet its budget.
        """
        architecture.restrict(self.left)
        for step in range(self.settings.tiers):
            with torch.no_grad():
                images, labels = self.halves["architecture"].batch(
                    self.step + step, self.settings.draws_batch
                )
                draws = architecture.sample(step, self.settings.draws)
                losses = torch.stack([self._scored(d.shape, images, labels) for d in draws])
            for event in architecture.step(draws, _Sent(losses).read(), step / self.settings.tiers):
                self._note(event, architecture.budget_ms)
        self._settle_widths(architecture)
        self.architectures.append(architecture)

    # State.

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later run goes on from."""
        unread = self._unread
        return {
            "structure": self.supernet.structure(),
            "supernet": self.supernet.state_dict(),
            "optimizer": self.optim_wrapper.optimizer.state_dict(),
            "ema": self.ema.module.state_dict(),
            "ema_steps": self.ema.steps,
            "architectures": [a.state_dict() for a in self.architectures],
            "unread": None if unread is None else float(unread.read()),
            **{name: getattr(self, name) for name in _STATE},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From what `state_dict` gave, of a loop that was built alike."""
        self._restructure(state["structure"])
        self.supernet.load_state_dict(state["supernet"])
        self.optim_wrapper.optimizer.load_state_dict(state["optimizer"])
        self.ema.module.load_state_dict(state["ema"])
        self.ema.steps = state["ema_steps"].cpu()  # on a device, counting would wait for it
        for architecture, own in zip(self.architectures, state["architectures"], strict=True):
            architecture.load_state_dict(own)
        self._unread = None if state["unread"] is None else _Sent(torch.tensor(state["unread"]))
        for name in _STATE:
            setattr(self, name, state[name])


_STATE = ("step", "phase", "begun", "running", "losses", "events", "seconds")


def _diverged(what: str, loss: float, step: int) -> DivergedError:
    return DivergedError(
        f"the search diverged: the loss of the {what} is {loss} at step {step}. Lower "
        "optim_wrapper.optimizer.lr; what was saved before can be resumed."
    )
