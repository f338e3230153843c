"""A detector's data in a search: two halves of its training images, as batches without end."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from mmengine import dist
from mmengine.config import Config
from mmengine.registry import DATASETS, FUNCTIONS
from torch.utils.data import DataLoader

from prunet_det.datasets import ensure
from prunet_det.datasets.coco import read_coco
from prunet_det.datasets.split import halves, write_part
from prunet_det.search.tasks import ARCHITECTURE, WEIGHTS
from prunet_det.training.loading import inner_dataset
from prunet_det.training.repeatable import PlacedPermutations, PlacedSamples, make_repeatable
from prunet_det.utils.config import config_errors
from prunet_det.utils.errors import InputError
from prunet_det.utils.io import file_digest

JUDGED = "judged"  # images of the other half that mAP is taken of
_MOST_JUDGED = 500


class Stream:
    """Augmented batches without end, which go on where they stopped.

    Args:
        loader: The config's training loader.
        ann_file: Annotations of the images, in COCO's format.
        size: Images of a batch.
        seed: Seed of order and augmentation.
        done: Batches that were taken before.
        share: Number of this process, and of all, of which each takes its part of every batch.
    """

    def __init__(
        self,
        loader: Mapping[str, Any],
        ann_file: str,
        size: int,
        seed: int,
        done: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        dataset = copy.deepcopy(loader["dataset"])
        inner_dataset(dataset).update(ann_file=ann_file)
        with config_errors():
            samples = PlacedSamples(DATASETS.build(dataset), seed)
        order = PlacedPermutations(len(samples), size, seed, *share)
        order.batches_done = done
        collate = dict(loader.get("collate_fn") or {"type": "pseudo_collate"})
        function = FUNCTIONS.get(collate.pop("type"))
        self.size, self.done = size, done
        self._batches = iter(
            DataLoader(
                samples,
                batch_size=size,
                sampler=order,
                num_workers=loader["num_workers"],
                collate_fn=partial(function, **collate),
                pin_memory=loader["pin_memory"],
                worker_init_fn=_use_one_thread,
            )
        )

    def take(self, count: int) -> list[Any]:
        """The next batches, as the config collates them."""
        self.done += count
        return [next(self._batches) for _ in range(count)]


def _use_one_thread(_: int) -> None:
    cv2.setNumThreads(0)


def check_loaders(cfg: Config) -> None:
    """Refuses what the last tier could not train or judge, before the first step.

    Raises:
        InputError: The sentence says what to change.
    """
    evaluator = cfg.get("test_evaluator")
    if not isinstance(evaluator, Mapping) or not str(evaluator.get("type")).startswith("Coco"):
        raise InputError(
            "networks are judged by mAP: the detector's test_evaluator must be one "
            "CocoFolderMetric or CocoMetric."
        )
    if evaluator.get("format_only"):
        raise InputError("test_evaluator.format_only=True gives no mAP to judge networks by.")
    make_repeatable(copy.deepcopy(cfg), 0)  # which refuses other samplers
    dataset = inner_dataset(cfg.train_dataloader.dataset)
    if not str(dataset.get("ann_file", "")).endswith(".json"):
        raise InputError(
            "the search divides a detector's training data by their annotation file, in COCO's "
            f"format, and {dataset.get('type')} has none."
        )
    cached = [s["type"] for s in dataset.get("pipeline", ()) if str(s["type"]).startswith("Cached")]
    if cached:
        raise InputError(
            f"{cached[0]} keeps images from call to call, so that a search could not be resumed; "
            f"take {cached[0].removeprefix('Cached')} or leave it out."
        )


def split(dataset: Any, folder: Path, seed: int) -> tuple[dict[str, str], str]:
    """Writes the annotations of the two halves.

    Args:
        dataset: Config of the training data.
        folder: Where they go.
        seed: Seed of the halves.

    Returns:
        The files by name of the half, that of `judged` images too, and a digest of the data.
    """
    if dataset.get("type") == "EmbeddedDataset":
        ensure(dataset.name, dataset.data_root)
    root = Path(dataset.get("data_root") or "")
    source = root / dataset.ann_file
    content = read_coco(source, root / (dataset.get("data_prefix") or {}).get("img", ""))
    first, second = halves(content, seed)
    every = -(-len(second) // _MOST_JUDGED)
    files = {}
    for name, ids in ((WEIGHTS, first), (ARCHITECTURE, second), (JUDGED, second[::every])):
        files[name] = os.fspath((folder / f"{name}.json").resolve())
        if dist.is_main_process():
            write_part(content, ids, files[name])
    dist.barrier()
    return files, file_digest(source)
