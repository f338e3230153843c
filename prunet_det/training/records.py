"""What the files beside weights say of their training."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from prunet_det.utils.errors import InputError

TRAINING_FILE = "train.json"


def read_training(checkpoint: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the train.json beside a checkpoint; returns an empty dict if there is none."""
    try:
        text = (Path(checkpoint).parent / TRAINING_FILE).read_text(encoding="utf-8")
        record = json.loads(text)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def read_classes(checkpoint: str | os.PathLike[str]) -> list[str]:
    """Reads the classes that weights were trained for, in the order of their labels.

    Args:
        checkpoint: Weights, beside the train.json of their training or with their own card.

    Returns:
        The names; empty if neither file is there.

    Raises:
        InputError: If the file says something else than a list of names.
    """
    card = Path(checkpoint).with_suffix(".json")
    try:
        own = json.loads(card.read_text(encoding="utf-8"))
        classes = own.get("classes") if isinstance(own, dict) else None
    except (OSError, ValueError):
        classes = None
    classes = classes or read_training(checkpoint).get("classes") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError(
            f"the classes in {card.name} or {TRAINING_FILE} beside {checkpoint} must be a list of "
            f"names, got {classes!r}."
        )
    return classes
