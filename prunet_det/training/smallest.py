"""Batch norms want more than one value to average, of the smallest batch too."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner

from prunet_det.utils.errors import UserError


def check_smallest_batch(runner: Runner) -> None:
    """Runs a detector's network without memory on its smallest batch, if that has one image.

    The size of images is known where a step of the pipeline gives all of them one, as
    RandomScaleCrop does with a `pad_val`. Elsewhere `norm_errors` says what has happened.

    Raises:
        UserError: If a batch norm would have one value.
    """
    loader = runner.train_loop.dataloader
    model: Any = runner.model.module if is_model_wrapper(runner.model) else runner.model
    batches = loader.batch_sampler  # also a config's own, of which the loader knows no size
    batch = getattr(batches, "batch_size", None)
    size = _image_size(loader.dataset)
    if batch is None or size is None or not hasattr(model, "network"):
        return
    rest = 0
    if isinstance(runner.train_loop, EpochBasedTrainLoop) and not batches.drop_last:
        rest = len(batches.sampler) % batch
    if (rest or batch) > 1:
        return
    divisor = getattr(model.data_preprocessor, "pad_size_divisor", 1)
    height, width = (side + -side % divisor for side in size)
    network = copy.deepcopy(model).to("meta").train()
    with norm_errors(f" of {width} x {height} px"), torch.no_grad(), torch.device("meta"):
        type(network).network(network, torch.empty(1, 3, height, width))


@contextlib.contextmanager
def norm_errors(size: str = "") -> Iterator[None]:
    """Raises as a UserError that a batch norm has one value.

    Args:
        size: What is known of the image's size, for the sentence.
    """
    try:
        yield
    except ValueError as e:
        if "more than 1 value per channel" not in str(e):
            raise
        raise UserError(
            f"a batch of one image{size} leaves a batch norm one value to average. Train on larger "
            "images, with another train_dataloader.batch_size, or where only the last batch is one "
            "image with train_dataloader.drop_last=True; or keep the norms' statistics "
            "(model.norm_eval=True model.backbone.norm_eval=True)."
        ) from e


def _image_size(dataset: Any) -> tuple[int, int] | None:
    """Finds height and width of all training images, if the pipeline gives them one size."""
    while not hasattr(dataset, "pipeline") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    steps = getattr(getattr(dataset, "pipeline", None), "transforms", ())
    sizes = [step.output_size for step in steps if hasattr(step, "output_size")]
    return sizes[-1] if sizes else None
