"""The package's own configs, tools and checkpoints, in a checkout and in a wheel alike.

They lie in `prunet_det/.mim`, where OpenMMLab's own commands look for them: links in a checkout,
files in a wheel.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from prunet_det.utils.errors import MissingFileError

FILES = Path(__file__).parent.parent / ".mim"


def package_file(path: str | os.PathLike[str]) -> Path:
    """Returns the path of a file or folder of the package, such as `configs/search/quick.py`.

    Raises:
        MissingFileError: If the package has no such file.
    """
    full = FILES / path
    if not full.exists():
        raise MissingFileError(f"prunet_det has no file {os.fspath(path)}.")
    return full


def find_config(path: str | os.PathLike[str]) -> Path:
    """Finds a config: at the path as given, or else among the package's own.

    Args:
        path: Path of a config. For the package's own, the path below `configs/` is enough, such as
            `search/quick.py`, or the name alone if no two configs have it.

    Returns:
        The config's path, or the path as given if there is no such file.
    """
    given = Path(path)
    if given.exists() or given.is_absolute():
        return given
    configs = FILES / "configs"
    for candidate in (FILES / given, configs / given):
        if candidate.is_file():
            return candidate
    if given.parent != Path("."):  # a folder that is not there is no reason to take another
        return given
    named = [p for p in configs.rglob(given.name) if "_base_" not in p.parts]
    return named[0] if len(named) == 1 else given


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Finds a file of weights: at the path as given, or else among the package's own.

    Args:
        path: Path of the file. For the package's own it is `checkpoints/NAME.safetensors`, in any
            folder.

    Returns:
        The file's path, or the path as given if there is no such file.
    """
    own = FILES / path
    return own if not os.path.exists(path) and own.is_file() else Path(path)


def relative_path(path: str | os.PathLike[str]) -> str:
    """Turns a path into one that holds on another machine too, for records.

    Args:
        path: Path, or any other word of a command line.

    Returns:
        `configs/...` or `tools/...` for the package's own files, a path relative to the current
        folder for others below it, and everything else as given.
    """
    full = Path(path).resolve()
    for folder in ("configs", "tools", "checkpoints"):
        root = (FILES / folder).resolve()
        if root in full.parents:
            return (folder / full.relative_to(root)).as_posix()
    if Path(path).is_absolute() and Path.cwd() in full.parents:
        return full.relative_to(Path.cwd()).as_posix()
    return os.fspath(path)


def recorded_command(command: Sequence[str]) -> str:
    """Writes a tool's command line as `python tools/TOOL.py ...`, for records.

    Args:
        command: Program and arguments, such as `sys.executable` and `sys.argv`.
    """
    words = list(command[1:])
    if words[:2] == ["-m", "prunet_det"]:
        words = [f"tools/{words[2]}.py", *words[3:]]
    return shlex.join(["python", *map(relative_path, words)])
