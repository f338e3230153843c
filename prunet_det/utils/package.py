"""The package's own configs, tools and checkpoints, in a checkout and in a wheel alike.

They lie in `prunet_det/.mim`, where OpenMMLab's own commands look for them: links in a checkout,
files in a wheel.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from prunet_det.utils.errors import MissingFileError

FILES = Path(__file__).parent.parent / ".mim"


def package_file(path: str | os.PathLike[str]) -> Path:
    """Path of a file or folder of the package, such as `configs/search/quick.py`.

    Raises:
        FileNotFoundError: The package has no such file.
    """
    found = FILES / path
    if not found.exists():
        raise MissingFileError(f"prunet_det has no file {os.fspath(path)}.")
    return found


def find_config(path: str | os.PathLike[str]) -> Path:
    """Path of a config, looked up as given, and then among the package's own.

    Args:
        path: A path. Of the package's configs, the path below `configs/` or the mere name will do:
            `search/quick.py`, or `quick.py` where no two configs have that name.

    Returns:
        The file's path, or the path as given where there is no such file anywhere.
    """
    given = Path(path)
    if given.exists() or given.is_absolute():
        return given
    configs = FILES / "configs"
    for found in (FILES / given, configs / given):
        if found.is_file():
            return found
    named = [p for p in configs.rglob(given.name) if "_base_" not in p.parts]
    return named[0] if len(named) == 1 else given


def relative_path(path: str | os.PathLike[str]) -> str:
    """A path as a record states it: it holds on another machine too.

    Args:
        path: Any word of a command line.

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


def tool_command(tool: str, *args: object) -> tuple[str, ...]:
    """The command line that runs a tool, from whatever folder.

    Args:
        tool: Name of a file of tools/, without its suffix.
        args: Arguments of the tool, in their order.
    """
    return (sys.executable, "-m", "prunet_det", tool, *map(str, args))


def recorded_command(command: Sequence[str]) -> str:
    """A tool's command line as a record states it: `python tools/TOOL.py ...`.

    Args:
        command: Program and arguments, as `tool_command` gives them or `sys.argv` has them.
    """
    words = list(command[1:])
    if words[:2] == ["-m", "prunet_det"]:
        words = [f"tools/{words[2]}.py", *words[3:]]
    return shlex.join(["python", *map(relative_path, words)])
