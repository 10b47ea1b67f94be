"""`gsm8k report` without a browser: what is in the file, and what is not."""

import base64
import gzip
import hashlib
import itertools
import json
import random
import re

import pytest
from reported_run import (
    CONFIG,
    PAYLOADS,
    Parsed,
    dev_rows,
    long_text,
    make_hostile_run,
    make_run,
    metrics,
    parsed,
    sample,
)

from areal_gsm8k.paths import PROJECT
from areal_gsm8k.report import page
from areal_gsm8k.report.page import chart_list, embedded_samples, evaluations, figures, run_facts
from areal_gsm8k.runs.files import append_lines, to_lines, write_atomically

SECTIONS = [
    "summary", "curves", "comparison", "evaluations", "gain", "flips", "samples", "configuration",
]  # fmt: skip
CHARTS = ("reward", "kl", "loss", "seconds")
CARD = {
    "model": "m", "checkpoint": "checkpoints/best", "model_checksum": "c", "data": "generated", "split": "dev",
    "subset": None, "n": 400, "data_checksum": "d", "answer_format": "hash", "system_prompt": None, "prompt_hash": "p",
    "prompt_ids_hash": "i", "k": 1, "temperature": 0.0, "max_new_tokens": 48, "seed": 0, "engine": "hf",
    "software": {"torch": "2.9"}, "served_model": None, "grader_version": "2", "command": "gsm8k eval m",
    "time": "2026-11-21T10:00:00+0000", "wall_seconds": 1.0, "tokens_per_second": 10.0, "completions": 400, "errors": 0,
    "error_reasons": {}, "accuracy": 0.84, "accuracy_strict": 0.83, "format_rate": 1.0, "truncated": 0.0,
    "completion_tokens": 20.0, "mean_at_k": 0.84, "pass_at_k": {"1": 0.84}, "intervals": {"accuracy": [0.8, 0.87]},
    "test_openings": None,
}  # fmt: skip


def unpack(text: str):
    return json.loads(gzip.decompress(base64.b64decode(text)))


@pytest.fixture(autouse=True)
def few_charts(monkeypatch):
    """bokeh takes a tenth of a second for each; test_html_report_browser.py has them all."""
    monkeypatch.setattr("areal_gsm8k.report.page.page.CHARTS", [c for c in chart_list.CHARTS if c.name in CHARTS])


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "runs" / "e" / "t")


# What is in it


def test_a_run_is_told_in_order(run):
    append_lines(run.launches, [{"command": "./run train --resume r", "time": 1795279700.0, "step": 2, "spent": 60.0}])
    write_atomically(run.environment, json.dumps({"python": "3.11.2", "packages": {"torch": "2.9"}, "gpus": []}))
    found = parsed(run)
    assert [name for name in found.ids if name in SECTIONS] == SECTIONS
    said = found.said()
    for expected in (
        "e/t", "a/model", "./run train seed=1", "./run train --resume r", "after step 2",
        "accuracy 25.0% [4.6, 69.9] 50.0% [15.0, 85.0] +25.0 strict", "questions gained / lost 2 / 1",
        "From e/t, start to e/t, step 4: 2 gained, 1 lost, 0 right and 1 wrong both times.",
        "McNemar's exact test: p = 1.0000", "2 questions x 4 completions", "Python 3.11.2", "torch 2.9",
        "Near 0 whatever is learned", "To measure it: kl_reference=true", "answer_format: hash",
    ):  # fmt: skip
        assert expected in said, expected
    assert "sk-very-secret" not in said and "wandb_api_key: ***" in said


def test_samples_are_there_by_step_and_group(run):
    append_lines(run.rejected, [sample(2, 5, 0) | {"step": 2, "rejected": "no signal: all rewards equal"}])
    (steps,) = parsed(run).data()["samples"]
    assert list(steps) == ["1", "2", "3", "4"]
    groups = unpack(steps["2"])
    assert [(group["name"], len(group["samples"])) for group in groups] == [
        ("0-0", 4), ("0-1", 4), ("rejected train-2-5", 1)
    ]  # fmt: skip
    wrong = groups[0]["samples"][1]
    assert (wrong["lenient"], wrong["reward"], wrong["advantage"]) == (False, 0.0, -0.5)
    assert wrong["logprob_drift"] == 0.0012346 and wrong["completion"].startswith("step 2 group 0 member 1")


def test_every_metric_that_is_drawn_exists():
    named = re.findall(r"^\| `([^`]+)` \|", (PROJECT / "docs" / "metrics.md").read_text(), flags=re.MULTILINE)
    drawn = {series.key for chart in chart_list.CHARTS for series in chart.series}
    assert drawn <= set(named)


def test_a_chart_leaves_gaps_where_nothing_was_measured():
    gap = next(chart for chart in chart_list.CHARTS if chart.name == "logprobs")
    rows = run_facts.merged([metrics(1), metrics(2, logprob_gap=1e-6), metrics(3, logprob_drift=float("nan"))])
    drawn = figures.draw(gap, [figures.Curves("r", rows)])
    assert [label for label, _, _ in drawn.legend] == ["mean drift", "largest gap, current version"]
    nothing = figures.draw(gap, [figures.Curves("r", [{"step": 1}])])
    assert nothing.plot is None and nothing.legend == []


def test_several_runs_are_drawn_and_compared_together(tmp_path):
    runs = [make_run(tmp_path / "runs" / "e" / name, steps) for name, steps in (("a", 3), ("b", 5))]
    write_atomically(runs[1].config, CONFIG.replace("MODEL", "m").replace("0.0003", "0.001"))
    found = parsed(*runs, out=tmp_path / "both.html")
    said = found.said()
    for expected in ("2 runs", "e/a, start", "e/b, step 5", "actor.optimizer.lr 0.0003 0.001", "Seconds of a step"):
        assert expected in said, expected
    assert found.data()["names"] == ["e/a", "e/b"] and len(found.data()["samples"]) == 2
    assert said.count("sk-very-secret") == 0


def test_runs_of_other_items_say_why_there_is_no_table(tmp_path):
    runs = [make_run(tmp_path / "runs" / "e" / name) for name in "ab"]
    for step in (0, 4):
        others = [row | {"row": "x" + row["row"]} for row in dev_rows("RWWW")]
        write_atomically(runs[1].evaluation(step), to_lines(others))
    said = parsed(*runs, out=tmp_path / "both.html").said()
    assert "No table: 'e/a, start' and 'e/b, start' are of different items" in said
    assert "From e/b, start to e/b, step 4: 0 gained, 0 lost" in said


def test_runs_of_one_name_are_told_apart_and_a_run_named_twice_is_one(tmp_path):
    runs = [make_run(tmp_path / folder / "e" / "t") for folder in "ab"]
    assert parsed(*runs, out=tmp_path / "x.html").data()["names"] == ["a/e/t", "b/e/t"]
    assert parsed(runs[0], runs[0], out=tmp_path / "x.html").data()["names"] == ["e/t"]


def test_evaluations_of_its_checkpoints_are_found(run, monkeypatch):
    runs = run.root.parents[1]
    monkeypatch.chdir(runs.parent)
    for folder, model in {
        runs / "evaluations" / "of-run": "runs/e/t",
        runs / "evaluations" / "named" / "of-last": str(run.checkpoints / "last"),
        run.root / "evaluations" / "inside": "elsewhere",
        runs / "evaluations" / "other": "runs/e/t2",
    }.items():
        write_atomically(folder / "evaluation.json", json.dumps(CARD | {"model": model}))
    write_atomically(runs / "evaluations" / "broken" / "evaluation.json", "{")
    found = [card.model for card in evaluations.of_run(run.root)]
    assert sorted(found) == sorted(["elsewhere", "runs/e/t", str(run.checkpoints / "last")])
    said = parsed(run).said()
    assert said.count("accuracy 84.0% [80.0, 87.0]") == 3 and "400 dev rows of generated" in said


def test_secrets_are_masked_and_nothing_else_is():
    text = "wandb_api_key: abc\nhf_token=xyz password: 'p w'\nmax_tokens_per_mb: 5\ntokenizer_path: /x\napi_key: ''\n"
    masked = run_facts.masked(text)
    assert "abc" not in masked and "xyz" not in masked and "'p" not in masked
    assert "max_tokens_per_mb: 5\ntokenizer_path: /x\napi_key: ''" in masked


# What is not in it


def test_what_others_wrote_stays_text(tmp_path):
    hostile = make_hostile_run(tmp_path / f"{PAYLOADS[1]}@x $y")
    plain = parsed(make_run(tmp_path / "plain" / "t"))
    both = make_run(tmp_path / "other" / "t")
    for found in (parsed(hostile), parsed(hostile, both, out=tmp_path / "two.html")):
        assert len(found.scripts) == len(plain.scripts)
        assert "img" not in {tag for tag, _, _ in found.attributes}
        assert not [name for _, name, _ in found.attributes if name.startswith("on")]
        assert PAYLOADS[0] in found.said() and "{{7*7}}" in found.said()
        assert "\u2028" not in next(code for attributes, code in found.scripts if attributes.get("id") == "data")


def test_nothing_is_loaded_and_no_other_script_runs(run):
    html = page.write([run.root], run.report).read_text(encoding="utf-8")
    found = Parsed(html)
    loads = [
        value for _, name, value in found.attributes if name in ("src", "href", "srcset", "action", "data", "poster")
    ]
    assert loads and all(value.startswith("#") for value in loads)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL).group(1)
    assert not re.search(r"url\(|@import|https?:", style)
    policy = next(value for _, name, value in found.attributes if value.startswith("default-src"))
    checksums = re.findall(r"'sha256-([^']+)'", policy)
    scripts = [code for attributes, code in found.scripts if not attributes]
    assert checksums == [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in scripts]
    assert policy.startswith("default-src 'none';") and "unsafe-inline" not in policy.split("script-src")[1]


def test_a_run_of_240_steps_fits_into_five_megabytes(tmp_path):
    """As long as GSM8K's answers are; some steps have to be left out, and the page says so."""
    run = make_run(tmp_path / "e" / "t", steps=240)
    chance = random.Random(0)
    rows = [sample(1, g, m, completion=long_text(chance)) for g in range(8) for m in range(8)]
    for step in range(1, 241):  # one text for all: each step is packed by itself
        run.samples(step).write_text(to_lines(rows))
    found = parsed(run)
    assert 4_500_000 < run.report.stat().st_size < 5_000_000
    (steps,) = found.data()["samples"]
    numbers = list(map(int, steps))
    assert numbers[0] == 1 and numbers[-1] == 240 and len(numbers) > 60
    gaps = {after - before for before, after in itertools.pairwise(numbers)}
    assert max(gaps) - min(gaps) <= 1
    assert f"{len(numbers)} of 240 steps are in this file, evenly spaced" in found.said()


@pytest.mark.parametrize(("count", "expected"), [(9, "abcde"), (5, "abcde"), (3, "ace"), (2, "ae"), (1, "e"), (0, "")])
def test_evenly_spaced_with_the_first_and_the_last(count, expected):
    assert "".join(embedded_samples.evenly("abcde", count)) == expected


def test_steps_too_large_to_fit_are_left_out():
    assert embedded_samples.fitting([1, 2, 3], lambda step: "x" * 10, 25) == {1: "x" * 10, 3: "x" * 10}
    assert embedded_samples.fitting([1, 2, 3], lambda step: "x" * 10, 9) == {}
    assert embedded_samples.fitting([], lambda step: "", 9) == {}
