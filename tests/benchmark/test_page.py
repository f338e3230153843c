"""The page is complete in itself."""

from __future__ import annotations

import json
import re

import pytest

from prunet_det.benchmark.blocks import blocks_of, blocks_svg
from prunet_det.benchmark.page import write_page
from tests.benchmark.planted import Timed, suite

pytest.importorskip("plotly", reason="the page needs plotly (extra benchmark)")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "index.html"
    write_page(suite(2, timed=Timed(scopes=("e2e", "detector"))), "A </script><b> title", path)
    return path


def test_the_page_is_complete_in_itself(page):
    text = page.read_text(encoding="utf-8")
    own = re.sub(r"<script>/\*\*.*?</script>", "", text, count=1, flags=re.DOTALL)  # plotly.js
    assert len(own) < 0.05 * len(text)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)|https?:|@import|url\(|fetch\(""", own)
    assert "A &lt;/script&gt;&lt;b&gt; title" in own
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', own, re.DOTALL)[1])
    assert [n["model"] for n in data["nets"]].count("gpunet_0") == 3
    assert [name for name, svg in data["drawings"] if svg] == [
        "prunet_demo",
        "gpunet_0",
        "efficientnet_b0",
    ]


def test_timms_blocks_are_read_off_the_network():
    found = blocks_of("efficientnet_b0", None)
    assert [(b.in_chs, b.hidden, b.out_chs, b.stride) for b in found[:4]] == [
        (3, 0, 32, 2),
        (32, 32, 16, 1),
        (16, 96, 24, 2),
        (24, 144, 24, 1),
    ]
    assert len(found) == 17
    assert blocks_svg(found, 1152, 17).count("<rect") == 17 + 16
    assert blocks_of("resnet18", None) is None
