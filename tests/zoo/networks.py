"""Networks for tests."""

from __future__ import annotations

from typing import Any

import timm
import torch


def on_meta(name: str, **kwargs: Any) -> Any:
    """A network without memory or arithmetic: shapes, names and counts only."""
    with torch.device("meta"):
        return timm.create_model(name, **kwargs).eval()
