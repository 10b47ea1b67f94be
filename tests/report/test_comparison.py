"""`gsm8k compare`: its statistics against scipy and statsmodels, its figures against numbers worked out by hand."""

import json
import re

import pytest
from statsmodels.stats.proportion import proportion_confint
from typer.testing import CliRunner

from areal_gsm8k.cli import app
from areal_gsm8k.data.prompts import prompt_hash
from areal_gsm8k.report import comparison, comparison_table
from areal_gsm8k.report.gain_split import Rates, by_step, gain_split
from areal_gsm8k.report.graded import GradedError, read
from areal_gsm8k.runs.files import to_lines, write_atomically

CARD = {
    "model": "nowhere/model", "split": "dev", "data_checksum": "d",
    "prompt_hash": prompt_hash("hash"), "grader_version": "1", "k": 1, "temperature": 0.0,
    "max_new_tokens": 48, "test_openings": None,
}  # fmt: skip
BASE, TRAINED = "SLLL......", "SSSSSLF..."  # strict .1 -> .5, lenient .4 -> .6


def rows(verdicts: str, sample: int = 0) -> list[dict]:
    """One completion an item: S strict, L lenient only, F formatted but wrong, . wrong, ! without a verdict."""
    made = []
    for at, letter in enumerate(verdicts):
        row = {"row": f"dev-{at}", "sample": sample, "question": f"q{at}", "reference": "#### 1", "truncated": False}
        row |= {"completion": "...", "completion_tokens": 10 + at, "error": "broken" if letter == "!" else None}
        if letter != "!":
            row |= {"strict": letter == "S", "lenient": letter in "SL", "formatted": letter in "SF"}
        made.append(row)
    return made


def evaluation(folder, completions, **card):
    write_atomically(folder / "evaluation.json", json.dumps(CARD | card))
    write_atomically(folder / "completions.jsonl", to_lines(completions))
    return folder


@pytest.fixture
def base(tmp_path):
    return evaluation(tmp_path / "base", rows(BASE))


@pytest.fixture
def run(tmp_path):
    """A GRPO run as it lies on disk."""
    folder = tmp_path / "runs" / "grpo"
    config = "answer_format: hash\nvalid_dataset: {split: dev}\nactor: {path: tiny}\n"
    config += "gconfig: {n_samples: 8}\nreward: {accuracy: 1.0}\n"
    config += "eval_gconfig: {n_samples: 1, greedy: true, temperature: 1.0, max_new_tokens: 48}\n"
    write_atomically(folder / "config.yaml", config)
    for step, verdicts in ((0, BASE), (2, "SSLL......"), (3, TRAINED)):
        lines = [{key: row[key] for key in row if key not in ("sample", "error")} for row in rows(verdicts)]
        write_atomically(folder / "evaluations" / f"step_{step:05d}.jsonl", to_lines(lines))
    dev = {0: (0.1, 0.4, 0.1), 3: (0.5, 0.6, 0.6)}
    metrics = [{"step": step, "time/step": 5.0, "time/eval": 1.0 if step == 3 else None} for step in (1, 2, 3)]
    named = [dict(zip(("dev/accuracy_strict", "dev/accuracy", "dev/format_rate"), dev[s], strict=True)) for s in dev]
    metrics = [{"step": 0} | named[0], *metrics[:2], metrics[2] | named[1]]
    write_atomically(folder / "metrics.jsonl", to_lines(metrics))
    return folder


def compared(*folders) -> dict:
    return comparison.compare([model for folder in folders for model in read(str(folder))])


# Gain split


def test_gain_split_by_hand():
    """Right .4 -> .6, of those in the marker 1/4 -> 5/6."""
    split = gain_split(Rates(0.1, 0.4, 0.1), Rates(0.5, 0.6, 0.6))
    assert split.arithmetic == pytest.approx(0.2 * (1 / 4 + 5 / 6) / 2)
    assert split.format == pytest.approx((5 / 6 - 1 / 4) * 0.5)
    assert sum(split) == pytest.approx(0.4)


def test_pure_gains_are_wholly_of_their_kind():
    assert gain_split(Rates(0.1, 0.5, 0.2), Rates(0.5, 0.5, 0.9)) == pytest.approx((0.0, 0.4))
    assert gain_split(Rates(0.2, 0.4, 0.5), Rates(0.4, 0.8, 0.5)) == pytest.approx((0.2, 0.0))


def test_the_order_of_the_two_does_not_matter():
    one, other = Rates(0.017, 0.383, 0.05), Rates(0.487, 0.55, 0.9)
    assert gain_split(one, other) == pytest.approx([-part for part in gain_split(other, one)])
    assert sum(gain_split(one, other)) == pytest.approx(0.47)


def test_without_a_right_answer_the_format_rate_of_all_stands_in():
    assert gain_split(Rates(0.0, 0.0, 1.0), Rates(0.3, 0.3, 1.0)) == pytest.approx((0.3, 0.0))
    assert gain_split(Rates(0.0, 0.0, 0.0), Rates(0.3, 0.3, 1.0)) == pytest.approx((0.15, 0.15))
    with pytest.raises(ValueError, match="strict cannot be the larger share"):
        gain_split(Rates(0.3, 0.2, 1.0), Rates(0.3, 0.3, 1.0))


def test_gain_by_step_counts_from_the_first_evaluation():
    metrics = [{"step": 1, "reward": 1.0}]
    for step, strict in ((0, 0.1), (2, 0.2)):
        metrics += [{"step": step, "dev/accuracy": 0.4, "dev/accuracy_strict": strict, "dev/format_rate": 0.5}]
    assert by_step(metrics) == [
        {"step": 0, "arithmetic": 0.0, "format": 0.0},
        {"step": 2, "arithmetic": 0.0, "format": pytest.approx(0.1)},
    ]


# The table


def test_figures_of_two_evaluations_by_hand(base, tmp_path):
    other = evaluation(tmp_path / "other", list(reversed(rows(TRAINED))))  # in whatever order
    found = compared(base, other)
    first, second = found["models"]
    assert (found["items"], found["samples"], found["first"], found["notes"]) == (10, 1, "base", [])
    assert first["accuracy_strict"]["value"] == 0.1 and first["accuracy"]["value"] == 0.4
    interval = (first["accuracy_strict"]["low"], first["accuracy_strict"]["high"])
    assert interval == pytest.approx(proportion_confint(1, 10, method="wilson"))
    assert (second["format_rate"], second["completion_tokens"], second["truncated"]) == (0.6, 14.5, 0.0)
    strict, lenient = second["against_first"]["accuracy_strict"], second["against_first"]["accuracy"]
    assert (strict["gained"], strict["lost"], strict["p"]) == (4, 0, pytest.approx(0.125))
    assert (lenient["gained"], lenient["lost"], lenient["p"]) == (2, 0, pytest.approx(0.5))
    assert strict["difference"] == pytest.approx(0.4) and strict["low"] < 0.4 < strict["high"]
    split = second["against_first"]["gain_split"]
    assert split == pytest.approx({"arithmetic": 0.10833333, "format": 0.29166667})
    assert "against_first" not in first and second["training_seconds"] is None


def test_several_samples_an_item_are_bootstrapped_over_items(tmp_path):
    folders = [
        evaluation(tmp_path / name, rows(one) + rows(other, sample=1), k=2, temperature=1.0)
        for name, one, other in (("a", BASE, BASE), ("b", TRAINED, BASE))
    ]
    model = compared(*folders)["models"][1]
    assert model["accuracy_strict"]["value"] == pytest.approx(0.3)
    against = model["against_first"]["accuracy_strict"]
    assert (against["difference"], against["gained"], against["p"]) == (pytest.approx(0.2), 4, None)


def test_a_run_is_its_start_and_its_end(base, run):
    found = compared(base, run)
    assert [model["name"] for model in found["models"]] == ["base", "grpo, start", "grpo, step 3"]
    start, end = found["models"][1:]
    assert start["against_first"]["accuracy"]["difference"] == 0.0
    assert end["against_first"]["accuracy_strict"]["gained"] == 4
    assert (start["training_seconds"], end["training_seconds"]) == (None, 14.0)  # the evaluation's second left out
    assert end["gain_by_step"][-1] == pytest.approx({"step": 3} | end["against_first"]["gain_split"])
    assert "grpo, step 3: grader_version not recorded, so not checked." in found["notes"]


def test_training_time_of_our_own_trainings(tmp_path, run):
    sft = tmp_path / "sft"
    write_atomically(sft / "summary.json", json.dumps({"seconds": 12.5}))
    write_atomically(sft / "train_log.jsonl", "")
    for at, (model, seconds) in enumerate(
        [(sft, 12.5), (sft / "model", 12.5), (run, 14.0), (run / "checkpoints" / "best", 14.0), (tmp_path / "x", None)]
    ):
        folder = evaluation(tmp_path / f"of{at}", rows(BASE), model=str(model))
        assert read(str(folder))[0].training_seconds == seconds


@pytest.mark.parametrize(
    ("card", "verdicts", "change", "message"),
    [
        ({}, TRAINED + "S", {}, "1 only in 'other' (such as dev-10, sample 0)"),
        ({}, TRAINED[:-2], {}, "2 only in 'base' (such as dev-8, sample 0)"),
        ({}, TRAINED, {"question": "another"}, "dev-0 has another question in 'other'"),
        ({}, TRAINED, {"reference": "#### 2"}, "dev-0 has another reference in 'other'"),
        ({"prompt_hash": "other"}, TRAINED, {}, "prompt_hash is"),
        ({"grader_version": "2"}, TRAINED, {}, "grader_version is '1' for 'base' and '2' for 'other'"),
        ({"max_new_tokens": 512}, TRAINED, {}, "max_new_tokens is 48 for 'base' and 512"),
        ({"data_checksum": "e"}, TRAINED, {}, "data_checksum is"),
    ],
)
def test_what_cannot_be_compared_is_refused(base, tmp_path, card, verdicts, change, message):
    other = rows(verdicts)
    other[0] |= change
    folder = evaluation(tmp_path / "other", other, **card)
    with pytest.raises(GradedError, match=re.escape(message)):
        compared(base, folder)


def test_errors_count_as_not_right_and_are_named_and_test_openings_too(tmp_path):
    a = evaluation(tmp_path / "a", rows("SS"), split="test", test_openings=1)
    b = evaluation(tmp_path / "b", rows("S!"), split="test", test_openings=2)
    found = compared(a, b)
    assert found["models"][1]["accuracy"]["value"] == 0.5 and found["models"][1]["errors"] == 1
    assert found["notes"] == [
        "b: 1 of 2 completions without a verdict, counted as wrong.",
        "The test split had been opened 2 times.",
    ]


def test_the_command_prints_one_table_and_writes_it_in_three_forms(base, run, tmp_path):
    arguments = ["compare", f"before={base}", f"GRPO|1={run}", "--out", str(tmp_path / "out")]
    result = CliRunner(env={"COLUMNS": "150"}).invoke(app, arguments)
    assert result.exit_code == 0, result.output
    for said in ("before", "GRPO|1, step 3", "50.0%", "+40.0", "p = 0.1250", "4 / 0", "+29.2 / +10.8", "14 s"):
        assert said in result.output
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert text == comparison_table.markdown(found)
    assert r"| GRPO\|1, step 3 | 50.0%<br>[23.7, 76.3] | 60.0%<br>[31.3, 83.2] | 60.0% | 14 | 14 s | +40.0" in text
    assert {line.replace(r"\|", "").count("|") for line in text.splitlines() if line.startswith("|")} == {10}
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_the_command_says_what_it_cannot_use(base, tmp_path):
    empty = evaluation(tmp_path / "empty", rows("SS"))
    (empty / "completions.jsonl").unlink()
    twice = evaluation(tmp_path / "twice", rows("SS") + rows("S"))
    for arguments, message in [
        ([tmp_path / "nowhere"], "no such folder; it takes a folder with evaluation.json"),
        ([tmp_path], "For a model that was not evaluated yet: gsm8k eval MODEL"),
        ([empty], "completions.jsonl: is missing"),
        ([twice], "not every item has the same samples"),
        ([base, base], "names must differ, found base, base; give them as NAME=FOLDER"),
    ]:
        result = CliRunner(env={"COLUMNS": "500"}).invoke(app, ["compare", *map(str, arguments)])
        assert result.exit_code == 1
        assert message in result.output
