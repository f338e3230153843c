"""Tables of what `make gpu` has left in its folders, for the docs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prunet_det.benchmark.gpu.summary import SUMMARY, Summary
from prunet_det.utils.io import markdown_table

_NONE_YET = "No records of a GPU yet.\n"


def summaries(results: Path) -> Iterator[Summary]:
    """Reads the summary of every folder.

    Args:
        results: Folder that has a folder for each machine.
    """
    for path in sorted(results.glob(f"*/{SUMMARY}")):
        yield Summary.load(path.parent)


def runs(results: Path) -> str:
    """What each call of `make gpu` came to, a table for each machine."""
    parts = []
    for s in summaries(results):
        title = f"{s.machine['device']}, {s.machine['date']}, commit {s.machine['commit'][:12]}, "
        parts.append(f"{title}by `{s.command}`:\n\n{s.table()}")
    return "\n".join(parts) or _NONE_YET


def throughput(results: Path) -> str:
    """Images a second of trainings, from disk and from memory."""
    rows = []
    for s in summaries(results):
        part = s.rows.get("training")
        for r in part.record.get("throughput", ()) if part else ():
            disk, memory = r["disk_images_per_s"], r["memory_images_per_s"]
            about = [s.machine["device"], f"`{r['model']}`", str(r["input_size"])]
            about += [str(r["batch"]), str(r["workers"]), r["speed_up"]]
            rows.append([*about, f"{disk:.0f}", f"{memory:.0f}", f"{disk / memory:.2f}"])
    header = ["device", "backbone", "px", "batch", "workers", "speed-up"]
    header += ["from disk, images/s", "from memory, images/s", "ratio"]
    return markdown_table(header, rows) if rows else _NONE_YET
