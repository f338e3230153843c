"""Tables for a person at a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A readable table, as wide as it needs to be."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    columns = zip(header, *rows, strict=True)
    width = 4 + sum(max(map(len, column)) + 3 for column in columns)
    Console(width=max(80, width)).print(table)
