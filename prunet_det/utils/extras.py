"""Imports: packages of the extras, where they are used, and large ones without delay."""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Iterator
from types import ModuleType

from prunet_det.utils.errors import MissingPackageError


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Imports large packages without looking for garbage meanwhile.

    What they make stays, and Python's garbage collector would go through it again and again: a
    fifth of the time. It leaves what is there at the end alone for good.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def require(module: str, extra: str) -> ModuleType:
    """Imports a module of an optional package.

    Args:
        module: Its dotted name, such as `scipy.stats`.
        extra: The extra of prunet_det that installs it, such as `det`.

    Raises:
        MissingPackageError: If it cannot be imported; the sentence names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise MissingPackageError(
            f"{module} is needed and does not import ({e}): pip install 'prunet_det[{extra}]'."
        ) from e
