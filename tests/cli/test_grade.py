"""`gsm8k grade` and `gsm8k reward attack`, as typed.

python -m pytest tests/cli/test_grade.py
"""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from areal_gsm8k.cli import app
from areal_gsm8k.grading import attacks
from areal_gsm8k.grading.other_graders import CONVENTIONS

ROWS = [
    {"completion": "So\n#### 18", "answer": "9*2=18\n#### 18", "id": 1},
    {"completion": "\\boxed{1,800}", "reference": "1800"},
    {"completion": "#### 7", "reference": "no number"},
]


def gsm8k(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row) for row in ROWS]
    path.write_text("\n".join([*lines[:2], "{broken", lines[2], '{"completion": 3, "reference": "3"}', ""]))
    return path


def test_one_completion():
    right = gsm8k("grade", "So \\boxed{18}.", "18")
    assert right.exit_code == 0
    assert right.output.splitlines()[:3] == ["verdict    right (strict)", "rule       boxed", "extracted  18"]
    assert "verdict    wrong" in gsm8k("grade", "#### 17", "18").output
    assert "verdict    right" in gsm8k("grade", "It fell to -5", "-5").output
    undecided = gsm8k("grade", "18", "eighteen")
    assert undecided.exit_code == 1
    assert "verdict    not decided" in undecided.output


def test_a_file_gets_verdicts_and_loses_no_line(file, tmp_path):
    out = tmp_path / "graded.jsonl"
    result = gsm8k("grade", "--file", file, "--out", out, "--answer-format", "hash")
    assert result.exit_code == 1
    for place in (
        f"{file}:3: not JSON",
        f"{file}:4: the reference holds no",
        f"{file}:5: `completion` is 3, not a text",
    ):
        assert result.output.count(place) == 1, result.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["verdict"]["lenient"], row["verdict"]["strict"]) for row in rows if "verdict" in row] == [
        (True, True),
        (True, False),
        (False, False),
    ]
    assert rows[0]["id"] == 1
    assert rows[2]["line"] == "{broken"
    assert rows[4]["completion"] == 3 and "error" in rows[4]


def test_an_interrupted_write_leaves_the_old_file(file, tmp_path, monkeypatch):
    out = tmp_path / "graded.jsonl"
    out.write_text("old")

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    result = gsm8k("grade", "--file", file, "--out", out)
    assert result.exit_code == 1 and "no space left" in result.output
    assert out.read_text() == "old"


def test_conventions_are_compared(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:2]))
    result = gsm8k("grade", "--file", path, "--compare")
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in CONVENTIONS)
    assert f"{path}:1: 'So\\n#### 18' for '9*2=18\\n#### 18': paid by ours, strict-hash, last-number" in result.output


def test_the_conventions_differ_where_the_peers_do():
    def payers(completion, reference="1080"):
        return {name for name, pays in CONVENTIONS.items() if name != "math-verify" and pays(completion, reference)}

    assert payers("#### 1,080") == {"ours", "strict-hash", "last-number"}
    assert payers("\\boxed{1080}") == {"ours", "strict-boxed", "last-number"}
    assert payers("<answer>1080</answer>") == {"ours", "tags", "last-number"}
    assert payers("The answer is 1080. See page 7.") == {"ours"}
    assert payers("<think>1080</think>") == {"last-number"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("18",), "give a COMPLETION and a REFERENCE"),
        (("18", "18", "--compare"), "or --file"),
        (("18", "18", "--answer-format", "latex"), "answer_format: found 'latex'"),
        (("--file", "missing.jsonl"), "missing.jsonl"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message):
    result = gsm8k("grade", *arguments)
    assert result.exit_code == 1
    assert result.output.startswith("error: ") and message in result.output


def test_no_attack_is_paid_by_ours_in_any_answer_format():
    result = gsm8k("reward", "attack")
    assert result.exit_code == 0, result.output
    assert f"{len(list(attacks.attacks()))} attacks: 0 paid, 0 failed" in result.output
    for weights in ("accuracy=1", "ternary=1"):
        assert gsm8k("reward", "attack", "--reward", weights).exit_code == 0


def test_what_a_weak_reward_pays_is_told():
    result = gsm8k("reward", "attack", "--reward", "last-number")
    assert result.exit_code == 1
    assert "thinking only: the gold in the thinking: paid 1" in result.output
    stuffed = gsm8k("reward", "attack", "--reward", "accuracy=1,format=0.2", "--answer-format", "tags")
    assert stuffed.exit_code == 1 and "tag stuffing: every number in tags: paid 0.2" in stuffed.output


def test_a_function_of_the_users_own_is_attacked(tmp_path, monkeypatch):
    (tmp_path / "generous.py").write_text(
        "def fn(prompt, completion, prompt_ids, completion_ids, **row):\n"
        "    if 'exec' in completion: raise ValueError('caught')\n"
        "    return float('18' in completion[:1000])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    result = gsm8k("reward", "attack", "--reward", "generous:fn")
    assert result.exit_code == 1
    assert "echo: the question: paid 1" in result.output
    assert "code: exec: RewardError: generous:fn raised ValueError: caught" in result.output


@pytest.mark.parametrize(
    ("spec", "message"),
    [("fair", "no such convention"), ("accuracy=x", "'x' is no number"), ("acuracy=1", "no part 'acuracy'")],
)
def test_a_reward_that_is_not_there(spec, message):
    result = gsm8k("reward", "attack", "--reward", spec)
    assert result.exit_code == 1 and message in result.output


def test_help_loads_nothing_heavy():
    code = (
        "import sys, areal_gsm8k.cli; "
        "sys.exit(bool({'sympy', 'torch', 'datasets', 'math_verify', 'yaml', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
