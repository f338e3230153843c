"""Which files are detected in, and where the results go, so that none overwrites another."""

from __future__ import annotations

import glob
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from prunet_det.inference.images import as_pixels
from prunet_det.inference.video import Video
from prunet_det.utils.errors import InputError, MissingFileError, UserError
from prunet_det.utils.images import SUFFIXES, has_image_name

VIDEOS = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".ogv"}
)
RECORD = "detections.json"


def is_video(path: Path) -> bool:
    """Returns whether a file is a video, by its suffix."""
    return path.suffix.lower() in VIDEOS


def find_inputs(names: Iterable[str]) -> list[Path]:
    """Finds the images and videos that a user names, each once.

    Args:
        names: Files, whatever their suffix; folders, for the images and videos directly inside; and
            patterns such as `images/*.jpg` or `images/**/*.jpg`.

    Returns:
        The files: in the order of the names, and sorted within a folder or a pattern.

    Raises:
        MissingFileError: If there is no such file or folder.
        InputError: If a folder or a pattern gives none.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_file():
            found.append(path)
            continue
        if path.is_dir():
            inside, what = list(path.iterdir()), f"the folder {path} holds"
        elif glob.has_magic(name):
            inside, what = list(map(Path, glob.glob(name, recursive=True))), f"{name} matches"
        else:
            raise MissingFileError(f"there is no image, video or folder {path}.")
        chosen = sorted(p for p in inside if _is_input(p))
        if not chosen:
            known = ", ".join(sorted(SUFFIXES | VIDEOS))
            raise InputError(
                f"{what} no image or video ({known}); name a file of another suffix itself."
            )
        found += chosen
    once: dict[str, Path] = {}
    for path in found:
        once.setdefault(os.path.abspath(path), path)
    return list(once.values())


def _is_input(path: Path) -> bool:
    known = has_image_name(path) or (is_video(path) and not path.name.startswith("."))
    return known and path.is_file()


def name_results(inputs: Sequence[Path], out: Path, overwrite: bool = False) -> list[Path]:
    """Names the picture of each image and the annotated copy of each video.

    Args:
        inputs: Images and videos.
        out: Folder of the results.
        overwrite: Whether results of an earlier run may be replaced.

    Returns:
        `STEM.png`, or `STEM.mp4`, beside which `STEM.json` is free; with a number where another
        input has that name already, whatever its case.

    Raises:
        UserError: If an input, or a file that is there, would be overwritten.
    """
    taken, results = {_key(RECORD)}, []
    for path in inputs:
        suffixes = (".mp4", ".json") if is_video(path) else (".png",)
        stem, number = path.stem, 1
        while taken & {_key(stem + suffix) for suffix in suffixes}:
            number += 1
            stem = f"{path.stem}_{number}"
        taken |= {_key(stem + suffix) for suffix in suffixes}
        results.append(out / f"{stem}{suffixes[0]}")
    check_results(inputs, [out / RECORD, *results, *map(record_of, results)], overwrite)
    return results


def record_of(result: Path) -> Path:
    """Returns where the detections of a video or an image are written: a video has its own file."""
    return result.with_suffix(".json") if is_video(result) else result.with_name(RECORD)


def check_results(inputs: Iterable[Path], results: Iterable[Path], overwrite: bool) -> None:
    """Refuses results that would take the place of files.

    Args:
        inputs: Images and videos, which are never overwritten.
        results: Files to be written.
        overwrite: Whether other files may be.

    Raises:
        UserError: If a file would be overwritten.
    """
    originals = {_key(str(path.resolve())) for path in inputs}
    for path in results:
        if _key(str(path.resolve())) in originals:
            raise UserError(f"{path} would overwrite an input; give another --out.")
        if not overwrite and path.exists():
            raise UserError(f"{path} is there already; give another --out, or --overwrite.")


def first_readable(inputs: Sequence[Path]) -> Path:
    """Returns the first image or video that can be read.

    Raises:
        InputError: If there is none; with the reason of the first.
    """
    reasons: list[UserError] = []
    for path in inputs:
        try:
            Video(path) if is_video(path) else as_pixels(path)
            return path
        except UserError as e:
            reasons.append(e)
    others = f" So it is with the {len(reasons) - 1} others." if len(reasons) > 1 else ""
    raise InputError(f"{reasons[0]}{others}")


def _key(name: str) -> str:
    """Returns what two names have in common that some file systems take for one."""
    return unicodedata.normalize("NFC", name).casefold()
