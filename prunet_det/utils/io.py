"""Atomic files, digests, locks, and tables."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prunet_det.utils.env import environment
from prunet_det.utils.errors import InputError, MissingFileError, UserError

PathLike = str | os.PathLike[str]
LOCK_FILE = ".lock"


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Yields a temporary name beside `path`; what is written there takes its name at the end.

    The folder is made where it is missing. After an exception nothing is left behind.

    Raises:
        UserError: If it is a folder, or its own folder cannot be made.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder, where a file is to be written; give another name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        reason = e.strerror or e
        raise UserError(f"{path} cannot be written: {reason}; give another place.") from e
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as e:
        if e.filename is None and e.errno is not None:  # a full disk says no name
            raise OSError(e.errno, e.strerror, os.fspath(path)) from e
        raise
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: PathLike) -> Path:
    """Makes a folder that can be written, with the folders above it.

    Raises:
        UserError: If that is not possible.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.probe"
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise UserError(f"{path} cannot be written: {e.strerror or e}; give another folder.") from e
    return folder


def check_output(path: PathLike | None) -> None:
    """Refuses a file that cannot be written, before the work whose result it is to hold.

    Args:
        path: File; there need be none, nor its folder, and nothing is left there. None for no file.

    Raises:
        UserError: If it is a folder, or its own folder cannot be made or written.
    """
    if path is None:
        return
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder, where a file is to be written; give another name.")
    made = [folder for folder in Path(path).parents if not folder.exists()]
    make_folder(Path(path).parent)
    for folder in made:
        folder.rmdir()


def file_stem(name: str) -> str:
    """Turns a name such as `NVIDIA H100, batch 8` into one of files: `nvidia_h100_batch_8`."""
    return "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def write_text(path: PathLike, text: str) -> None:
    """Writes a text file atomically, and makes its folder if that is missing.

    Args:
        path: File to write.
        text: Its content, written in UTF-8.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: PathLike, data: Mapping[str, Any]) -> None:
    """Writes a JSON file atomically, and makes its folder if that is missing.

    Args:
        path: File to write.
        data: Its content.
    """
    write_text(path, json.dumps(data, indent=1) + "\n")


def read_json(path: PathLike, what: str, error: type[InputError] = InputError) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Args:
        path: The file.
        what: What it should be, for messages, such as `latency table`.
        error: Type of the exception to raise if it is something else.

    Raises:
        MissingFileError: If there is no such file.
        error: If it is no JSON, or holds something else than an object.
    """
    name = os.fspath(path)
    if not Path(path).is_file():
        raise MissingFileError(f"there is no {what} {name}.")
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as e:
        raise error(f"{name} is no {what}: it is no JSON file ({e}).") from e
    if not isinstance(data, dict):
        kind = type(data).__name__
        raise error(f"{name} is no {what}: expected an object with keys, got {kind}.")
    return data


@contextlib.contextmanager
def reading(path: PathLike, what: str, error: type[InputError] = InputError) -> Iterator[None]:
    """Says of which file it is what its content turns out not to be, while that is taken apart.

    Args:
        path: The file.
        what: What it should be, for messages, such as `latency table`.
        error: Type of the exception to raise.

    Raises:
        error: If the block raises what a missing key, a wrong type or an impossible value raises.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as e:
        missing = isinstance(e, KeyError) and not isinstance(e, UserError)
        reason = f"it has no {e}" if missing else str(e).rstrip(".")
        raise error(f"{os.fspath(path)} is no {what}: {reason}.") from e


def digest(value: Any) -> str:
    """Computes 16 hexadecimal digits of SHA-256 of JSON values, whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def rounded(value: Any, digits: int = 6) -> Any:
    """Rounds floats to significant digits, which are the same on every machine; last bits are not.

    Args:
        value: JSON values, tuples, arrays and dataclasses of them, nested in any way; objects with
            `to_dict` as that gives them.
        digits: Significant digits; the default is finer than any figure that is shown.

    Returns:
        JSON values; whatever else the value holds stays as it is.
    """
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    elif dataclasses.is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: rounded(each, digits) for key, each in value.items()}
    if hasattr(value, "tolist"):
        return rounded(value.tolist(), digits)
    if isinstance(value, (list, tuple)):
        return [rounded(each, digits) for each in value]
    return value


def file_digest(path: PathLike) -> str:
    """Computes 16 hexadecimal digits of SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


@contextlib.contextmanager
def file_lock(
    path: PathLike, on_wait: Callable[[], None] | None = None, seconds: float = -1
) -> Iterator[None]:
    """Lets one process at a time into the block; the lock of a killed process is free.

    Args:
        path: Lock file; it is made if it is missing, and left there.
        on_wait: Function called once, before waiting, if another process has the lock.
        seconds: Time to wait at most; negative to wait for as long as it takes.

    Raises:
        TimeoutError: If another process keeps the lock.
        OSError: If the file cannot be written.
    """
    from filelock import FileLock, Timeout

    Path(path).touch()  # filelock would wait for a file that nobody can write
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if on_wait is not None:
            on_wait()
        lock.acquire(timeout=seconds)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def folder_lock(folder: PathLike, refusal: str, seconds: float = 0) -> Iterator[None]:
    """Keeps other processes out of a folder, which is made if it is missing.

    Args:
        folder: Folder in which the lock's file lies.
        refusal: Sentence of the error.
        seconds: Time to wait at most, for a process that may be ending.

    Raises:
        UserError: If another process works there, or the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(make_folder(folder) / LOCK_FILE, seconds=seconds))
        except TimeoutError as e:
            raise UserError(refusal) from e
        yield


def csv_text(rows: Sequence[Mapping[str, Any]], comments: Mapping[str, Any]) -> str:
    """Formats rows as CSV under comment lines.

    Args:
        rows: At least one; the columns are all their keys, and empty in a row without one.
        comments: Written as `# key: value` lines.
    """
    text = io.StringIO()
    text.writelines(f"# {key}: {value}\n" for key, value in comments.items())
    columns = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_csv(
    path: PathLike, rows: Sequence[Mapping[str, Any]], comments: Mapping[str, Any] | str
) -> None:
    """Writes rows as CSV, atomically, under comment lines that say where they come from.

    Args:
        path: File to write.
        rows: Rows, at least one; see `csv_text`.
        comments: Values of the `# key: value` lines. A string is the command that made the rows,
            and the environment is added to it.
    """
    if isinstance(comments, str):
        comments = {"command": comments, **environment()}
    write_text(path, csv_text(rows, comments))


def read_csv(path: PathLike) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Reads a file of `write_csv`: the comments, and the rows with their values as text.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If it is no text, or has no rows.
    """
    if not Path(path).is_file():
        raise MissingFileError(f"there is no CSV file {os.fspath(path)}.")
    comments, body = {}, []
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise InputError(f"{os.fspath(path)} is no CSV file: {e}.") from e
    for line in text.splitlines(keepends=True):
        if line.startswith("#"):
            key, _, value = line.lstrip("# ").partition(": ")
            comments[key.strip()] = value.strip()
        else:
            body.append(line)
    rows = list(csv.DictReader(body))
    if not rows:
        raise InputError(f"{os.fspath(path)} holds no records.")
    return comments, rows


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a table in Markdown.

    Args:
        header: Titles of the columns.
        rows: Cells of each row.
    """
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def text_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a table for a terminal, as wide as its cells need.

    Args:
        title: Line above the table.
        header: Titles of the columns.
        rows: Cells of each row.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    width = 4 + sum(max(map(len, column)) + 3 for column in zip(header, *rows, strict=True))
    segments = Console(width=max(80, width)).render(table)
    body = "".join(segment.text for segment in segments).rstrip("\n")
    return f"{title}\n{body}"  # as a title of the table it would be broken at the table's width
