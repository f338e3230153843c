"""The page: complete in itself, and in a browser without network everything on it works."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest

from prunet_det.benchmark.blocks import blocks_of, blocks_svg
from prunet_det.benchmark.judge import judge
from prunet_det.benchmark.page import write_page
from tests.benchmark.planted import suite

pytest.importorskip("plotly", reason="the page needs plotly (extra benchmark)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

# Goes through everything as a reader would, and leaves what it saw in the document.
DRIVER = """
<script>
(() => {
const seen = {errors: [], hovers: [], sorts: [], verdicts: {}};
addEventListener("error", e => seen.errors.push(String(e.message)));
addEventListener("securitypolicyviolation", e => seen.errors.push("blocked " + e.blockedURI));
const error = console.error;
console.error = (...words) => { seen.errors.push(words.join(" ")); error(...words); };
const wait = ms => new Promise(done => setTimeout(done, ms));
async function choose(id, value) {
  const select = document.getElementById(id);
  select.value = value;
  select.dispatchEvent(new Event("change"));
  await wait(60);
}
const values = id => [...document.getElementById(id).options].map(o => o.value);
async function hover(nth) {
  const markers = document.querySelectorAll("#plot .scatterlayer .point");
  const box = markers[nth % markers.length].getBoundingClientRect();
  const at = {clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true};
  const layer = document.querySelector("#plot .nsewdrag");
  layer.dispatchEvent(new MouseEvent("mousemove", {...at, clientX: at.clientX + 300}));
  await wait(100);
  layer.dispatchEvent(new MouseEvent("mousemove", at));
  await wait(200);
  return [...document.querySelectorAll("#plot .hovertext")].map(e => e.textContent).join("|");
}
addEventListener("load", async () => {
  let n = 0;
  for (const device of values("device")) {
    await choose("device", device);
    for (const latency of values("latency")) {
      await choose("latency", latency);
      for (const metric of values("metric")) {
        await choose("metric", metric);
        const title = document.querySelector("#plot .ytitle").textContent;
        seen.hovers.push([device, latency, metric, title, await hover(n++)]);
        seen.verdicts[[device, latency, metric]] =
          [...document.querySelectorAll("#verdicts li")].map(li => li.textContent);
      }
    }
  }
  for (const [i, th] of [...document.querySelectorAll("#table th")].entries()) {
    for (const turn of [0, 1]) {
      document.querySelectorAll("#table th button")[i].click();
      const cells = document.querySelectorAll(`#table tbody td:nth-child(${i + 1})`);
      const order = document.querySelectorAll("#table th")[i].getAttribute("aria-sort");
      seen.sorts.push([th.textContent, order, [...cells].map(c => c.textContent)]);
    }
  }
  seen.networks = document.querySelectorAll("#networks svg").length;
  const out = document.createElement("pre");
  out.id = "seen";
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
});
})();
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "index.html"
    write_page(suite(2, scopes=("e2e", "detector")), "A </script><b> title", path)
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


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (apt-get install chromium)")
def test_everything_works_in_a_browser_without_network(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    driven = tmp_path / "driven.html"
    driven.write_text(text.replace("<head>", "<head>" + DRIVER, 1), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += ["--proxy-server=127.0.0.1:9", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--user-data-dir={tmp_path}/profile", "--window-size=1200,900"]
    command += ["--virtual-time-budget=60000", "--dump-dom", driven.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    seen = json.loads(html.unescape(found[1]))
    assert seen["errors"] == [] and "CONSOLE" not in done.stderr
    assert len(seen["hovers"]) == 3 * 5  # latencies, and kinds of mAP
    for device, latency, metric, title, shown in seen["hovers"]:
        assert title == metric
        assert f"{metric} 0." in shown and f"{latency} " in shown and device in shown
        assert "2 seeds" in shown
    assert len({shown for *_, shown in seen["hovers"]}) == 15
    sentences = {s for found in seen["verdicts"].values() for s in found}
    wanted = judge(suite(2, scopes=("e2e", "detector")), ("mAP", "AP50", "AP75", "APs", "APm"))
    assert sentences == {c.sentence() for c in wanted}
    by_size = {order: cells for title, order, cells in seen["sorts"] if title.startswith("px")}
    assert by_size["ascending"] == ["128"] * 3 + ["192"] * 3 + ["256"] * 3
    assert by_size["descending"] == by_size["ascending"][::-1]
    for _, order, cells in seen["sorts"]:
        assert order in ("ascending", "descending") and len(cells) == 9
    assert seen["networks"] == 3
