"""The generated tables and figures are what the records say."""

from __future__ import annotations


def test_nothing_is_stale(here):
    done = here("report", "--check")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}run: python tools/report.py"
