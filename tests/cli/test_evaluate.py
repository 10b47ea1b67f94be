"""`gsm8k eval` and `gsm8k generate` as typed."""

import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from areal_gsm8k.cli import app
from areal_gsm8k.runs.files import read_lines

CHEAP = ["--data", "generated", "--n", "4", "--answer-format", "hash", "--max-new-tokens", "8", "--engine", "hf"]


def gsm8k(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "160"})


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_models_one_table_and_a_count_of_openings(untrained_model, here):
    (here / "run" / "checkpoints").mkdir(parents=True)
    (here / "run" / "checkpoints" / "best").symlink_to(untrained_model)
    result = gsm8k("eval", untrained_model, "run", "--split", "test", *CHEAP)
    assert result.exit_code == 0, result.output
    assert "run (checkpoints/best): 4 test rows, engine hf, files in runs/evaluations/" in result.output
    assert "4/4" in result.output and "4 test rows of generated, greedy" in result.output
    assert "opened 2 times" in result.output and "test_openings.jsonl" in result.output
    assert len(read_lines(here / "runs" / "test_openings.jsonl")[0]) == 2
    cards = [json.loads(file.read_text()) for file in (here / "runs" / "evaluations").glob("*/evaluation.json")]
    assert {card["checkpoint"] for card in cards} == {None, "checkpoints/best"}
    assert all(card["n"] == 4 and card["command"].startswith("gsm8k") for card in cards)


def test_the_same_command_again_asks_nothing_and_other_settings_get_their_own_folder(untrained_model, here):
    command = ["eval", untrained_model, *CHEAP]
    first, again = gsm8k(*command), gsm8k(*command)
    assert again.exit_code == 0 and "4/4" in first.output and "4/4" not in again.output
    assert gsm8k(*command, "--system-prompt", "Be right.").exit_code == 0
    assert len(list((here / "runs" / "evaluations").iterdir())) == 2
    assert not (here / "runs" / "test_openings.jsonl").exists()


def test_a_chosen_folder_refuses_other_settings(untrained_model, here):
    command = ["eval", untrained_model, *CHEAP, "--output-dir", here / "out"]
    assert gsm8k(*command).exit_code == 0
    refused = gsm8k(*command, "--seed", "7")
    assert refused.exit_code == 1
    assert "other settings: data_checksum was" in refused.output and "seed was 0 and is 7" in refused.output


def test_generate_does_not_grade(untrained_model, here):
    result = gsm8k("generate", untrained_model, *CHEAP, "--k", "2", "--temperature", "1", "--output-dir", here / "out")
    assert result.exit_code == 0, result.output
    assert "accuracy" not in result.output and "8/8" in result.output
    (folder,) = (here / "out").iterdir()
    assert (folder / "generation.json").exists()
    assert all("lenient" not in line for line in read_lines(folder / "completions.jsonl")[0])
    assert "without grading" in gsm8k("generate", "--help").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", *CHEAP], "nowhere: no such folder, and not a hub id either"),
        (["MODEL", "--data", "nowhere.jsonl"], "nowhere.jsonl: no such file or folder"),
        (["MODEL", "--data", "generated", "--subset", "last500"], "it must be first500"),
        (["MODEL", "--data", "generated", "--n", "4", "--k", "4"], "raise temperature"),
        (["MODEL", "MODEL", "--data", "generated", "--url", "http://127.0.0.1:9"], "--url serves one model, and 2"),
        (["MODEL", "--data", "generated", "--url", "http://127.0.0.1:9"], "no server answers there"),
    ],
)
def test_bad_input_is_one_line(untrained_model, here, arguments, message):
    result = gsm8k("eval", *(str(untrained_model) if name == "MODEL" else name for name in arguments))
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert result.output.startswith("error: ") and message in result.output and result.output.count("\n") == 1


def test_nothing_but_errors_is_a_failure(untrained_model, here):
    (here / "dev.jsonl").write_text('{"question": "Why?", "answer": "[/bold] because"}\n')
    result = gsm8k("eval", untrained_model, "--data", here, "--max-new-tokens", "8", "--engine", "hf")
    assert result.exit_code == 1
    assert re.search(r"1 without a verdict: the reference holds no single number: .*\[/bold\] because", result.output)


def test_help_loads_nothing_heavy():
    heavy = {"torch", "transformers", "datasets", "numpy", "scipy", "aiohttp", "matplotlib", "prompt_toolkit"}
    heavy |= {"areal", "sglang"}
    program = f"import sys, areal_gsm8k.cli; print(sorted({heavy!r} & sys.modules.keys()))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
