"""Running a tool that must refuse its input."""

from __future__ import annotations

import runpy
import sys

import pytest
from mmengine.logging import MMLogger

from tests.conftest import ROOT


@pytest.fixture
def refused(monkeypatch, capfd, tmp_path):
    """Runs a tool in this process; returns its one-line error."""

    def run(name, *args):
        monkeypatch.chdir(ROOT)
        monkeypatch.delenv("PRUNET_DEBUG", raising=False)
        monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
        MMLogger._instance_dict.clear()  # a logger keeps the stream that an earlier test closed
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "tools" / f"{name}.py"), run_name="__main__")
        assert stop.value.code == 2
        captured = capfd.readouterr().err
        assert "Traceback" not in captured
        lines = [line for line in captured.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, captured
        return lines[0]

    return run
