"""What has become of each part of `make gpu`: a row, in summary.json and in summary.md."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prunet_det.utils.errors import InputError
from prunet_det.utils.io import markdown_table, write_json, write_text

SUMMARY, SUMMARY_TEXT = "summary.json", "summary.md"
DONE, PARTIAL, FAILED, LATE = "done", "partial", "failed", "out of time"
SKIPPED, NO_TIME, INTERRUPTED = "skipped", "no time left", "interrupted"


@dataclass(kw_only=True)
class Row:
    """How a part ended.

    Attributes:
        state: `done`, `failed`, `out of time` (its own is over), `no time left` (that of the
            whole), `skipped` (cannot be run here), `interrupted` (Ctrl-C), or `partial` (what it
            has counts, and another call goes on).
        seconds: Time it took, over all calls.
        reason: Why it is not done, in a sentence.
        figures: Heading to text.
        record: Whatever else the part has written.
        tail: End of the log of a part that failed.
        commit, date: Commit and date of the last call.
    """

    state: str
    seconds: float = 0.0
    reason: str = ""
    figures: dict[str, str] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    tail: str = ""
    commit: str = ""
    date: str = ""

    @property
    def figures_text(self) -> str:
        """The figures in a line."""
        return "; ".join(map(": ".join, self.figures.items()))


@dataclass(kw_only=True)
class Summary:
    """All rows, and what they were made with.

    Attributes:
        machine: Title of the device, commit, versions; see `utils.env.environment`.
        command: Command of the last call.
        rows: Row of each part, by its name.
    """

    machine: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    rows: dict[str, Row] = field(default_factory=dict)

    @classmethod
    def load(cls, out: Path) -> Summary:
        """Reads the summary of a folder; an empty one where there is none.

        Raises:
            InputError: If it cannot be read.
        """
        try:
            data = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
            rows = {name: Row(**row) for name, row in data.pop("parts").items()}
            return cls(**data, rows=rows)
        except FileNotFoundError:
            return cls()
        except (ValueError, TypeError, KeyError, AttributeError) as e:
            raise InputError(f"{out / SUMMARY} cannot be read ({e}); move it away.") from e

    def save(self, out: Path) -> None:
        """Writes summary.json and summary.md."""
        parts = {name: asdict(row) for name, row in self.rows.items()}
        data = {"machine": self.machine, "command": self.command, "parts": parts}
        write_json(out / SUMMARY, data)
        write_text(out / SUMMARY_TEXT, self.text())

    def text(self) -> str:
        """Returns the summary in Markdown."""
        m = {"device": "no device", "machine": "", "date": "", "commit": "", **self.machine}
        head = f"# {m['device']}\n\n{m['machine']}, {m['date']}, commit {m['commit'][:12]}\n\n"
        reasons = [f"* {name}: {row.reason}\n" for name, row in self.rows.items() if row.reason]
        return "".join([head, f"    {self.command}\n\n", self.table(), "\n", *reasons])

    def table(self) -> str:
        """Returns a row a part."""
        rows = [[n, r.state, f"{r.seconds:.0f}", r.figures_text] for n, r in self.rows.items()]
        return markdown_table(["part", "state", "seconds", "figures"], rows)
