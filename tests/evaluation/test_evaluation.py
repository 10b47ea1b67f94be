"""One evaluation: items, folder, going on after an interruption, the sealed test split."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from areal_gsm8k.data import problems
from areal_gsm8k.evaluation import Card, EvaluationError, EvaluationSettings, engines, evaluate, items
from areal_gsm8k.evaluation.engine import Answer
from areal_gsm8k.evaluation.model import find
from areal_gsm8k.runs.files import read_lines

ROWS = items.load("generated", "dev", n=6)
SETTINGS = EvaluationSettings(answer_format="hash", max_new_tokens=16, engine="hf", batch_size=2)


class Parrot:
    """An engine that answers 42 and remembers what it was asked; it can be interrupted, and refuse some."""

    def __init__(self):
        self.asked, self.stop_after, self.refuse = [], None, set()

    def answer(self, requests, deliver):
        for request in requests:
            if self.stop_after is not None and len(self.asked) >= self.stop_after:
                raise KeyboardInterrupt
            self.asked.append((request.row, request.sample))
            refused = request.row in self.refuse
            deliver([(request, Answer(error="refused") if refused else Answer("#### 42", 3))])


@pytest.fixture
def parrot(monkeypatch):
    parrot = Parrot()

    @contextmanager
    def opened(*_):
        yield parrot

    monkeypatch.setattr(engines, "opened", opened)
    return parrot


def test_an_interrupted_evaluation_goes_on(untrained_model, tmp_path, parrot):
    settings = EvaluationSettings(answer_format="hash", k=2, temperature=1.0, max_new_tokens=16, engine="hf")
    parrot.stop_after = 5
    with pytest.raises(KeyboardInterrupt):
        evaluate(untrained_model, ROWS, settings, tmp_path)
    assert not (tmp_path / "evaluation.json").exists()
    with (tmp_path / "completions.jsonl").open("a") as out:
        out.write('{"row": "torn')
    before, parrot.asked, parrot.stop_after = parrot.asked, [], None
    card = evaluate(untrained_model, ROWS, settings, tmp_path)
    assert sorted(before + parrot.asked) == [(row, sample) for row in range(6) for sample in range(2)]
    assert (card.completions, card.n, card.k, card.errors) == (12, 6, 2, 0)
    lines = read_lines(tmp_path / "completions.jsonl")[0]
    assert len(lines) == 12 and lines[0]["question"] == ROWS.rows[0]["question"]
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    parrot.asked = []
    assert evaluate(untrained_model, ROWS, settings, tmp_path).accuracy == card.accuracy
    assert parrot.asked == []  # nothing is asked twice


def test_what_could_not_be_had_is_an_error_and_asked_again(untrained_model, tmp_path, parrot):
    parrot.refuse = {1, 4}
    card = evaluate(untrained_model, ROWS, SETTINGS, tmp_path)
    assert (card.errors, card.completions, card.error_reasons) == (2, 4, {"refused": 2})
    parrot.refuse, parrot.asked = set(), []
    card = evaluate(untrained_model, ROWS, SETTINGS, tmp_path)
    assert sorted(parrot.asked) == [(1, 0), (4, 0)]
    assert (card.errors, card.completions) == (0, 6)
    assert len(read_lines(tmp_path / "completions.jsonl")[0]) == 6


def test_a_reference_without_a_number_is_an_error_not_a_wrong_answer(untrained_model, tmp_path, parrot):
    (tmp_path / "dev.jsonl").write_text(
        '{"question": "Why?", "answer": "because"}\n{"question": "6*7", "answer": "42"}\n'
    )
    card = evaluate(untrained_model, items.load(tmp_path), SETTINGS, tmp_path / "out")
    assert (card.accuracy, card.errors, card.completions) == (0.5, 1, 2)
    assert "no single number" in next(iter(card.error_reasons))
    bad, good = read_lines(tmp_path / "out" / "completions.jsonl")[0]
    assert "lenient" not in bad and good["lenient"] is True and good["value"] == "42"


def test_a_grader_that_breaks_is_an_error(untrained_model, tmp_path, parrot, monkeypatch):
    from areal_gsm8k.grading import parser

    monkeypatch.setattr(parser, "grade", lambda *_: 1 / 0)
    card = evaluate(untrained_model, ROWS, SETTINGS, tmp_path)
    assert card.error_reasons == {"ZeroDivisionError: division by zero": 6}


def test_other_settings_in_the_same_folder_are_named(untrained_model, tmp_path, parrot):
    evaluate(untrained_model, ROWS, SETTINGS, tmp_path)
    other = EvaluationSettings(answer_format="hash", max_new_tokens=17, engine="hf", batch_size=5)
    with pytest.raises(EvaluationError, match=r"other settings: max_new_tokens was 16 and is 17. Choose another"):
        evaluate(untrained_model, ROWS, other, tmp_path)
    with pytest.raises(EvaluationError, match=r"data_checksum was .* n was 6 and is 5"):
        evaluate(untrained_model, items.load("generated", "dev", n=5), SETTINGS, tmp_path)
    with pytest.raises(EvaluationError, match=r"grader_version was '[0-9.]+' and is None"):
        evaluate(untrained_model, ROWS, SETTINGS, tmp_path, graded=False)
    changed = shutil.copytree(untrained_model, tmp_path / "changed")
    (changed / "config.json").write_text((changed / "config.json").read_text() + "\n")
    with pytest.raises(EvaluationError, match="model_checksum was"):
        evaluate(changed, ROWS, SETTINGS, tmp_path)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(EvaluationError, match=r"without settings.json"):
        evaluate(untrained_model, ROWS, SETTINGS, tmp_path)


def test_generate_keeps_completions_without_verdicts(untrained_model, tmp_path, parrot):
    card = evaluate(untrained_model, ROWS, SETTINGS, tmp_path, graded=False)
    assert card.accuracy is None and card.grader_version is None and card.completions == 6
    assert (tmp_path / "generation.json").exists() and not (tmp_path / "evaluation.json").exists()
    line = read_lines(tmp_path / "completions.jsonl")[0][0]
    assert line["completion"] == "#### 42" and "lenient" not in line


def test_every_opening_of_the_test_split_is_logged(untrained_model, tmp_path, parrot):
    log = tmp_path / "test_openings.jsonl"
    test = items.load("generated", "test", n=3)
    with pytest.raises(EvaluationError, match="sealed"):
        evaluate(untrained_model, test, SETTINGS, tmp_path / "a")
    assert evaluate(untrained_model, test, SETTINGS, tmp_path / "a", test_log=log, command="x y").test_openings == 1
    evaluate(untrained_model, ROWS, SETTINGS, tmp_path / "b", test_log=log)
    (tmp_path / "test.jsonl").write_text('{"question": "6*7?", "answer": "#### 42"}\n')
    elsewhere = items.load(tmp_path, "test")
    assert evaluate(untrained_model, elsewhere, SETTINGS, tmp_path / "c", test_log=log).test_openings == 1
    subset = items.load("generated", "test", subset="first2")
    assert evaluate(untrained_model, subset, SETTINGS, tmp_path / "d", test_log=log).test_openings == 2
    lines = read_lines(log)[0]
    assert [line["rows"] for line in lines] == [3, 1, 2]
    assert lines[0]["model"] == str(untrained_model) and lines[0]["command"] == "x y" and lines[0]["time"]
    assert json.loads((tmp_path / "d" / "evaluation.json").read_text())["test_openings"] == 2


def test_prompts_beyond_the_context_are_errors(untrained_model, tmp_path, parrot):
    model = shutil.copytree(untrained_model, tmp_path / "short")
    lengths = sorted(len(ids) for ids in _prompts(untrained_model))
    config = json.loads((model / "config.json").read_text())
    config["max_position_embeddings"] = lengths[-1] + 2  # the longest has no room left
    (model / "config.json").write_text(json.dumps(config))
    card = evaluate(model, ROWS, SETTINGS, tmp_path / "out")
    assert card.errors == lengths.count(lengths[-1])
    assert "leaves no room" in next(iter(card.error_reasons))


def _prompts(model):
    from areal_gsm8k.evaluation import Evaluation

    return Evaluation(find(str(model)), ROWS, SETTINGS).prompts


def test_items():
    whole = items.load("generated", "dev", seed=3)
    few = items.load("generated", "dev", n=7, seed=3)
    assert few.rows == whole.rows[:7] and few.checksum == problems.checksum(few.rows)
    assert few.split_checksum == whole.split_checksum == whole.checksum
    assert len(items.load("generated", "dev", n=600).rows) == 600  # more than the generator makes unasked
    first = items.load("generated", "test", subset="first500")
    assert len(first.rows) == 500 and first.subset == "first500"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset": "last5"}, "subset is 'last5'; it must be first500"),
        ({"subset": "first5", "n": 5}, "leave n=5 out"),
        ({"n": 0}, "n is 0"),
        ({"source": "nowhere.jsonl"}, "no such file"),
        ({"split": "exam"}, "split is 'exam'"),
    ],
)
def test_bad_items(options, message):
    with pytest.raises(problems.DataError, match=message):
        items.load(**{"source": "generated"} | options)


def test_too_few_rows_for_a_subset_and_empty_data(tmp_path):
    (tmp_path / "test.jsonl").write_text('{"question": "6*7?", "answer": "#### 42"}\n')
    with pytest.raises(problems.DataError, match="first500 needs 500 rows; the test split has 1"):
        items.load(tmp_path, "test", subset="first500")
    (tmp_path / "test.jsonl").write_text("")
    with pytest.raises(problems.DataError, match="is empty"):
        items.load(tmp_path, "test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answer_format": "box"}, "answer_format is 'box'"),
        ({"engine": "tgi"}, "engine is 'tgi'"),
        ({"engine": "hf", "url": "http://x"}, "asks none"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"k": 4}, "4 times the same completion"),
        ({"k": 0}, "k is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(EvaluationError, match=message):
        EvaluationSettings(**options)


def test_models_by_name(untrained_model, tmp_path):
    assert find(str(untrained_model)).checkpoint is None
    run = tmp_path / "grpo" / "7"
    shutil.copytree(untrained_model, run / "checkpoints" / "last")
    assert find(str(run)).checkpoint == "checkpoints/last"
    shutil.copytree(untrained_model, run / "checkpoints" / "best")
    best = find(str(run))
    assert (best.checkpoint, best.folder, best.slug) == ("checkpoints/best", run / "checkpoints" / "best", "grpo-7")
    assert best.context_length == 4096 and best.cpu_threads == 1
    shutil.copytree(untrained_model, tmp_path / "sft" / "model")
    assert find(str(tmp_path / "sft")).checkpoint == "model"
    weights = best.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert find(str(run)).checksum != find(str(untrained_model)).checksum == find(str(tmp_path / "sft")).checksum


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere", "not a hub id either"), (".", "neither a model"), ("someone/nothing", "no such folder here, and ")],
)
def test_models_that_are_not_there(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EvaluationError, match=message):
        find(name)


def test_a_model_without_a_tokenizer(untrained_model, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(untrained_model / name, model)
    with pytest.raises(EvaluationError, match="holds no tokenizer"):
        evaluate(str(model), ROWS, SETTINGS, tmp_path / "out")


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_command_goes_on_where_it_stopped(untrained_model, tmp_path):
    """The second call completes what the killed first one left, to what one call would have made."""
    options = [
        *("--data", "generated", "--n", "12", "--answer-format", "hash", "--max-new-tokens", "40"),
        *("--engine", "hf", "--batch-size", "1", "--output-dir", str(tmp_path / "out")),
    ]
    command = [sys.executable, "-m", "areal_gsm8k", "eval", str(untrained_model), *options]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    folder = tmp_path / "out" / find(str(untrained_model)).slug
    deadline = time.monotonic() + 120
    while not read_lines(folder / "completions.jsonl")[0]:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    had = (folder / "completions.jsonl").read_text()
    settings = EvaluationSettings(answer_format="hash", max_new_tokens=40, engine="hf", batch_size=12)
    rows = items.load("generated", "dev", n=12)
    card = evaluate(untrained_model, rows, settings, folder)
    whole = evaluate(untrained_model, rows, settings, tmp_path / "whole")
    assert 0 < had.count("\n") < 12 and card.completions == 12
    assert (folder / "completions.jsonl").read_text().startswith(had[: had.rfind("\n")])
    assert _texts(folder) == _texts(tmp_path / "whole")
    assert (card.accuracy, card.completion_tokens) == (whole.accuracy, whole.completion_tokens)


def _texts(folder):
    return {line["row"]: line["completion"] for line in read_lines(folder / "completions.jsonl")[0]}


def test_the_card_of_a_run_says_which_checkpoint(untrained_model, tmp_path, parrot):
    shutil.copytree(untrained_model, tmp_path / "run" / "checkpoints" / "last")
    evaluate(tmp_path / "run", ROWS, SETTINGS, tmp_path / "out")
    card = Card.read(tmp_path / "out" / "evaluation.json")
    assert card.checkpoint == "checkpoints/last" and card.model == str(tmp_path / "run")
    assert card.engine == "hf" and card.software.keys() == {"transformers", "torch"}
    assert card.prompt_hash and card.data_checksum == ROWS.checksum and card.tokens_per_second > 0
