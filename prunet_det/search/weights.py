"""A supernet's weights: steps on paths or on mixtures, and what they say of networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from prunet_det.search.schedule import LoopSettings
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import Shape
from prunet_det.search.supernet import Choice, Mixture, Path, Structure, drop_parameters
from prunet_det.search.tasks import WEIGHTS, Batch, Task
from prunet_det.training.crops import sent
from prunet_det.training.ema import ForeachEMA

_MIXTURE, _PAIRS = 4, 5  # purposes of random numbers
_WIDEST = 8.0  # expansion of mixtures after the warm-up, at most
_GAP = 1.5  # between the middle of their two widths and either


def path_of(shapes: Shapes, shape: Shape) -> Path:
    """The way of a network through the supernet."""
    return Path(shape.operators, shapes.hidden(shape))


class WeightSteps:
    """Trains a supernet, step by step; several processes sum up their gradients.

    Args:
        model: The supernet, or a network around it, at its start.
        task: What it learns.
        shapes: Shapes of its space.
        settings: Batches and mixtures.
        optim_wrapper: mmengine's, for its optimizer, its clipping and its autocast.
        seed: Seed of the mixtures.

    Attributes:
        ema: Averaged weights.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        shapes: Shapes,
        settings: LoopSettings,
        optim_wrapper: OptimWrapper,
        seed: int,
    ) -> None:
        self.model, self.task, self.shapes, self.settings = model, task, shapes, settings
        self.optim_wrapper, self.seed = optim_wrapper, seed
        self.ema = ForeachEMA(model, momentum=settings.ema_momentum)
        self._rates = [group["lr"] for group in optim_wrapper.optimizer.param_groups]
        self._narrow = [shapes.nearest(e) for e in settings.warmup_expansions]

    def set_rate(self, factor: float) -> None:
        """Sets the learning rates to a share of what the optimizer was built with."""
        groups = self.optim_wrapper.optimizer.param_groups
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def on_paths(self, step: int, shapes: Sequence[Shape], input_size: int) -> Tensor:
        """One step on some paths, each on images of its own.

        Args:
            step: Its number, which gives the images.
            shapes: The paths.
            input_size: Side of the images that they are for, in pixels.

        Returns:
            The mean loss, on the device.
        """
        count, losses = len(shapes), []
        batches = self.task.batches(WEIGHTS, step, count, self.settings.batch, input_size)
        for shape, batch in zip(shapes, batches, strict=True):
            loss = self._loss(batch, path_of(self.shapes, shape)) / count
            loss.backward()  # one after the other: they keep the activations of one path
            losses.append(loss.detach())
        self._update()
        self.ema.update_parameters(self.model)
        return torch.stack(losses).sum()

    def _loss(self, batch: Batch, choice: Choice) -> Tensor:
        with self.optim_wrapper.optim_context(self.model):
            return self.task.loss(self.model, batch, choice)

    def on_mixture(self, step: int, left: np.ndarray, warmup: bool, input_size: int) -> Tensor:
        """One step on a random mixture of all candidates that are left.

        Args:
            step: Its number, which gives the images and the mixture.
            left: Candidates, bool (layers, operators).
            warmup: Whether this is the warm-up, with its batches and widths.
            input_size: Side of the images that the networks are for, in pixels.

        Returns:
            The loss, on the device.
        """
        size = self.settings.warmup_batch if warmup else self.settings.batch
        (batch,) = self.task.batches(WEIGHTS, step, 1, size, input_size)
        loss = self._loss(batch, self._mixture(step, left, warmup))
        loss.backward()
        self._update()
        if not warmup:
            self.ema.update_parameters(self.model)
        return loss.detach()

    def restructure(self, structure: Structure) -> None:
        """Cuts what a structure does not have from supernet, average and optimizer."""
        for model in (self.model, self.ema.module):
            self.task.supernet(model).restructure(structure)
        drop_parameters(self.optim_wrapper.optimizer, self.model.parameters())

    def _update(self) -> None:
        """One step of the optimizer on the gradients that there are."""
        optimizer, clip = self.optim_wrapper.optimizer, self.optim_wrapper.clip_grad_kwargs
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if dist.get_world_size() > 1:
            flat = torch.cat([g.reshape(-1) for g in gradients])
            dist.all_reduce(flat, "mean")
            parts = flat.split([g.numel() for g in gradients])
            views = [part.view(g.shape) for part, g in zip(parts, gradients, strict=True)]
            torch._foreach_copy_(gradients, views)
        if clip:
            clip_grad_norm_(self.model.parameters(), **clip, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _mixture(self, step: int, left: np.ndarray, warmup: bool) -> Mixture:
        """Random weights of the candidates, and of two widths each."""
        tau = self.settings.temperature
        rng = np.random.default_rng((self.seed, _MIXTURE, step))
        weights = np.where(left, np.exp(rng.gumbel(size=left.shape) / tau), 0.0)
        weights /= np.maximum(weights.sum(1, keepdims=True), 1e-12)
        shares = 1 / (1 + np.exp(-rng.logistic(size=left.shape) / tau))
        small, large = self._narrow
        if not warmup:  # all columns have to learn
            rng = np.random.default_rng((self.seed, _PAIRS, step))
            middle = math.exp(rng.uniform(0, math.log(_WIDEST)))
            small, large = (self.shapes.nearest(e) for e in (middle / _GAP, middle * _GAP))
        both = sent(np.stack((weights, shares)).astype(np.float32), self.task.device)
        return Mixture(weights=both[0], shares=both[1], small=small, large=large)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later run goes on from."""
        return {
            "structure": self.task.supernet(self.model).structure(),
            "supernet": self.model.state_dict(),
            "optimizer": self.optim_wrapper.optimizer.state_dict(),
            "ema": self.ema.module.state_dict(),
            "ema_steps": self.ema.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From what `state_dict` gave, of a supernet that was built alike."""
        self.restructure(state["structure"])
        self.model.load_state_dict(state["supernet"])
        self.optim_wrapper.optimizer.load_state_dict(state["optimizer"])
        self.ema.module.load_state_dict(state["ema"])
        self.ema.steps = state["ema_steps"].cpu()  # on a device, counting would wait for it


class Scorer:
    """Scores networks by the weights of a supernet.

    Args:
        model: The trained model.
        task: What it has learned.
        shapes: Shapes of its space.
        context: What a forward pass runs in, such as `OptimWrapper.optim_context`.
        images: Number of images of `score` at most.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        shapes: Shapes,
        context: Callable[[nn.Module], AbstractContextManager[Any]],
        images: int,
    ) -> None:
        self.model, self.task, self.shapes = model, task, shapes
        self.context, self.images = context, images

    @torch.no_grad()
    def losses(self, shapes: Sequence[Shape], batch: Batch) -> Tensor:
        """Losses of networks on one batch.

        Args:
            shapes: Networks of which no candidate has left.
            batch: One of the task's.

        Returns:
            Mean losses, (networks,), on the device.
        """
        with self.context(self.model):
            return torch.stack(
                [self.task.loss(self.model, batch, path_of(self.shapes, s)) for s in shapes]
            )

    @torch.no_grad()
    def evaluate(
        self, shapes: Sequence[Shape], images: int | None = None, input_size: int = 0
    ) -> np.ndarray:
        """Losses and hits of networks on the same samples.

        Args:
            shapes: Networks of which no candidate has left.
            input_size: Side of the images that they are for, in pixels; that of the shapes by
                default.
            images: Number of samples at most, in whole batches; None for all.

        Returns:
            Losses and whether networks were right, (2, networks, samples).
        """
        batches: list[Tensor] = []
        for batch in self.task.scored(input_size or self.shapes.costs.input_size):
            if images is not None and sum(found.shape[-1] for found in batches) >= images:
                break
            with self.context(self.model):
                found = [
                    self.task.losses(self.model, batch, path_of(self.shapes, s)) for s in shapes
                ]
            batches.append(torch.stack(found, 1))
        return torch.cat(batches, 2).cpu().numpy().astype(float)

    def score(self, shapes: Sequence[Shape], input_size: int = 0) -> np.ndarray:
        """Mean losses as of `evaluate`, (networks,); infinite where a candidate has left."""
        structure = self.task.supernet(self.model).structure()
        losses = np.full(len(shapes), np.inf)
        known = [
            i
            for i, shape in enumerate(shapes)
            if all(o < 0 or o in left for o, left in zip(shape.operators, structure, strict=True))
        ]
        if known:
            losses[known] = self.evaluate([shapes[i] for i in known], self.images, input_size)[
                0
            ].mean(1)
        return losses
