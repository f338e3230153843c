"""The generated tables are what the records say."""

from __future__ import annotations


def test_no_table_is_stale(here):
    done = here("report", "--check")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}run: python tools/report.py"
