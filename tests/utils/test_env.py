"""What the environment says of a distributed training."""

from __future__ import annotations

import pytest

from prunet_det.utils.env import local_processes


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
