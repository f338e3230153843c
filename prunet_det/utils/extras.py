"""Packages of the extras, imported where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

from prunet_det.utils.errors import MissingPackageError


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
