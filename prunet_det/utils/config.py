"""Configs and other values that users write, with messages that name what is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import os
import traceback
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prunet_det.utils.errors import InputError, MissingFileError, UserError
from prunet_det.utils.options import check_options
from prunet_det.utils.package import find_config

if TYPE_CHECKING:
    from mmengine.config import Config

T = TypeVar("T")


def read_config(path: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Config:
    """Reads a config of MMEngine.

    Args:
        path: Path of the file, or of one of the package's own configs, see `find_config`. It
            is Python, and runs.
        options: Settings by dotted key, which override the file's.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If it, or a base of it, is not a valid config, or an option does not fit.
    """
    from mmengine.config import Config

    file = find_config(path)
    if not file.is_file():
        raise MissingFileError(f"there is no config file {os.fspath(path)}.")
    try:
        cfg = Config.fromfile(file, format_python_code=False)
        _remove_scope(cfg._cfg_dict)
    except Exception as e:  # its code may raise anything
        reason = str(e).rstrip(".") or type(e).__name__
        raise InputError(f"{os.fspath(path)} is no valid config: {reason}.") from e
    # A Runner writes its config six times before the first iteration, and laying it out with yapf
    # took longer than building the model. MMEngine drops the switch of `fromfile` on the way.
    object.__setattr__(cfg, "_format_python_code", False)
    if options:
        check_options(cfg, options)
    try:
        cfg.merge_from_dict(dict(options or {}))
    except (KeyError, TypeError, AttributeError) as e:
        keys = ", ".join(options or {})
        raise InputError(f"{os.fspath(path)} has no place for the option {keys}: {e}.") from e
    return cfg


# Files that check arguments of a config as they are handed over: MMEngine's registry and Runner,
# torch's samplers and loaders.
_ENTRANCES = (
    ("mmengine", "registry", "build_functions.py"),
    ("mmengine", "runner", "runner.py"),
    ("utils", "data", "sampler.py"),
    ("utils", "data", "dataloader.py"),
)
# Folders of classes whose constructors do: torch's optimizers and MMEngine's schedulers.
_CONSTRUCTORS = (("torch", "optim"), ("optim", "scheduler"))


@contextlib.contextmanager
def config_errors() -> Iterator[None]:
    """Raises as an InputError what the entrances say about a config's types and arguments.

    An error inside of something that they build or run stays as it is, except that a constructor
    was given a keyword that it does not have.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError) as e:
        if isinstance(e, UserError):
            raise
        *_, (last, _) = traceback.walk_tb(e.__traceback__)
        text = str(e.args[0] if isinstance(e, KeyError) and e.args else e)
        parts = Path(last.f_code.co_filename).parts
        entered = parts[-3:] in _ENTRANCES
        entered |= parts[-3:-1] in _CONSTRUCTORS and last.f_code.co_name == "__init__"
        if not entered and "__init__() got an unexpected keyword argument" not in text:
            raise
        reason = text.partition(". Please check")[0].rstrip(".")
        raise InputError(f"the config cannot be used: {reason}.") from e


def _remove_scope(value: Any) -> None:
    """Removes the scope that a base `prunet_det::...` gives: our types are in MMDetection's."""
    if isinstance(value, dict):
        if value.get("_scope_") == "prunet_det":
            del value["_scope_"]
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            _remove_scope(part)


def positive_int(value: Any, what: str) -> int:
    """Returns a positive integer as it is.

    Args:
        value: The value to check; bool and float are refused.
        what: Subject of the message, such as `the batch`.

    Raises:
        InputError: If it is not a positive integer.
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
        data: The value to check.
        known: Keys that it may have.
        required: Keys that it must have.
        where: Name of the mapping, with which the message begins, such as `stage 2`.
        error: Type of the exception to raise.

    Raises:
        error: If it is not a mapping, or a key is unknown or missing.
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
        data: Values by field name.
        where: Name of the mapping, with which the message begins.
        error: Type of the exception to raise if the keys are wrong.
    """
    fields = dataclasses.fields(cls)
    missing = dataclasses.MISSING
    required = [f.name for f in fields if f.default is missing and f.default_factory is missing]
    check_keys(data, [f.name for f in fields], required, where, error)
    return dict(data)


def from_mapping(cls: type[T], data: Any, where: str, error: type[Exception] = UserError) -> T:
    """Builds a dataclass from a mapping, once its keys are checked.

    Values of fields that are plain numbers, texts, flags or tuples are checked as well.

    Args:
        cls: The dataclass; fields without a default are required.
        data: Values by field name.
        where: Name of the mapping for messages, see `check_keys`.
        error: Type of the exception to raise, see `check_keys`.
    """
    values = field_values(cls, data, where, error)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in values and str(field.type).startswith("tuple["):
            if not isinstance(values[field.name], (list, tuple)):
                raise error(f"{where}: {field.name} must be a list, got {values[field.name]!r}.")
            continue
        kinds = str(field.type).split(" | ")
        if field.name not in values or not _PLAIN.keys() >= set(kinds):
            continue
        value = values[field.name]
        if not any(_is_plain(value, kind) for kind in kinds):
            wanted = " or ".join(_PLAIN[kind] for kind in kinds)
            raise error(f"{where}: {field.name} must be {wanted}, got {value!r}.")
    return cls(**values)


# Annotations whose values a file can hold as they are, and how a message calls them.
_PLAIN = {
    "int": "an integer",
    "float": "a finite number",
    "str": "a text",
    "bool": "true or false",
    "None": "nothing",
}


def _is_plain(value: Any, kind: str) -> bool:
    if isinstance(value, bool) or kind in ("bool", "None"):
        return type(value).__name__.removesuffix("Type") == kind
    if kind == "float":
        return isinstance(value, (int, float)) and math.isfinite(value)
    return isinstance(value, int if kind == "int" else str)
