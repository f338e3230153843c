"""What the environment says of a distributed training."""

from __future__ import annotations

import shutil
import subprocess
from types import SimpleNamespace

import pytest
import torch

from prunet_det.utils.env import driver, local_processes, readings


@pytest.mark.parametrize(
    ("variables", "processes"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x12)"}, 8),
        ({"SLURM_STEP_TASKS_PER_NODE": "2,8(x12),4"}, 8),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, 4),
        ({"LOCAL_WORLD_SIZE": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, 2),
    ],
)
def test_the_innermost_launcher_says_how_many_processes_there_are(
    variables, processes, monkeypatch
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert local_processes() == processes


def test_the_sensors_are_those_of_the_device(monkeypatch):
    """nvidia-smi counts GPUs without CUDA_VISIBLE_DEVICES, so it is asked by UUID."""
    asked = []

    def run(command, **kwargs):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, "1980, 41, 300.5\n", "")

    properties = SimpleNamespace(uuid="12ab")
    monkeypatch.setattr(torch.cuda, "get_device_properties", {"cuda:1": properties}.get)
    monkeypatch.setattr(subprocess, "run", run)
    assert readings("cuda:1") == {"clock_mhz": 1980, "temperature_c": 41, "power_w": 300.5}
    assert "--id=GPU-12ab" in asked[0]


@pytest.mark.parametrize("error", [subprocess.TimeoutExpired("nvidia-smi", 10), OSError()])
def test_sensors_that_do_not_answer(error, monkeypatch):
    def run(*args, **kwargs):
        raise error

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1"))
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(subprocess, "run", run)
    assert readings("cuda") == {} and driver("cuda") == "unknown"
