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
    return _read(Path(checkpoint).parent / TRAINING_FILE)


def read_card(checkpoint: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the card of weights, NAME.json beside them; returns an empty dict if there is none."""
    return _read(Path(checkpoint).with_suffix(".json"))


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
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
    classes = read_card(checkpoint).get("classes") or read_training(checkpoint).get("classes") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError(
            f"the classes in {Path(checkpoint).stem}.json or {TRAINING_FILE} beside {checkpoint} "
            f"must be a list of names, got {classes!r}."
        )
    return classes
