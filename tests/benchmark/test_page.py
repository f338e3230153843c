"""The page is complete in itself."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from prunet_det.benchmark.fronts import axes
from prunet_det.benchmark.page import plot, write_page
from tests.benchmark.planted import Timed, suite

pytest.importorskip("plotly", reason="the page needs plotly (extra benchmark)")


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "index.html"
    write_page(suite(2, timed=Timed(scopes=("e2e", "detector"))), "A </script><b> title", path)
    return path


def test_the_page_is_complete_in_itself(page):
    text = page.read_text(encoding="utf-8")
    own = re.sub(r"<script>/\*\*.*?</script>", "", text, count=1, flags=re.DOTALL)  # plotly.js
    assert len(own) < 0.2 * len(text)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)|@import|url\(|fetch\(""", own)
    assert "A &lt;/script&gt;&lt;b&gt; title" in own
    names = ["prunet_demo", "gpunet_0", "efficientnet_b0"]
    assert re.findall(r'<section id="(\w+)">', own) == names
    drawn = re.findall(r'<img alt="blocks of (\w+)" src="data:', own)
    assert drawn == names[:2], "timm's networks are not drawn"
    assert "not established (2 seeds at a point" in own
    assert own.count("<table>") == 1 + 3 + 2, "accuracy, ratios by latency, published"
    rows = re.findall(r"<tr><td>(\w+)</td><td>(\w+)</td><td>(\d+)</td>", own)
    assert [row for row in rows if row[0] == "gpunet_0"] == [
        ("gpunet_0", "GPUNet", str(size)) for size in (128, 192, 256)
    ]


def test_a_menu_shows_one_metric_of_all_families():
    records = suite(2, timed=Timed(scopes=("e2e",)))
    figure = plot(records, axes(records)[0])
    (menu,) = figure.layout.updatemenus
    assert [button.label for button in menu.buttons] == ["mAP", "AP50", "AP75", "APs", "APm"]
    for button in menu.buttons:
        visible, _ = button.args
        shown = [t for t, on in zip(figure.data, visible["visible"], strict=True) if on]
        dots = [trace for trace in shown if trace.mode == "markers"]
        assert [trace.name for trace in dots] == ["PruNet", "GPUNet", "EfficientNet"]
        assert all(len(trace.x) == 3 and button.label in trace.hovertext[0] for trace in dots)
    assert [trace.visible for trace in figure.data] == menu.buttons[0].args[0]["visible"]
    assert set(figure.data[1].customdata) == {"prunet_demo"}


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
def test_a_browser_draws_it(page, tmp_path):
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    flags += ["--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run([BROWSER, *flags, page.as_uri()], capture_output=True, text=True)
    assert done.stdout.count('class="point plotly-customdata"') == 3 * 9, "three axes"
    assert done.stdout.count("updatemenu-header-group") >= 3
