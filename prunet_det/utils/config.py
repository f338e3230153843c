"""Values that people write: checked, with a sentence that names what is wrong."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from prunet_det.utils.errors import InputError, UserError

T = TypeVar("T")


def positive_int(value: Any, what: str) -> int:
    """Returns a positive integer as it is.

    Args:
        value: The number; a bool or a float is none.
        what: What it counts, to begin the sentence with: `the batch`.

    Raises:
        InputError: If it is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{what} must be a positive integer, got {value!r}.")
    return value


def check_keys(
    data: Any,
    known: Collection[str],
    required: Collection[str],
    where: str,
    error: type[Exception] = UserError,
) -> None:
    """Refuses a mapping that has an unknown key or lacks a required one.

    Args:
        data: The mapping.
        known: Keys that it may have.
        required: Keys that it must have.
        where: What the mapping is, to begin the sentence with: `stage 2`, `run.json`.
        error: Exception to raise.
    """
    if not isinstance(data, Mapping):
        raise error(f"{where}: expected an object with keys, got {type(data).__name__}.")
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise error(
                f"{where}: unknown key {key!r}; the known keys are {', '.join(known)}.{hint}"
            )
    for key in required:
        if key not in data:
            raise error(f"{where}: the key {key!r} is missing.")


def field_values(
    cls: type, data: Any, where: str, error: type[Exception] = UserError
) -> dict[str, Any]:
    """Returns a mapping as keyword arguments of a dataclass, once its keys are checked.

    Args:
        cls: The dataclass; fields without a default are required.
        data: Field name to value.
        where: As for `check_keys`.
        error: As for `check_keys`.
    """
    fields = dataclasses.fields(cls)
    missing = dataclasses.MISSING
    required = [f.name for f in fields if f.default is missing and f.default_factory is missing]
    check_keys(data, [f.name for f in fields], required, where, error)
    return dict(data)


def from_mapping(cls: type[T], data: Any, where: str, error: type[Exception] = UserError) -> T:
    """Builds a dataclass from a mapping; arguments as for `field_values`."""
    return cls(**field_values(cls, data, where, error))
