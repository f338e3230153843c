"""Tier 2: a layer as a mixture of the candidates that are left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prunet_det.search.prunode import Prunode
from prunet_det.search.space import LayerSpace

SKIP = "skip"


@dataclass(frozen=True)
class Part:
    """One candidate's part in a layer's mixture.

    Attributes:
        key: Of the candidate, or SKIP.
        weight: Its Gumbel-softmax weight, a scalar; None where it is the only one.
        pair: Inner widths of its two paths.
        share: Of the larger path, a scalar; None for one path.
    """

    key: str
    weight: torch.Tensor | None
    pair: tuple[int, int] = (0, 0)
    share: torch.Tensor | None = None


@dataclass(frozen=True)
class LayerMixture:
    """What a layer is in one step.

    Attributes:
        parts: Of the candidates.
        keep: Coefficient of the layer beside its skip, a scalar; None where there is no skip yet,
            or no more.
    """

    parts: Sequence[Part]
    keep: torch.Tensor | None = None


class SearchLayer(nn.Module):
    """The candidates of a layer.

    Args:
        space: Of the layer.
        bn_eps: Epsilon of the batch norms.

    Shapes:
        (N, in_chs, H, W) to (N, out_chs, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, space: LayerSpace, bn_eps: float = 1e-3) -> None:
        super().__init__()
        self.space = space
        self.candidates: Any = nn.ModuleDict(
            {
                str(i): Prunode(space.block(o, space.widths_of(o)[-1]), bn_eps)
                for i, o in enumerate(space.operators)
            }
        )

    def forward(self, x: torch.Tensor, mixture: LayerMixture) -> torch.Tensor:
        """Sum over the candidates of weight * (branch + its residual), mixed with the skip."""
        branches, shortcuts = [], []
        every_part_adds_x = True
        for part in mixture.parts:
            weight = part.weight
            if part.key == SKIP:
                shortcuts.append(weight)
                continue
            candidate = self.candidates[part.key]
            branch = candidate(x, part.pair, part.share)
            branches.append(branch if weight is None else weight * branch)
            if candidate.has_residual:
                shortcuts.append(weight)
            else:
                every_part_adds_x = False
        out = sum(branches[1:], branches[0]) if branches else torch.zeros_like(x)
        keep = mixture.keep
        if every_part_adds_x:  # the weights sum to one
            return x + (out if keep is None else keep * out)
        weights = [w for w in shortcuts if w is not None]
        if weights:
            out = out + sum(weights[1:], weights[0]) * x
        return out if keep is None else keep * out + (1 - keep) * x

    def restructure(self, widths: Mapping[str, int]) -> None:
        """Drops candidates that are not named and narrows the others.

        Args:
            widths: Candidate to the inner width that can still be chosen.
        """
        for key in list(self.candidates):
            if key not in widths:
                del self.candidates[key]
            elif 0 < widths[key] < self.candidates[key].spec.hidden:
                self.candidates[key].resize(widths[key])

    def structure(self) -> dict[str, int]:
        """Candidate to its inner width as `restructure` takes them."""
        return {key: candidate.spec.hidden for key, candidate in self.candidates.items()}
