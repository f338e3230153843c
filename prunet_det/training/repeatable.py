"""Trainings and searches that give the same bytes however often they were interrupted.

mmengine brings a resumed sampler to its place, but the augmentation in the data loader's processes
starts from its seed again. Here the randomness of a sample depends on its place in the stream of
samples alone, so that neither an interruption nor the number of processes changes the data.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS
from mmengine.runner import Runner
from torch.utils.data import Dataset, Sampler

from prunet_det.utils.errors import InputError, UserError


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the CPU's random generators within a block, and restores their state after it.

    Args:
        seed: Any integer, of which the last 32 bits are used.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed %= 2**32
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed asks every device
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


@contextlib.contextmanager
def one_thread(on_cpu: bool = True) -> Iterator[None]:
    """Has PyTorch use one thread within a block, so that sums do not depend on how many there are.

    Args:
        on_cpu: Whether the block computes on a CPU; elsewhere threads stay as they are.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if on_cpu else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def random_state() -> dict[str, Any]:
    """Returns the state of all random generators that this process draws from.

    Of GPUs it is the current one's: every process of a distributed training has a GPU of its own,
    and all have the same seed.
    """
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restores a state of `random_state`; that of a GPU only where there is one.

    Raises:
        UserError: If the state is of an earlier version of the package.
    """
    if "torch" not in state:
        raise UserError(
            "the checkpoint's random states are of an earlier prunet_det; start the training anew."
        )
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu())
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])


@DATASETS.register_module()
class PlacedSamples(Dataset[Any]):
    """A data set whose augmentation is seeded anew for each place in the stream of samples.

    An item's index is `place * len(dataset) + index`, as the samplers of this module give it.

    Args:
        dataset: Data set, or its config.
        seed: Seed of the training.
    """

    def __init__(self, dataset: Any, seed: int = 0) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, code: int) -> Any:
        place, index = divmod(int(code), len(self))
        with seeded(int(np.random.SeedSequence([self.seed, place]).generate_state(1)[0])):
            return self.dataset[index]

    def get_data_info(self, code: int) -> Any:
        """Returns the data set's information about an item, for samplers that group by shape."""
        return self.dataset.get_data_info(int(code) % len(self))

    def full_init(self) -> None:
        """Loads the annotations; mmengine's second step of building a data set."""
        self.dataset.full_init()

    @property
    def metainfo(self) -> dict[str, Any]:
        """Meta information of the data set, such as its classes."""
        return self.dataset.metainfo


@DATA_SAMPLERS.register_module()
class PlacedInfiniteSampler(InfiniteSampler):
    """mmengine's InfiniteSampler, with the place in the stream in each index."""

    def _infinite_indices(self) -> Iterator[int]:
        for place, index in enumerate(super()._infinite_indices()):
            yield place * self.size + index


@DATA_SAMPLERS.register_module()
class PlacedSampler(DefaultSampler):
    """mmengine's DefaultSampler, with the place in the stream of all epochs in each index."""

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.total_size + self.rank
        for i, index in enumerate(super().__iter__()):
            yield (first + i * self.world_size) * len(self.dataset) + index


class PlacedPermutations(Sampler[int]):
    """An endless stream of permutations, as indices of PlacedSamples.

    Each process takes its part of every batch.

    Args:
        length: Number of samples of the data set.
        batch_size: Number of samples in a batch of one process.
        seed: Seed of the permutations.
        rank: Number of the process.
        world_size: Number of processes.

    Attributes:
        batches_done: Number of batches to skip; set it to resume.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.batches_done = 0

    def __iter__(self) -> Iterator[int]:
        known = -1
        order: np.ndarray = np.empty(0, int)
        for batch in itertools.count(self.batches_done):
            first = (batch * self.world_size + self.rank) * self.batch_size
            for place in range(first, first + self.batch_size):
                turn, offset = divmod(place, self.length)
                if turn != known:
                    known = turn
                    order = np.random.default_rng((self.seed, turn)).permutation(self.length)
                yield place * self.length + int(order[offset])

    def __len__(self) -> int:
        return 2**31  # without end


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Saves the state of all random generators, and restores it in a resumed training."""

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Adds the state to a checkpoint.

        Args:
            runner: Runner of the training.
            checkpoint: Content of the checkpoint; changed in place.
        """
        checkpoint["random_state"] = random_state()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Reads the state of a resumed training.

        Args:
            runner: Runner of the training.
            checkpoint: Content of the checkpoint.
        """
        if runner._resume:
            self._state = checkpoint.get("random_state")

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Restores the state once, after the data loader has drawn its own seed.

        Args:
            runner: Runner of the training.
            batch_idx: Not used.
            data_batch: Not used.
        """
        if self._state is not None:
            set_random_state(self._state)
        self._state = None


def make_repeatable(cfg: Config, seed: int) -> None:
    """Changes a config so that an interrupted and resumed training gives the same weights.

    Args:
        cfg: Config with mmengine's InfiniteSampler or DefaultSampler; changed in place.
        seed: Seed of everything random.

    Raises:
        InputError: If the config has another sampler.
    """
    cfg.randomness = dict(seed=seed)
    placed = {"InfiniteSampler": "PlacedInfiniteSampler", "DefaultSampler": "PlacedSampler"}
    sampler = cfg.train_dataloader.sampler
    if sampler.type not in placed:
        raise InputError(
            f"the training's sampler must be one of {', '.join(placed)}, got {sampler.type}."
        )
    sampler.type = placed[sampler.type]
    cfg.train_dataloader.dataset = dict(
        type="PlacedSamples", dataset=cfg.train_dataloader.dataset, seed=seed
    )
    cfg.setdefault("custom_hooks", [])
    cfg.custom_hooks.append(dict(type="RandomStateHook"))
