"""The package's own files are found from any folder, and recorded as in a checkout."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from prunet_det.utils.package import (
    find_checkpoint,
    find_config,
    package_file,
    recorded_command,
    relative_path,
)
from tests.conftest import ROOT


def test_a_file_of_the_package():
    assert package_file("configs/search/quick.py").is_file()
    with pytest.raises(FileNotFoundError, match=r"no file configs/none\.py"):
        package_file("configs/none.py")


@pytest.mark.parametrize("name", ["configs/search/quick.py", "search/quick.py", "quick.py"])
def test_a_config_by_path_or_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name).samefile(ROOT / "configs" / "search" / "quick.py")


def test_as_given_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("quick.py").touch()
    assert find_config("quick.py") == Path("quick.py")
    assert find_config("none.py") == Path("none.py")


def test_weights_by_path_or_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = "checkpoints/prunet_demo_digits.safetensors"
    assert find_checkpoint(shipped).samefile(ROOT / shipped)
    assert find_checkpoint("checkpoints/none.safetensors") == Path("checkpoints/none.safetensors")
    Path("checkpoints").mkdir()
    Path(shipped).touch()
    assert find_checkpoint(shipped) == Path(shipped)


def test_paths_hold_on_another_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert relative_path(package_file("tools/train.py")) == "tools/train.py"
    assert relative_path(ROOT / "configs" / "search" / "quick.py") == "configs/search/quick.py"
    assert relative_path(tmp_path / "out") == "out"
    for word in ("--jobs", "2", "/elsewhere/out", "prunet_p0"):
        assert relative_path(word) == word


def test_commands_are_recorded_as_a_person_gives_them():
    given = "python tools/benchmark.py run --size 64"
    module = [sys.executable, "-m", "prunet_det", "benchmark", "run", "--size", "64"]
    assert recorded_command(module) == given
    argv = [str(ROOT / "tools" / "benchmark.py"), "run", "--size", "64"]
    assert recorded_command([sys.executable, *argv]) == given
