"""Files appear whole or not at all; rounded values are the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from prunet_det.utils.io import atomic_path, rounded


def test_whole(tmp_path):
    with atomic_path(tmp_path / "new" / "a.txt") as temporary:
        temporary.write_text("all of it")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_after_a_failure_the_old_file_stands(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_rounded_values_are_json():
    @dataclass
    class Row:
        ms: float
        values: tuple[float, ...]

    value = {"row": Row(0.1 + 0.2, (1e-9 / 3, 12345678.9)), "array": np.array([1, 2]), "n": None}
    assert rounded(value) == {
        "row": {"ms": 0.3, "values": [3.33333e-10, 12345700.0]},
        "array": [1, 2],
        "n": None,
    }


def test_a_full_disk_leaves_nothing_and_names_the_file(tmp_path):
    full = pytest.raises(OSError, match=r"No space left on device: '.*a\.txt'")
    with full, atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())
