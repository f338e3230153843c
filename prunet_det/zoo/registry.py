"""From a name, a file or a dict to the ArchSpec that it means."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from prunet_det.arch.spec import ArchSpec

SPEC_DIR = Path(__file__).parent / "specs"
ALIASES = {"gpunet_p0": "prunet_p0", "gpunet_p1": "prunet_p1"}


class UnknownModelError(KeyError, ValueError):
    """A name that no spec file has; the sentence lists the known names."""

    def __str__(self) -> str:
        return str(self.args[0])


@cache
def model_names() -> tuple[str, ...]:
    """Names of the spec files, without aliases."""
    return tuple(sorted(path.stem for path in SPEC_DIR.glob("*.json")))


@cache
def load_spec(name: str) -> ArchSpec:
    """The spec of a named network or alias.

    Raises:
        UnknownModelError: No network has this name.
    """
    known = model_names()
    stem = ALIASES.get(name, name)
    if stem not in known:
        near = difflib.get_close_matches(name, (*known, *ALIASES), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownModelError(
            f"there is no network {name!r}; the known ones are {', '.join(known)}.{hint}"
        )
    return ArchSpec.load(SPEC_DIR / f"{stem}.json")


def resolve_spec(arch: str | os.PathLike[str] | Mapping[str, Any] | ArchSpec) -> ArchSpec:
    """The spec that `arch` means: a name, the path of a spec file (*.json), a dict, or a spec.

    Raises:
        UnknownModelError: A name that is not known.
        FileNotFoundError, SpecError: See ArchSpec.load.
    """
    if isinstance(arch, ArchSpec):
        return arch
    if isinstance(arch, Mapping):
        return ArchSpec.from_dict(arch)
    text = os.fspath(arch)
    if text.endswith(".json") or os.sep in text:
        return ArchSpec.load(text)
    return load_spec(text)
