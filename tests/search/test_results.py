"""What is read back from a search's run.json, also from one that an earlier version wrote."""

from __future__ import annotations

import json

import pytest

from prunet_det.search.results import RUN_FILE, is_finished, tiers_off
from prunet_det.utils.errors import UserError

COMMAND = "python tools/search_backbone.py configs/search/quick.py --budget-ms 0.5"


@pytest.mark.parametrize(
    ("record", "off"),
    [
        ({"tiers_off": ["blocks", "finals"], "command": COMMAND}, ("blocks", "finals")),
        ({"tiers_off": "blocks finals"}, ("blocks", "finals")),  # a row of a CSV file
        ({"tiers_off": [], "command": f"{COMMAND} --no-finals"}, ()),
        ({"command": COMMAND}, ()),
        ({"command": f"{COMMAND} --fixed-expansions 1 3 --no-finals"}, ("widths", "finals")),
        ({"switches": "--no-finals --no-pruning"}, ("widths", "blocks", "layers", "finals")),
    ],
)
def test_tiers_off_of_new_and_old_records(record, off):
    assert tiers_off(record) == off


def test_a_finished_search_is_known_by_its_config_and_budget(tmp_path):
    def finished(config="configs/search/quick.py", budget_ms=0.5):
        return is_finished(tmp_path, config, budget_ms)

    assert not finished()
    run = {"config": "configs/search/quick.py", "budget_ms": 0.5}
    (tmp_path / RUN_FILE).write_text(json.dumps(run))
    assert not finished()  # a result on the way
    (tmp_path / RUN_FILE).write_text(json.dumps({**run, "inherited_top1": 0.5}))
    assert finished() and finished("configs/search/../search/quick.py")
    for other in ({"config": "configs/search/zoo.py"}, {"budget_ms": 0.6}):
        with pytest.raises(UserError, match="holds another search .*quick.py, 0.5 ms"):
            finished(**other)
