"""The study of searches: what its records say, from planted and from published ones."""

from __future__ import annotations

import json

from prunet_det.arch.spec import ArchSpec
from tests.conftest import ROOT

PUBLISHED = ROOT / "docs" / "results" / "search" / "compare"


def test_published_networks_can_be_built_from_their_file_alone():
    entries = json.loads((PUBLISHED / "entries.json").read_text(encoding="utf-8"))["entries"]
    assert len(entries) == 39
    for entry in entries:
        assert ArchSpec.from_dict(entry["spec"]).digest == entry["network"], entry["name"]
