"""The grader on all 8,792 gold solutions: right against themselves, wrong against answer + 1, in every answer format.

The data is read from ../shared/gsm8k next to the repository; without it these tests skip.
"""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest

import math_parser
from math_parser import grade, process_results

DATA = Path(math_parser.__file__).parent.parent / "shared" / "gsm8k"

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"real GSM8K not found at {DATA}: put train.jsonl and test.jsonl there"
)

WRITE = {
    "boxed": lambda work, answer: f"{work}So the answer is $\\boxed{{{answer}}}$.",
    "tags": lambda work, answer: f"<think>\n{work}</think>\n<answer>{answer}</answer>",
    "hash": lambda work, answer: f"{work}#### {answer}",
}


@pytest.fixture(scope="module")
def golds():
    """(worked solution without its last line, answer as written, whole gold) for train and test."""
    rows = []
    for split in ("train", "test"):
        with (DATA / f"{split}.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                gold = json.loads(line)["answer"]
                work, _, answer = gold.rpartition("####")
                rows.append((work, answer.strip(), gold))
    assert len(rows) == 8792
    return rows


def test_every_gold_is_right_against_itself(golds):
    lost = [
        gold
        for _, answer, gold in golds
        if process_results(gold, gold)[0] != 1 or process_results(gold, answer)[0] != 1
    ]
    assert not lost, (len(lost), lost[:3])


@pytest.mark.parametrize("answer_format", WRITE)
def test_every_answer_is_strictly_right_and_answer_plus_one_wrong(golds, answer_format):
    write = WRITE[answer_format]
    for work, answer, gold in golds:
        plus_one = str(Fraction(answer.replace(",", "")) + 1)
        right = grade(write(work, answer), gold, answer_format)
        wrong = grade(write(work, plus_one), gold, answer_format)
        assert (right.strict, right.rule) == (True, answer_format), (right, work)
        assert (wrong.lenient, wrong.formatted, wrong.value) == (False, True, plus_one), (wrong, work)


def test_references_are_the_written_integers(golds):
    for _, answer, gold in golds:
        expected = answer.replace(",", "")
        assert re.fullmatch(r"-?\d+", expected)
        assert grade("", gold).reference == expected


def test_the_last_number_recovers_most_unmarked_solutions(golds):
    """A gold's work does not always end in its answer, so this is a floor and not 1."""
    right = sum(grade(work, gold).lenient for work, _, gold in golds)
    assert right / len(golds) > 0.97
