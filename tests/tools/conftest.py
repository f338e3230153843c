"""Running a tool that must refuse its input."""

from __future__ import annotations

import pytest


@pytest.fixture
def refused(monkeypatch, here):
    """Runs a tool in this process; returns its one-line error."""

    def run(name, *args):
        monkeypatch.delenv("PRUNET_DEBUG", raising=False)
        done = here(name, *args)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        lines = [line for line in done.stderr.splitlines() if "error: " in line]
        assert len(lines) == 1, done.stderr
        return lines[0]

    return run
