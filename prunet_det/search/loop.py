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
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from prunet_det.search.architecture import Architecture, Draw
from prunet_det.search.hooks import SearchHook
from prunet_det.search.schedule import DONE, PATHS, TIERS, WARMUP, LoopSettings
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import Shape
from prunet_det.search.tasks import ARCHITECTURE, Batch, Task
from prunet_det.search.weights import Scorer, WeightSteps
from prunet_det.training.divergence import DivergedError

logger = logging.getLogger(__name__)

_FAIR = 6  # purpose of random numbers
_RUNNING = 0.95  # memory of the running loss, a step
_STATE = ("step", "phase", "begun", "running", "losses", "events", "seconds")


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
        model: The supernet, or a network around it, at its start.
        architectures: One for every budget and size of images, over the same space.
        task: What the model learns.
        settings: Lengths and batches.
        optim_wrapper: mmengine's, for its optimizer, its clipping and its autocast.
        hooks: Called before the first step, after every step and after the last one.

    Attributes:
        weights: Steps of the supernet's weights.
        ema: Averaged weights.
        scorer: Scores by the averaged weights.
        step: Steps that are done.
        phase: `warm-up`, `paths`, `tiers` or `done`.
        losses: Losses of the `weights` and of the `architecture`, some steps old.
        events: Step, budget in ms or 0 for all, and what happened.
        seconds: By phase.
        stop: Set to end the loop after the step at work.
    """

    def __init__(
        self,
        model: nn.Module,
        architectures: Sequence[Architecture],
        task: Task,
        settings: LoopSettings,
        optim_wrapper: OptimWrapper,
        hooks: Sequence[SearchHook] = (),
    ) -> None:
        self.model, self.task, self.supernet = model, task, task.supernet(model)
        self.architectures, self.settings = list(architectures), settings
        self.shapes, self.seed = architectures[0].shapes, architectures[0].seed
        self.hooks = list(hooks)
        self._spaces = list(dict.fromkeys(a.shapes for a in architectures))  # one for each size
        self.weights = WeightSteps(model, task, self.shapes, settings, optim_wrapper, self.seed)
        self.ema, context = self.weights.ema, optim_wrapper.optim_context
        self.scorer = Scorer(self.ema.module, task, self.shapes, context, settings.score_images)
        self.guess = task.guess
        self.step, self.phase, self.begun = 0, WARMUP, 0
        self.running = self.guess
        self.losses = {"weights": self.guess, "architecture": self.guess}
        self.events: list[tuple[int, float, str]] = []
        self.seconds = dict.fromkeys((WARMUP, PATHS, TIERS), 0.0)
        self.stop = False
        self._unread: _Sent | None = None
        self._note_structure()
        self._next_phase(WARMUP)

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

    def run(self) -> None:
        """Runs to the end, or until a hook stops it.

        Raises:
            DivergedError: If a loss is not finite.
        """
        self.stop = False
        for hook in self.hooks:
            hook.before_run(self)
        while self.phase != DONE and not self.stop:
            start, phase = time.perf_counter(), self.phase
            self._run_step()
            self.step += 1
            self._end_of_phase()
            self.seconds[phase] += time.perf_counter() - start
            for hook in self.hooks:
                hook.after_step(self)
        for hook in self.hooks:
            hook.after_run(self)

    def _run_step(self) -> None:
        self.weights.set_rate(self._rate())
        tiers = self.phase == TIERS
        drawn = self._draw(self.architectures, self.step, self.step) if tiers else None
        if self.phase == WARMUP or self.settings.weights != PATHS:
            warmup, size = self.phase == WARMUP, self._turn.costs.input_size
            loss = self.weights.on_mixture(self.step, self.left, warmup, size)
        else:
            loss = self.weights.on_paths(self.step, self._paths(), self._turn.costs.input_size)
        if dist.get_world_size() > 1:  # it ends the warm-up, of all processes at once
            dist.all_reduce(loss, "mean")
        self._read_loss()
        self._unread = _Sent(loss)
        if drawn is not None:
            self.losses["architecture"] = self._learn(self.architectures, *drawn, self.progress)
            self._drop_what_left()

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

    def _rate(self) -> float:
        """Share of the learning rate in this step."""
        s = self.settings
        if self.phase == WARMUP:
            return min((self.step + 1) / max(s.ramp, 1), 1.0)
        done = self.step - self.begun + (s.paths if self.phase == TIERS else 0)
        cosine = (1 + math.cos(math.pi * done / max(s.paths + s.tiers, 1))) / 2
        return s.last_lr + (1 - s.last_lr) * cosine

    @property
    def _turn(self) -> Shapes:
        """The shapes of the size of images whose turn it is."""
        return self._spaces[self.step % len(self._spaces)]

    def _paths(self) -> list[Shape]:
        """As many as the most candidates of a layer; in the tiers, architectures draw half."""
        left, margin = self.left, self.settings.margin
        count = int(left.sum(1).max())
        own = [a for a in self.architectures if a.shapes is self._turn]
        budgets = [a.budget_ms for a in own]
        span = min(budgets) / margin, max(budgets) * margin
        rng = np.random.default_rng((self.seed, _FAIR, self.step))
        shapes = self._turn.fair(rng, count, span, left)
        if self.phase == TIERS:
            for k in range(self.step % 2, count, 2):
                turn, place = divmod(k // 2, len(budgets))
                architecture = own[(self.step + place) % len(own)]
                drawn = architecture.sample(self.step, self.settings.draws + 1 + turn)
                shapes[k] = drawn[-1].shape  # another one each turn
        return shapes

    def _draw(
        self, architectures: Sequence[Architecture], step: int, batch: int
    ) -> tuple[list[list[Draw]], _Sent]:
        """Starts scoring what architectures draw in a step, on one batch for all of a size."""
        s, losses = self.settings, []
        batches: dict[int, Batch] = {}
        drawn = [a.sample(step, s.draws) for a in architectures]
        for architecture, draws in zip(architectures, drawn, strict=True):
            size = architecture.input_size
            if size not in batches:
                (batches[size],) = self.task.batches(ARCHITECTURE, batch, 1, s.draws_batch, size)
            losses.append(self.scorer.losses([draw.shape for draw in draws], batches[size]))
        numbers = torch.cat([*losses, self._checksum])
        if dist.get_world_size() > 1:
            dist.all_reduce(numbers, "mean")
        return drawn, _Sent(numbers)

    def _learn(
        self,
        architectures: Sequence[Architecture],
        drawn: Sequence[Sequence[Draw]],
        sent: _Sent,
        progress: float,
    ) -> float:
        """One step of architectures, from what `_draw` gave; returns the draws' mean loss."""
        *losses, checksum = sent.read()
        if checksum != self._own_checksum:
            raise RuntimeError(
                "the processes of this search disagree on what is pruned; please report it with "
                "the command."
            )
        if not np.isfinite(losses).all():
            raise _diverged("architecture", float(np.mean(losses)), self.step)
        each = np.split(np.array(losses), len(architectures))
        for architecture, draws, own in zip(architectures, drawn, each, strict=True):
            for event in architecture.step(draws, own, progress):
                self._note(event, architecture.budget_ms)
        return float(np.mean(losses))

    def _drop_what_left(self) -> None:
        """Cuts what no architecture has any more from the supernet."""
        structure = [np.flatnonzero(row).tolist() for row in self.left]
        if structure != self.supernet.structure():
            self.weights.restructure(structure)
            self._note_structure()

    def _note_structure(self) -> None:
        """A checksum goes with the losses: processes that disagree find out at once."""
        text = json.dumps(self.supernet.structure())
        self._own_checksum = float(zlib.crc32(text.encode()) % 4096)  # exact in a mean
        self._checksum = torch.tensor([self._own_checksum], device=self.task.device)

    def _settle_widths(self, architecture: Architecture) -> None:
        """Keeps the widths that were found only where they are better than uniform ones.

        By the images that they were found on, which is in their favour; in the last tier both are
        trained. A detector's samples are whole batches, of which there are few.
        """
        found = architecture.shape()
        uniform = architecture.shapes.uniform(found, architecture.budget_ms)
        if uniform is None or uniform == found:
            return
        a, b = self.scorer.evaluate([found, uniform], None, architecture.input_size)[0]
        gain, error = (b - a).mean(), (b - a).std(ddof=1) / len(a) ** 0.5
        kept = gain > 2 * error
        if not kept:
            architecture.nodes.centre[:] = 0.0
        self._note(
            f"widths {'stay as found' if kept else 'become uniform'}: they save {gain:.3f} +- "
            f"{error:.3f} of the uniform ones' loss {b.mean():.3f}",
            architecture.budget_ms,
        )

    def add(self, architecture: Architecture) -> None:
        """Lets a further architecture choose from the finished supernet, whose weights stay.

        Args:
            architecture: Architecture of another budget, over the same shapes.

        Raises:
            BudgetError: If what is left of the supernet does not meet its budget.
        """
        start, s = time.perf_counter(), self.settings
        architecture.restrict(self.left)
        for step in range(s.tiers):
            drawn = self._draw([architecture], step, self.step + step)
            self._learn([architecture], *drawn, step / s.tiers)
        self._settle_widths(architecture)
        self.architectures.append(architecture)
        self.seconds[TIERS] += time.perf_counter() - start

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later run goes on from."""
        unread = self._unread
        return {
            "weights": self.weights.state_dict(),
            "task": self.task.state_dict(),
            "architectures": [a.state_dict() for a in self.architectures],
            "unread": None if unread is None else float(unread.read()),
            **{name: getattr(self, name) for name in _STATE},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From what `state_dict` gave, of a loop that was built alike."""
        self.weights.load_state_dict(state["weights"])
        self.task.load_state_dict(state.get("task", {}))  # earlier searches had none
        self._note_structure()
        for architecture, own in zip(self.architectures, state["architectures"], strict=True):
            architecture.load_state_dict(own)
        self._unread = None if state["unread"] is None else _Sent(torch.tensor(state["unread"]))
        for name in _STATE:
            setattr(self, name, state[name])


def _diverged(what: str, loss: float, step: int) -> DivergedError:
    return DivergedError(
        f"the search diverged: the loss of the {what} is {loss} at step {step}. Lower "
        "optim_wrapper.optimizer.lr; what was saved before can be resumed."
    )
