import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from areal_gsm8k.data.generator import KINDS, generate, noisy_corpus, split_of
from areal_gsm8k.paths import PROJECT

STEP = re.compile(r"(\w+) <<(\d+)([-+*/])(\d+)=(\d+)>>(\d+)")


def check_arithmetic(answer: str) -> None:
    *steps, last = answer.split("\n")
    assert steps
    for step in steps:
        _, left, op, right, result, shown = STEP.fullmatch(step).groups()
        exact = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}
        assert result == shown
        assert int(left) == int(result) * int(right) if op == "/" else exact[op] == int(result)
        assert int(result) > 0
    assert last == f"#### {result}"


def test_fifteen_kinds_of_one_to_three_steps():
    assert Counter(len(kind.steps) for kind in KINDS) == {1: 4, 2: 9, 3: 2}
    assert Counter(kind.wrong for kind in KINDS) == {0.7: 8, 0.4: 7}
    assert len({kind.name for kind in KINDS}) == 15


def test_every_step_of_every_solution_is_right():
    for row in generate("train", 600, seed=3) + noisy_corpus(600, seed=3):
        check_arithmetic(row["answer"])


def test_answers_solve_the_question():
    rows = {row["kind"]: row for row in generate("dev", 15, seed=7)}
    numbers = {kind: [int(n) for n in re.findall(r"\d+", row["question"])] for kind, row in rows.items()}
    final = {kind: int(row["answer"].rpartition("#### ")[2]) for kind, row in rows.items()}
    solved = {
        "gain": lambda a, b: a + b,
        "lose": lambda a, b: a - b,
        "boxes": lambda f, g: f * g,
        "share": lambda x, f: x // f,
        "gain_gain": lambda a, b, c: a + b + c,
        "gain_lose": lambda a, b, c: a + b - c,
        "boxes_gain": lambda f, g, c: f * g + c,
        "boxes_lose": lambda f, g, c: f * g - c,
        "more_than": lambda a, b: a + a + b,
        "fewer_than": lambda a, b: a + a - b,
        "times_as_many": lambda a, f: a + a * f,
        "share_gain": lambda x, f, c: x // f + c,
        "gain_share": lambda x, b, f: (x + b) // f,
        "two_boxes": lambda f, g, h, k: f * g + h * k,
        "boxes_lose_gain": lambda f, g, c, d: f * g - c + d,
    }
    assert rows.keys() == solved.keys()
    for kind, solve in solved.items():
        assert final[kind] == solve(*numbers[kind]), rows[kind]


def test_splits_are_disjoint_and_questions_unique():
    splits = ("train", "dev", "test")
    questions = {split: [r["question"] for s in (1, 2) for r in generate(split, 450, s)] for split in splits}
    for split, found in questions.items():
        assert all(split_of(question) == split for question in found)
    assert not set(questions["train"]) & set(questions["dev"])
    assert not set(questions["dev"]) & set(questions["test"])
    assert all(split_of(row["question"]) == "train" for row in noisy_corpus(300, seed=1))
    rows = generate("dev", 900, seed=1)
    assert len({row["question"] for row in rows}) == len({row["id"] for row in rows}) == 900


def test_same_seed_same_problems_in_another_process():
    code = "from areal_gsm8k.data.generator import *; print(generate('dev', 40, 5), noisy_corpus(40, 5))"
    seen = set()
    for hashseed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hashseed}
        command = [sys.executable, "-c", code]
        seen.add(subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, check=True).stdout)
    assert seen == {f"{generate('dev', 40, 5)} {noisy_corpus(40, 5)}\n".encode()}
    assert generate("dev", 40, 5) != generate("dev", 40, 6)


def test_first_problem_is_the_one_ever_generated():
    """Pins the stream: a change of generator, hash or Python must not silently change every published number."""
    assert generate("dev", 1, seed=0)[0] == {
        "id": "generated-dev-0-00000",
        "question": "Leo has 11 eggs. Ben has 2 times as many. How many eggs do they have together?",
        "answer": "then <<2*11=22>>22\ntotal <<22+11=33>>33\n#### 33",
        "kind": "times_as_many",
        "steps": 2,
    }


def test_a_longer_list_starts_with_the_shorter_one_and_holds_every_kind():
    rows = generate("test", 45, seed=2)
    assert rows[:20] == generate("test", 20, seed=2)
    assert set(Counter(row["kind"] for row in rows).values()) == {3}


def test_noisy_corpus_is_right_less_than_half_the_time():
    rows = noisy_corpus(4500, seed=1)
    wrong = Counter(row["kind"] for row in rows if not row["right"])
    assert 0.42 < sum(row["right"] for row in rows) / len(rows) < 0.46
    for kind in KINDS:
        assert abs(wrong[kind.name] / 300 - kind.wrong) < 0.1


def test_a_wrong_solution_shows_its_kinds_one_mistake():
    answers = {kind.name: {True: [], False: []} for kind in KINDS}
    for row in noisy_corpus(900, seed=4):
        answers[row["kind"]][row["right"]].append(row["answer"])
    for kind in KINDS:
        right, wrong = answers[kind.name][True], answers[kind.name][False]
        assert {len(STEP.findall(answer)) for answer in right} == {len(kind.steps)}
        if kind.mistake == "skip":
            assert {len(STEP.findall(answer)) for answer in wrong} == {len(kind.steps) - 1}
        else:
            assert {STEP.findall(answer)[-1][2] for answer in wrong} == {kind.mistake}


def test_bad_requests_say_what_to_do():
    with pytest.raises(ValueError, match="split must be one of dev, test, train"):
        generate("valid", 1, 0)
    with pytest.raises(ValueError, match="ask for fewer"):
        generate("dev", 8_000, 0)
