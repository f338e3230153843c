"""Networks for tests."""

from __future__ import annotations

import os
from typing import Any

import timm
import torch

import prunet_det


def on_meta(name: str, **kwargs: Any) -> Any:
    """A network without memory or arithmetic: shapes, names and counts only."""
    with torch.device("meta"):
        return timm.create_model(name, **kwargs).eval()


def representatives() -> list[str]:
    """Networks that together have every kind of block, stem and tail of the zoo.

    For checks that compute, and depend on the kinds alone. PRUNET_WHOLE_ZOO=1 runs them on all.
    """
    names = prunet_det.model_names()
    if os.environ.get("PRUNET_WHOLE_ZOO"):
        return names
    left = {name: _kinds(prunet_det.load_spec(name)) for name in names}
    chosen = []
    while any(left.values()):
        best = max(names, key=lambda n: len(left[n]) / len(prunet_det.load_spec(n).blocks))
        chosen.append(best)
        covered = left[best]
        left = {name: kinds - covered for name, kinds in left.items()}
    return chosen


def _kinds(spec: prunet_det.ArchSpec) -> set[tuple[Any, ...]]:
    kinds: set[tuple[Any, ...]] = {("stem", len(spec.stem.widths)), ("tail", spec.tail.hidden > 0)}
    for b in spec.blocks:
        kinds |= {
            (b.kind, b.stride, b.se > 0),
            (b.kind, b.act),
            (b.kind, "residual", b.has_residual),
        }
        kinds |= {("kernel", b.kernel), ("padding", b.padding)}
    return kinds
