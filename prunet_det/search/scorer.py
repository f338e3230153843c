"""How good a supernet's weights make a network: forward passes alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from prunet_det.search.shapes import Shape, Shapes
from prunet_det.search.supernet import SuperNet
from prunet_det.training.crops import DeviceCrops

_BATCH = 256  # crops whose statistics normalise


class Scorer:
    """Scores networks by the weights of a supernet.

    Args:
        net: The supernet.
        shapes: Shapes of its space.
        crops: Images that the weights do not learn from.
        context: What a forward pass runs in, such as `OptimWrapper.optim_context`.
        images: Number of crops of `score` at most.
    """

    def __init__(
        self,
        net: SuperNet,
        shapes: Shapes,
        crops: DeviceCrops,
        context: Callable[[SuperNet], AbstractContextManager[Any]],
        images: int,
    ) -> None:
        self.net, self.shapes, self.crops = net, shapes, crops
        self.context, self.images = context, images

    @torch.no_grad()
    def _logits(self, shape: Shape, images: Tensor) -> Tensor:
        with self.context(self.net):
            return self.net(images, shape.operators, self.shapes.hidden(shape)).float()

    def losses(self, shapes: Sequence[Shape], images: Tensor, labels: Tensor) -> Tensor:
        """Losses on one batch, (networks,), on the device."""
        return torch.stack([cross_entropy(self._logits(s, images), labels) for s in shapes])

    def evaluate(self, shapes: Sequence[Shape], images: int | None = None) -> np.ndarray:
        """Losses and hits on crops that are not augmented.

        Args:
            shapes: Networks of which no candidate has left.
            images: Number of crops at most, in whole batches; None for all.

        Returns:
            Losses and whether the label was found, (2, networks, crops).
        """
        batches: list[Tensor] = []
        for number, (batch, labels) in enumerate(self.crops.scored(_BATCH)):
            if images is not None and number * _BATCH >= images:
                break
            found = []
            for shape in shapes:
                logits = self._logits(shape, batch)
                losses = cross_entropy(logits, labels, reduction="none")
                found.append(torch.stack((losses, (logits.argmax(1) == labels).float())))
            batches.append(torch.stack(found, 1))
        return torch.cat(batches, 2).cpu().numpy().astype(float)

    def is_known(self, shape: Shape) -> bool:
        """Whether the supernet still has all candidates of a network."""
        structure = self.net.structure()
        return all(o < 0 or o in left for o, left in zip(shape.operators, structure, strict=True))

    def score(self, shapes: Sequence[Shape]) -> np.ndarray:
        """Mean losses as of `evaluate`, (networks,); infinite where a candidate has left."""
        known = [self.is_known(shape) for shape in shapes]
        losses = np.full(len(shapes), np.inf)
        if any(known):
            asked = [shape for shape, there in zip(shapes, known, strict=True) if there]
            losses[known] = self.evaluate(asked, self.images)[0].mean(1)
        return losses
