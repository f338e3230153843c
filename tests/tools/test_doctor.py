"""The doctor names what is wrong and the command that mends it."""

from __future__ import annotations

import importlib.metadata as metadata
import runpy

import pytest

from tests.conftest import ROOT


@pytest.fixture
def doctor():
    """The tool's functions, with a replaceable list of installed distributions."""
    return runpy.run_path(str(ROOT / "tools" / "doctor.py"), run_name="doctor")


def diagnose(doctor, monkeypatch, versions):
    """Diagnosis with some distributions' versions replaced (None: not installed)."""
    real = metadata.version

    def version(name):
        found = versions[name] if name in versions else real(name)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)
    rows, problems = doctor["diagnose"]()
    return {row[0]: row[3] for row in rows}, problems


def test_a_good_environment(doctor, monkeypatch):
    states, problems = diagnose(doctor, monkeypatch, {})
    assert problems == []
    assert set(states.values()) == {"ok"}
    assert {"prunet_det", "torch", "rich", "scipy", "plotly", "ray"} <= set(states)
    assert not {"pytest", "effdet"} & set(states)


def test_missing(doctor, monkeypatch):
    states, problems = diagnose(doctor, monkeypatch, {"onedl-mmcv": None})
    assert states["onedl-mmcv"] == "missing"
    what, command = problems[0]
    assert "onedl-mmcv is missing" in what
    assert "--no-build-isolation onedl-mmcv==2.3.6" in command


def test_an_extra_that_nobody_asked_for(doctor, monkeypatch):
    states, problems = diagnose(doctor, monkeypatch, {"plotly": None})
    assert states["plotly"] == "for the extra 'benchmark'" and problems == []


@pytest.mark.parametrize(
    ("ours", "rival"),
    [("onedl-mmcv", "mmcv"), ("onedl-mmdetection", "mmdet"), ("onedl-mmengine", "mmengine")],
)
def test_doubly_installed(doctor, monkeypatch, ours, rival):
    states, problems = diagnose(doctor, monkeypatch, {rival: "1.0"})
    assert states[ours] == "doubly installed"
    what, command = problems[0]
    assert f"{ours} and {rival} own the same files" in what
    assert f"pip uninstall -y {rival} {ours} && " in command


def test_upstream_alone_is_accepted(doctor, monkeypatch):
    states, problems = diagnose(doctor, monkeypatch, {"onedl-mmdetection": None, "mmdet": "3.3.0"})
    assert states["onedl-mmdetection"] == "ok" and problems == []


def test_failing_import(doctor, monkeypatch):
    monkeypatch.setitem(
        doctor["diagnose"].__globals__,
        "check_import",
        lambda module: "ImportError: libGL.so.1" if module == "cv2" else "",
    )
    states, problems = diagnose(doctor, monkeypatch, {})
    assert states["opencv-python-headless"] == "does not import"
    assert "libGL.so.1" in problems[0][0] and "opencv-python-headless==" in problems[0][1]


def test_another_version_is_said(doctor, monkeypatch):
    states, problems = diagnose(doctor, monkeypatch, {"timm": "0.9.0"})
    assert states["timm"] == "ok, not the tried version" and problems == []


def test_a_gpu_without_mmcvs_operators(doctor, monkeypatch):
    import torch

    check = doctor["check_mmcv_cuda"]
    if not torch.cuda.is_available():
        assert check() == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "cuda", _no_operator)
    note = check()
    assert "mmcv has no CUDA operators" in note and "prunet_rtmdet_coco.py" in note
    assert "FORCE_CUDA=1" in note


def test_an_environment_that_is_there_but_not_in_use(doctor, monkeypatch, capsys, tmp_path):
    (tmp_path / ".venv").mkdir()
    names = doctor["main"].__globals__
    monkeypatch.setitem(names, "CONSTRAINTS", tmp_path / "constraints.txt")
    monkeypatch.setitem(names, "diagnose", lambda: ([("torch", "2", "-", "missing")], [("a", "b")]))
    assert doctor["main"]() == 1
    assert f"activate it with: . {tmp_path / '.venv'}/bin/activate" in capsys.readouterr().out


def _no_operator(self):
    raise RuntimeError("nms_impl: implementation for device cuda:0 not found.")
