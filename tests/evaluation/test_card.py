from dataclasses import replace

import pytest
from rich.console import Console

from areal_gsm8k.evaluation.card import Card, outcome
from areal_gsm8k.evaluation.table import table
from areal_gsm8k.statistics import bootstrap_mean, wilson_interval


def row(lenient=False, strict=False, formatted=False, truncated=False, tokens=10, error=None, completion="text"):
    verdict = {} if error else {"lenient": lenient, "strict": strict, "formatted": formatted}
    return verdict | {"completion": completion, "truncated": truncated, "completion_tokens": tokens, "error": error}


def card(rows, k=1, graded=True, **changes):
    facts = {
        "model": "m", "checkpoint": None, "model_checksum": "c", "data": "generated", "split": "dev", "subset": None,
        "n": len(rows) // k, "data_checksum": "d", "answer_format": "hash", "system_prompt": None, "prompt_hash": "p",
        "prompt_ids_hash": "i", "k": k, "temperature": 0.0, "max_new_tokens": 48, "seed": 0, "engine": "hf",
        "software": {}, "served_model": None, "grader_version": "1", "command": "gsm8k eval", "time": "t",
        "wall_seconds": 2.0, "tokens_per_second": 20.0, "test_openings": None,
    }  # fmt: skip
    return Card(**facts | outcome(rows, k, graded) | changes)


def text(view, width=200) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def test_one_completion_an_item():
    rows = [row(lenient=True, strict=True, formatted=True, tokens=4), row(lenient=True, formatted=True, truncated=True)]
    rows += [row(formatted=True), row()]
    found = outcome(rows, 1, graded=True)
    assert (found["accuracy"], found["accuracy_strict"], found["format_rate"]) == (0.5, 0.25, 0.75)
    assert (found["truncated"], found["completion_tokens"], found["errors"]) == (0.25, 8.5, 0)
    assert found["mean_at_k"] == 0.5 and found["pass_at_k"] == {"1": 0.5}
    for name, right in (("accuracy", 2), ("accuracy_strict", 1), ("format_rate", 3), ("truncated", 1)):
        assert found["intervals"][name] == wilson_interval(right, 4)


def test_several_completions_an_item():
    rows = [row(lenient=right) for right in (1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0)]  # 1, 4 and 0 of 4
    found = outcome(rows, 4, graded=True)
    assert found["accuracy"] == found["mean_at_k"] == pytest.approx(5 / 12)
    assert found["pass_at_k"] == pytest.approx({"1": 5 / 12, "2": (0.5 + 1 + 0) / 3, "4": 2 / 3})
    assert found["intervals"]["accuracy"] == bootstrap_mean([0.25, 1.0, 0.0])
    assert found["intervals"]["pass_at_2"] == bootstrap_mean([0.5, 1.0, 0.0])
    assert outcome([row()] * 3, 3, graded=True)["pass_at_k"].keys() == {"1", "2", "3"}


def test_an_error_counts_in_n_and_apart():
    rows = [row(lenient=True), row(error="no answer", completion=None, tokens=0), row(error="bad gold", tokens=20)]
    found = outcome(rows, 1, graded=True)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert (found["completions"], found["errors"]) == (2, 2)
    assert found["error_reasons"] == {"no answer": 1, "bad gold": 1}
    assert found["completion_tokens"] == 15


def test_not_graded():
    found = outcome([row(truncated=True), row()], 1, graded=False)
    assert found["accuracy"] is found["mean_at_k"] is found["pass_at_k"] is None
    assert found["truncated"] == 0.5 and found["intervals"].keys() == {"truncated"}


def test_a_card_comes_back_from_its_file(tmp_path):
    written = card([row(lenient=True), row()])
    file = written.write(tmp_path)
    assert file.name == "evaluation.json"
    back = Card.read(file)
    assert replace(back, intervals={}) == replace(written, intervals={})
    assert {name: tuple(bounds) for name, bounds in back.intervals.items()} == written.intervals
    assert card([row()], graded=False).write(tmp_path).name == "generation.json"


def test_the_table_has_a_row_a_model_and_no_idle_column():
    other = card([row(), row()], model="other", checkpoint="checkpoints/best")
    shown = text(table([card([row(lenient=True), row()]), other]))
    assert "2 dev rows of generated, greedy" in shown
    assert "50.0%" in shown and "[9.5, 90.5]" in shown and "other" in shown and "checkpoints/best" in shown
    assert "pass@" not in shown and "errors" not in shown
    several = card([row(lenient=True), row(error="x", completion=None)], k=2, temperature=0.7, subset="first1")
    shown = text(table([several]))
    assert "(first1), temperature 0.7" in shown and "pass@2" in shown and "errors" in shown
    widest = card([row(lenient=True)] * 8, k=4, model="runs/an-experiment/20261121_101500", tokens_per_second=12345.0)
    shown = text(table([widest]), width=80)
    assert "…" not in shown and "[100.0, 100.0]" in shown and "12,345" in shown
    shown = text(table([card([row()], graded=False)]))
    assert "accuracy" not in shown and "trunc." in shown
