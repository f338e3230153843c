"""The two halves of the training data, read so that a position alone says what comes.

Item number p of a search is always the same image under the same augmentation, whichever worker
reads it and however often the search was interrupted: p gives the epoch's permutation and the seed.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.registry import DATASETS
from torch.utils.data import DataLoader, Dataset

from prunet_det.classification.data import imagenet_statistics, normalized
from prunet_det.search.crops_on_device import PARTS, halves, kept_classes
from prunet_det.training.repeatable import Positions, seeded
from prunet_det.utils.errors import UserError


class SearchData(Dataset[dict[str, Any]]):
    """One half of a labelled set, as an endless sequence of augmented items.

    Args:
        base: A set of `prunet_det.classification`, with `labels` and `metainfo`.
        part: `weights` or `architecture`: which half.
        seed: Of the split, the order and the augmentation.
        classes: Keep these classes only, by name or as a number of the first ones.

    Raises:
        UserError: An unknown class, or less than two, more than there are, or one of less than two
            images.
    """

    def __init__(
        self, base: Any, part: str, seed: int, classes: Sequence[str] | int | None = None
    ) -> None:
        names = tuple(base.metainfo["classes"])
        kept = kept_classes(names, classes)
        self._base, self._seed, self._part = base, seed, PARTS.index(part)
        self._label_of = {names.index(name): i for i, name in enumerate(kept)}
        self.metainfo = {"classes": kept}
        labels = np.asarray(base.labels)
        chosen = np.flatnonzero(np.isin(labels, list(self._label_of)))
        for name in kept:
            count = int((labels == names.index(name)).sum())
            if count < len(PARTS):
                raise UserError(
                    f"the search data has {count} of the class {name!r}; the search splits its "
                    "images in two halves and needs one of each class in both: give more of it, "
                    "or leave it out by naming the others (--classes)."
                )
        self._indices = halves(chosen, labels, seed)[self._part]
        self._epoch, self._order = -1, np.array([], int)
        self._statistics = imagenet_statistics()

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def data_hash(self) -> str:
        """A digest of the data."""
        return str(self._base.data_hash)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """`inputs`, (3, H, W), and `labels` of a position, which may be any number."""
        epoch, offset = divmod(position, len(self))
        if epoch != self._epoch:
            seeds = (self._seed, self._part, epoch)
            self._epoch = epoch
            self._order = np.random.default_rng(seeds).permutation(len(self))
        index = int(self._indices[self._order[offset]])
        with seeded((self._seed * len(PARTS) + self._part) * 1_000_003 + position):
            item = self._base[index]
        inputs = normalized(item["inputs"], *self._statistics)
        return {"inputs": inputs, "labels": self._label_of[item["labels"]]}


def _leave_interrupts_to_the_main_process(_: int) -> None:
    """Ctrl-C reaches every process of a terminal; the main one ends the search in good order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def search_loader(
    config: Mapping[str, Any],
    part: str,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[dict[str, Any]]:
    """A loader of one half.

    Args:
        config: `dataset` (of the registry), `batch_size`, `num_workers` and, optionally, `classes`.
        part, seed: As of SearchData.
        rank, world_size: As of Positions.

    Raises:
        ValueError, FileNotFoundError, UserError: Of the data.
    """
    data = SearchData(DATASETS.build(config["dataset"]), part, seed, config.get("classes"))
    batch, workers = config["batch_size"], config.get("num_workers", 0)
    return DataLoader(
        data,
        batch_size=batch,
        sampler=Positions(batch, rank, world_size),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=_leave_interrupts_to_the_main_process,
        drop_last=True,
    )


def scoring_loader(
    config: Mapping[str, Any], transform: Mapping[str, Any], part: str, seed: int
) -> DataLoader[dict[str, Any]]:
    """A loader that reads every image of one half once, without augmentation.

    Args:
        config: As of `search_loader`.
        transform: Of the evaluation.
        part, seed: As of SearchData.
    """
    dataset = dict(config["dataset"], transform=dict(transform))
    data = SearchData(DATASETS.build(dataset), part, seed, config.get("classes"))
    return DataLoader(data, batch_size=256, num_workers=0)
