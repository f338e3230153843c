"""Several processes of one search, before it begins."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.tools.test_training import ENV

SCRIPT = """
import sys
import torch.distributed as distributed
from prunet_det.search.session import price_in_turn

rank, meeting = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)

class Pricing:
    def costs(self, space, input_size):
        assert rank == 0, "only the main process may measure"
        raise ValueError("no clock here")

try:
    price_in_turn(Pricing(), None, 64)
except Exception as e:
    print(f"{type(e).__name__}: {e}")
"""


@pytest.mark.slow
def test_no_process_waits_for_a_main_process_that_failed(tmp_path):
    command = [sys.executable, "-c", SCRIPT]
    both = [
        subprocess.Popen(
            [*command, str(rank), tmp_path / "meeting"],
            cwd=ROOT,
            env=ENV,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    main, other = (process.communicate(timeout=120)[0].strip() for process in both)
    assert main == "ValueError: no clock here"
    assert other == "UserError: the main process could not price the space: no clock here"
