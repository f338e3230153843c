"""Shared fixtures."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits() -> Path:
    """The embedded digits, made once in the checkout's data folder."""
    from prunet_det.datasets import ensure

    return ensure("digits", ROOT / "data" / "digits")


@pytest.fixture
def tool():
    """Runs a tool as a user does and returns the finished process, output as text."""

    def run(name: str, *args: object, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, args)],
            cwd=cwd,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def published_counts() -> list[dict[str, str]]:
    """Parameters and MACs measured on the original builder (tests/data/gpunet_counts.csv)."""
    with open(ROOT / "tests" / "data" / "gpunet_counts.csv", encoding="utf-8") as handle:
        return list(csv.DictReader(line for line in handle if not line.startswith("#")))
