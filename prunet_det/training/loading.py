"""How data loaders work: their processes and memory, and the cache of decoded images."""

from __future__ import annotations

import os
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS

from prunet_det.utils.env import local_processes, usable_cores
from prunet_det.utils.errors import InputError

MAX_WORKERS = 16  # more feed no GPU faster, and each holds two batches in shared memory


def default_workers() -> int:
    """Returns the number of a loader's processes: all cores that there are but two, 1 to 16.

    One core is the training's own and one hands batches to the GPU. Processes of a distributed
    training share the cores of their machine.
    """
    cores, processes = usable_cores(), local_processes()
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun lets each process use all of them
        cores //= processes
    else:  # Slurm and Open MPI may have given each process cores of its own
        cores = min(cores, (os.cpu_count() or 1) // processes)
    return min(max(cores - 2, 1), MAX_WORKERS)


def set_loader_options(cfg: Config) -> None:
    """Fills in what a config does not say of its data loaders.

    They get `default_workers` processes, which stay between epochs, and with CUDA hand over
    batches in pinned memory. None of it changes what is trained.

    Args:
        cfg: Config; changed in place.
    """
    for split in ("train", "val", "test"):
        loader = cfg.get(f"{split}_dataloader")
        if not isinstance(loader, dict):
            continue
        loader.setdefault("num_workers", default_workers())
        kept = loader.get("persistent_workers", True)
        loader["persistent_workers"] = kept and loader["num_workers"] > 0  # PyTorch's condition
        loader.setdefault("pin_memory", torch.cuda.is_available())


def inner_dataset(dataset: Any) -> Any:
    """Returns the config of the data set that others, such as RepeatDataset, are made of."""
    while "dataset" in dataset:
        dataset = dataset["dataset"]
    return dataset


def set_cache(cfg: Config) -> None:
    """Keeps the training images in memory, decoded; see `SharedImages`.

    Args:
        cfg: Config; changed in place.

    Raises:
        InputError: If the config's data set has no cache.
    """
    dataset = inner_dataset(cfg.train_dataloader.dataset)  # what wraps it has none
    with DATASETS.switch_scope_and_registry(cfg.get("default_scope")) as registry:
        cls = registry.get(dataset.type)
    if not getattr(cls, "has_cache", False):
        raise InputError(
            f"the data set {dataset.type} has no cache; --cache is for CocoFolder, EmbeddedDataset "
            "and ImageFolder."
        )
    dataset.cache = True
