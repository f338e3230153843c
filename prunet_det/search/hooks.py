"""What accompanies a search's loop: a bar, the history of its plots, checkpoints, Ctrl-C.

A hook is called before the first step of a run, after every step and after the last. What a hook
has to remember goes into the checkpoint by its `state_dict`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from mmengine import dist

from prunet_det.search.evolution import Region, evolve
from prunet_det.search.space import Shape
from prunet_det.training.checkpoints import is_whole
from prunet_det.training.divergence import DivergedError
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import atomic_path
from prunet_det.zoo.weights import not_finite

if TYPE_CHECKING:
    from prunet_det.search.architecture import Architecture
    from prunet_det.search.loop import SearchLoop

logger = logging.getLogger(__name__)

_MOST_RECORDS = 400


class SearchHook:
    """Something that accompanies a loop; does nothing by itself."""

    def before_run(self, loop: SearchLoop) -> None:
        """Called before the first step, once a resumed loop is at its place."""

    def after_step(self, loop: SearchLoop) -> None:
        """Called after every step, which `loop.step` counts already."""

    def after_run(self, loop: SearchLoop) -> None:
        """Called after the last step, or after the one that `loop.stop` ended."""

    def state_dict(self) -> dict[str, Any]:
        """What the hook remembers, for a checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what `state_dict` gave."""


class HistoryHook(SearchHook):
    """Notes what the architectures prefer, for the report, and losses, for TensorBoard.

    Args:
        folder: Folder of TensorBoard's events; None writes none.

    Attributes:
        records: What `Architecture.record` gave by budget, and the `step`, every so many steps of
            the tiers; there are never more than 400, since each second one goes when there are.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.records: list[dict[str, Any]] = []
        self.interval = 1
        self._folder = folder
        self._board: Any = None
        self._phase = ""

    def before_run(self, loop: SearchLoop) -> None:
        """Opens TensorBoard's file."""
        if self._folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(os.fspath(self._folder))

    def after_step(self, loop: SearchLoop) -> None:
        """Notes a step, if it is one to be noted."""
        if loop.phase != self._phase:
            self._phase = loop.phase
            logger.info("step %d: %s", loop.step, loop.phase)
        if loop.step % self.interval:
            return
        if self._board is not None:
            for name, loss in loop.losses.items():
                self._board.add_scalar(f"{name}_loss", loss, loop.step)
            parameters = sum(p.numel() for p in loop.model.parameters())
            self._board.add_scalar("parameters", parameters, loop.step)
        if loop.phase in ("tiers", "done"):  # before, nothing is preferred
            preferred = {a.name: a.record() for a in loop.architectures}
            self.records.append({"step": loop.step, **preferred})
        if len(self.records) >= _MOST_RECORDS:
            self.interval *= 2
            self.records = [r for r in self.records if r["step"] % self.interval == 0]

    def after_run(self, loop: SearchLoop) -> None:
        """Closes TensorBoard's file."""
        if self._board is not None:
            self._board.close()
            self._board = None

    def state_dict(self) -> dict[str, Any]:
        """The records and their interval."""
        return {"records": self.records, "interval": self.interval}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the records of a checkpoint."""
        self.records, self.interval = list(state["records"]), state["interval"]


class BarHook(SearchHook):
    """A progress bar."""

    def before_run(self, loop: SearchLoop) -> None:
        """Shows the bar."""
        from tqdm import tqdm

        self._bar = tqdm(total=loop.most_steps, initial=loop.step, desc="search", unit="step")

    def after_step(self, loop: SearchLoop) -> None:
        """Moves the bar."""
        self._bar.total = loop.most_steps
        self._bar.set_postfix_str(loop.postfix, refresh=False)
        self._bar.update(loop.step - self._bar.n)

    def after_run(self, loop: SearchLoop) -> None:
        """Removes the bar."""
        self._bar.close()


class EvolutionHook(SearchHook):
    """Lets evolution choose on the supernet, just before the first candidate leaves it.

    Args:
        evaluations: Networks that are scored for each budget.
        kept: Number of the best ones that are remembered; 0 for no evolution.

    Attributes:
        found: The best networks of each architecture by its name, the best first.
    """

    def __init__(self, evaluations: int, kept: int) -> None:
        self.evaluations, self.kept = evaluations, kept
        self.found: dict[str, list[Shape]] = {}

    def after_step(self, loop: SearchLoop) -> None:
        """Evolves once, for all budgets, before the step's checkpoint is written."""
        if loop.phase in ("tiers", "done") and not self.found:
            for architecture in loop.architectures:
                self.evolve(loop, architecture)

    def evolve(self, loop: SearchLoop, architecture: Architecture) -> None:
        """Evolves networks of one budget from random ones."""
        if not self.kept:
            return
        start = time.perf_counter()
        region = Region(shapes=architecture.shapes, ms=architecture.budget_ms, live=loop.left)
        score = partial(loop.scorer.score, input_size=architecture.input_size)
        scored = evolve(region, score, loop.seed, self.evaluations)
        self.found[architecture.name] = [one.shape for one in scored[: self.kept]]
        seconds = time.perf_counter() - start
        loop.seconds["evolution"] = loop.seconds.get("evolution", 0.0) + seconds
        logger.info(
            "%s ms: evolution's best network has loss %.3f", architecture.name, scored[0].loss
        )

    def state_dict(self) -> dict[str, Any]:
        """The networks."""
        return {ms: [shape.to_dict() for shape in found] for ms, found in self.found.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the networks of a checkpoint."""
        self.found = {ms: [Shape(**values) for values in found] for ms, found in state.items()}


class CheckpointHook(SearchHook):
    """Writes the whole state of a search to one file, which is replaced when the new one is whole.

    Args:
        path: The file.
        identity: What a resumed search must agree on, by name.
        interval: Steps between checkpoints.
        hooks: Hooks whose state belongs to the search, by name.
        command: Command that the search was started with, and those that added budgets to it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        identity: Mapping[str, Any],
        interval: int,
        hooks: Mapping[str, SearchHook],
        command: str = "",
    ) -> None:
        self.path, self.identity = os.fspath(path), dict(identity)
        self.interval, self.hooks, self.command = interval, dict(hooks), command
        self._saved = -1  # the step of the last save

    def after_step(self, loop: SearchLoop) -> None:
        """Saves a checkpoint if one is due."""
        if loop.step % self.interval == 0:
            self.save(loop)

    def after_run(self, loop: SearchLoop) -> None:
        """Saves the last checkpoint, unless its step was due."""
        if self._saved != loop.step:
            self.save(loop)

    def save(self, loop: SearchLoop) -> None:
        """Writes the checkpoint, in the main process.

        Raises:
            DivergedError: If weights are not finite; the checkpoint before stays.
        """
        if not dist.is_main_process():
            return
        names = not_finite(loop.model.state_dict())
        if names:
            raise DivergedError(
                f"the search diverged: {len(names)} tensors ({names[0]}, ...) are not finite at "
                f"step {loop.step}. Lower optim_wrapper.optimizer.lr; {self.path} has what was "
                "saved before."
            )
        state = {
            "identity": self.identity,
            "command": self.command,
            "budgets_ms": list(dict.fromkeys(a.budget_ms for a in loop.architectures)),
            "loop": loop.state_dict(),
            "hooks": {name: hook.state_dict() for name, hook in self.hooks.items()},
        }
        with atomic_path(self.path) as temporary:
            torch.save(state, temporary)
        self._saved = loop.step

    def read(self) -> dict[str, Any] | None:
        """Reads the checkpoint, on the CPU; None where there is none.

        Raises:
            UserError: If it is damaged, or of another search; the sentence says what differs.
        """
        if not os.path.exists(self.path):
            return None
        state = read_checkpoint(self.path)
        for key, value in self.identity.items():
            before = state["identity"].get(key)
            if before != value:
                raise UserError(
                    f"the search to resume has another {key} ({before}, not {value}); use another "
                    "folder, or resume it as it was started: "
                    f"{state['command'] or 'its command is not known'}"
                )
        return state

    def load(self, loop: SearchLoop, state: Mapping[str, Any]) -> None:
        """Brings a loop and the hooks to a checkpoint.

        Args:
            loop: Loop that was built alike.
            state: What `read` gave.
        """
        self.command = state["command"]
        loop.load_state_dict(state["loop"])
        for name, hook in self.hooks.items():
            if name in state["hooks"]:  # a search without evolution did not always have its hook
                hook.load_state_dict(state["hooks"][name])


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what a CheckpointHook wrote, on the CPU.

    Raises:
        UserError: If the file is damaged, or something else.
    """
    if not is_whole(path):
        raise UserError(f"{path} is damaged; give another --out to search anew.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        state = None
    if not isinstance(state, dict) or "identity" not in state:
        raise UserError(f"{path} is no checkpoint of a search.")
    return state


@contextlib.contextmanager
def ending_in_order(loop: SearchLoop) -> Iterator[None]:
    """Lets the first Ctrl-C end a loop after its step, and the second one at once.

    One of several processes must not stop while the others go on: there, the first ends all.
    """
    if dist.is_distributed():
        yield
        return

    def interrupt(*_: Any) -> None:
        loop.stop = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
