"""The report in headless Chromium: charts are drawn, the browser of samples works, what others wrote runs nowhere.

A probe script is put into a copy of the page, whose policy would not let it run, and leaves what it saw in the page.
"""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from reported_run import PAYLOADS, make_hostile_run, make_run

from areal_gsm8k.report import page
from areal_gsm8k.report.page.chart_list import CHARTS
from areal_gsm8k.runs.files import to_lines, write_atomically

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on PATH")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars")
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
PROBE = """<script>
const text = (selector) => [...document.querySelectorAll(selector)].map((found) => found.textContent);
const until = async (ready) => { while (!ready()) await new Promise((again) => setTimeout(again, 20)); };
(async () => {
  await until(() => document.documentElement.dataset.charts && document.querySelector("#sample-list .row"));
  parent.postMessage(JSON.stringify(await (async () => { BODY })()), "*");
})();
</script>"""
# The window is never narrower than 500 pixels, a frame can be.
FRAME = """<!doctype html><iframe src="SOURCE" width="WIDTH" height="900"></iframe><pre id="probe"></pre>
<script>onmessage = ({ data }) => { document.getElementById("probe").textContent = data; };</script>"""


def dom(file: Path, folder: Path, fragment: str = "") -> str:
    """The page as it is after its scripts have run."""
    shown = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1440,900",
         "--virtual-time-budget=20000", "--dump-dom", f"{file.as_uri()}{fragment}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def probe(file: Path, folder: Path, body: str, fragment: str = "", width: int = 1400):
    """What a script saw in the page, in a frame of that width; `body` is its JavaScript, with a return."""
    copy, frame = folder / "probed.html", folder / "frame.html"
    frame.write_text(FRAME.replace("SOURCE", html.escape(copy.name + fragment)).replace("WIDTH", str(width)))
    text = POLICY.sub("", file.read_text(encoding="utf-8"), count=1)
    copy.write_text(text.replace("</body>", PROBE.replace("BODY", body) + "</body>"), encoding="utf-8")
    found = re.search(r'<pre id="probe">(.+?)</pre>', dom(frame, folder), re.DOTALL)
    assert found, "the probe did not come to its end"
    return json.loads(html.unescape(found.group(1)))


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> Path:
    """The page of two runs."""
    folder = tmp_path_factory.mktemp("pages")
    runs = [make_run(folder / "runs" / "e" / name, steps=5) for name in "ab"]
    rows = [row | {"reward": 0.7 * row["reward"]} if "reward" in row else row for row in runs[1].read_metrics()]
    write_atomically(runs[1].metrics, to_lines(rows))
    return page.write([run.root for run in runs], folder / "both.html")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    run = make_hostile_run(tmp_path_factory.mktemp("hostile") / "e")
    return page.write([run.root], run.report)


def test_every_chart_is_drawn(reported, tmp_path):
    """As canvases with something on them; the pointer gets the values, and hiding a run leaves less."""
    inked = """
      const inkOf = (one) => !one.width ? 0 : one.getContext("2d").getImageData(0, 0, one.width, one.height)
        .data.filter((value, at) => at % 4 === 3 && value > 0).length;
      const inside = (root, selector) => [...root.querySelectorAll("*")].flatMap((one) =>
        [...(one.matches(selector) ? [one] : []), ...(one.shadowRoot ? inside(one.shadowRoot, selector) : [])]);
      const ink = () => Object.fromEntries([...document.querySelectorAll(".plot")].map((plot) => [plot.id.slice(6),
        inside(plot, "canvas").reduce((sum, one) => sum + inkOf(one), 0)]));
      const before = ink();
      const [area] = inside(document.getElementById("chart-reward"), ".bk-events");
      const box = area.getBoundingClientRect();
      const [clientX, clientY] = [box.left + box.width * 0.97, box.top + box.height / 2];
      area.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY, pointerType: "mouse", isPrimary: true }));
      await new Promise((drawn) => setTimeout(drawn, 500));
      const hover = inside(document, ".bk-tooltip-content").map((one) => one.innerText.split(/\\s+/).join(" "));
      document.querySelector("#toggles input[value='1']").click();
      for (let waits = 0; waits < 50 && ink().reward >= before.reward; waits++)
        await new Promise((drawn) => setTimeout(drawn, 100));
      return { before, hover, after: ink() };
    """
    seen = probe(reported, tmp_path, inked)
    names = {chart.name for chart in CHARTS if chart.only != "one"} - {"kl", "parts"} | {"gain"}
    assert set(seen["before"]) == names
    assert min(seen["before"].values()) > 500
    assert seen["hover"] == ["step 5 ■ e/a 0.5 ■ e/b 0.35"]
    assert seen["after"]["reward"] < seen["before"]["reward"]


def test_a_link_shows_one_step_filtered_searched_and_opened(reported, tmp_path):
    see = """return { rows: text("#sample-list .row"), questions: text("#sample-list .question"),
      count: text("#sample-count"), group: text("#group .sample pre"), facts: text("#group .sample:first-child dd"),
      shown: text("#step-shown"), pressed: text("#sample-filter [aria-pressed=true]") };"""
    seen = probe(reported, tmp_path, see, fragment="#run=1&step=3&filter=wrong&q=Group+1&group=0-1")
    assert len(seen["rows"]) == 2 and all(row.startswith("✗99step 3 group 1") for row in seen["rows"])
    assert seen["questions"] == ["Question 31: Ana has 31 eggs. How many?answer 1, 2 of 4 right"]
    assert seen["count"] == ["2 of 8 samples of 2 questions. Choose one to see its whole group."]
    assert [text.split("\n")[0] for text in seen["group"]] == [f"step 3 group 1 member {m}" for m in range(4)]
    assert seen["facts"] == ["0", "0.00", "1", "hash", "2", "20", "0.0012346"]
    assert (seen["shown"], seen["pressed"]) == (["3 of 5"], ["wrong 2"])


def test_what_is_chosen_stands_in_the_address(reported, tmp_path):
    choose = """
      document.getElementById("step-back").click();
      await until(() => document.getElementById("step-shown").textContent.startsWith("4"));
      document.querySelector("[data-filter=truncated]").click();
      const search = document.getElementById("sample-search");
      search.value = "EGGS";
      search.dispatchEvent(new Event("input"));
      const hash = location.hash;
      document.querySelector("#sample-list .row").click();
      const opened = [location.hash, text("#group .sample.chosen h4")[0]];
      document.querySelector("#sample-list .row").click();
      document.querySelector('[data-run="1"] [data-kind=lost]').click();
      const closed = [location.hash, document.getElementById("group")];
      return { hash, opened, closed, rows: text("#sample-list .row").length, flips: text('[data-run="1"] .list .row'),
        sides: text('[data-run="1"] .list pre') };
    """
    seen = probe(reported, tmp_path, choose)
    assert seen["hash"] == "#run=0&step=4&filter=truncated&q=EGGS"
    assert seen["opened"] == [seen["hash"] + "&group=0-0", "✗ wrongsample 403, truncated"]
    assert seen["closed"] == [seen["hash"], None] and seen["rows"] == 2
    assert seen["flips"] == ["−Question 0: Ana has 0 eggs. How many?1 → 2"]
    assert seen["sides"] == ["steps\n#### 1", "after step 0: 0", "after step 5: 0"]


def test_nothing_that_others_wrote_runs_even_without_the_policy(hostile, tmp_path):
    see = """
      await until(() => document.querySelector(".flips .list pre"));
      document.querySelector("#sample-list .row").click();
      const owned = document.querySelectorAll("#group img, #group script, .flips img, h1 *").length;
      return { title: document.title, owned, group: text("#group .sample pre"), flips: text(".flips .list pre") };
    """
    seen = probe(hostile, tmp_path, see)
    assert seen["title"] == f"e/{PAYLOADS[0].replace('/', '_')}" and seen["owned"] == 0
    assert seen["group"] == list(PAYLOADS)
    assert set(seen["flips"]) >= {PAYLOADS[1], PAYLOADS[2]}


def test_the_file_as_it_is_works_under_its_policy_and_fits_a_phone(hostile, tmp_path):
    shown = dom(hostile, tmp_path, "#step=1&q=%7B%7B7&group=0-0")
    assert 'data-charts="drawn"' in shown and "{{7*7}}" in shown
    wide = "return [innerWidth, document.scrollingElement.scrollWidth];"
    assert probe(hostile, tmp_path, wide, fragment="#step=1&group=0-0", width=390) == [390, 390]
