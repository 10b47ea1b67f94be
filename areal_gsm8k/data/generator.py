"""Word problems made here: fifteen kinds, one to three steps, with calculator-annotated worked solutions.

Why: nothing can be downloaded on a bare machine, and a model made from scratch in a minute needs problems it can learn.
The solutions end in `#### N` as GSM8K's do. `problems.load_problems("generated", ...)`, `gsm8k data
prepare --source generated` and the warm start in sft/tiny.py use this file.

The splits cannot overlap: a hash of the question decides its split, whatever the seed, so no dev or test question is
ever trained on (the same numbers may be, with other names). Only `Random.random()` is used, the one generator whose
sequence Python promises to keep between versions.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

ADDENDS = range(2, 13)  # the letters a, b, c, d of a kind
FACTORS = range(2, 7)  # the letters f, g, h, k of a kind
NAMES = ("Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo", "Ivy", "Jack", "Kim", "Leo")
THINGS = ("apples", "books", "cards", "coins", "eggs", "marbles", "pears", "pens", "shells", "stamps", "stones", "toys")
SPLITS = {"dev": range(0, 10), "test": range(10, 20), "train": range(20, 100)}  # hash buckets out of 100
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}


@dataclass(frozen=True)
class Kind:
    """One kind of problem.

    text: the question, with {who}, {other}, {things} and the numbers' letters.
    letters: the numbers drawn; `x`, where given, is computed from them so that every step comes out whole.
    steps: the worked solution, each "word left operator right"; s1 and s2 are the results of the first and second.
    mistake: what a careless solver does here: "skip" leaves out the last step, an operator replaces the last one.
    wrong: share of the noisy corpus in which this kind is solved with its mistake.
    """

    name: str
    text: str
    letters: str
    steps: tuple[str, ...]
    mistake: str
    wrong: float
    x: Callable[[dict], int] | None = None


def _product(numbers: dict[str, int]) -> int:
    return numbers["f"] * numbers["g"]


HAVE = "How many {things} does {who} have?"
TOGETHER = "How many {things} do they have together?"
EACH = "How many does each friend get?"
# Eight kinds are mostly solved wrongly (.7), seven mostly rightly (.4 wrong): 44 % of the noisy corpus is right.
KINDS = (
    Kind("gain", "{who} has {a} {things} and buys {b} more. " + HAVE, "ab", ("total a + b",), "-", 0.7),
    Kind("lose", "{who} has {a} {things} and loses {b}. " + HAVE, "ab", ("left a - b",), "+", 0.7),
    Kind("boxes", "{who} has {f} boxes of {g} {things}. " + HAVE, "fg", ("total f * g",), "+", 0.4),
    Kind("share", "{who} shares {x} {things} among {f} friends. " + EACH, "fg", ("each x / f",), "-", 0.7, x=_product),
    Kind(
        "gain_gain",
        "{who} has {a} {things}, buys {b} and then finds {c}. " + HAVE,
        "abc",
        ("then a + b", "total s1 + c"),
        "skip",
        0.7,
    ),
    Kind(
        "gain_lose",
        "{who} has {a} {things}, buys {b} and then loses {c}. " + HAVE,
        "abc",
        ("then a + b", "left s1 - c"),
        "+",
        0.7,
    ),
    Kind(
        "boxes_gain",
        "{who} has {f} boxes of {g} {things} and buys {c} more. " + HAVE,
        "fgc",
        ("then f * g", "total s1 + c"),
        "skip",
        0.7,
    ),
    Kind(
        "boxes_lose",
        "{who} has {f} boxes of {g} {things} and loses {c}. " + HAVE,
        "fgc",
        ("then f * g", "left s1 - c"),
        "+",
        0.7,
    ),
    Kind(
        "more_than",
        "{who} has {a} {things}. {other} has {b} more than {who}. " + TOGETHER,
        "ab",
        ("then a + b", "total a + s1"),
        "skip",
        0.4,
    ),
    Kind(
        "fewer_than",
        "{who} has {a} {things}. {other} has {b} fewer than {who}. " + TOGETHER,
        "ab",
        ("then a - b", "total a + s1"),
        "skip",
        0.4,
    ),
    Kind(
        "times_as_many",
        "{who} has {a} {things}. {other} has {f} times as many. " + TOGETHER,
        "af",
        ("then f * a", "total s1 + a"),
        "-",
        0.4,
    ),
    Kind(
        "share_gain",
        "{who} shares {x} {things} among {f} friends, who had {c} each. How many does each friend have?",
        "fgc",
        ("then x / f", "total s1 + c"),
        "skip",
        0.7,
        x=_product,
    ),
    Kind(
        "gain_share",
        "{who} has {x} {things}, buys {b} and shares all among {f} friends. " + EACH,
        "fgb",
        ("then x + b", "each s1 / f"),
        "-",
        0.4,
        x=lambda n: n["f"] * n["g"] - n["b"],
    ),
    Kind(
        "two_boxes",
        "{who} has {f} boxes of {g} {things} and {h} bags of {k} {things}. " + HAVE,
        "fghk",
        ("then f * g", "then h * k", "total s1 + s2"),
        "skip",
        0.4,
    ),
    Kind(
        "boxes_lose_gain",
        "{who} has {f} boxes of {g} {things}, loses {c} and then finds {d}. " + HAVE,
        "fgcd",
        ("then f * g", "then s1 - c", "total s2 + d"),
        "-",
        0.4,
    ),
)


def _pick(random: Random, options):
    return options[int(random.random() * len(options))]


def _solve(kind: Kind, numbers: dict[str, int], careless: bool) -> tuple[str, int] | None:
    """Worked solution and its answer; None where a step would leave the positive whole numbers."""
    values = dict(numbers)
    steps = [step.split() for step in kind.steps]
    if careless and kind.mistake == "skip":
        steps.pop()
    elif careless:
        steps[-1][2] = kind.mistake
    lines = []
    for index, (word, left, op, right) in enumerate(steps, 1):
        x, y = values[left], values[right]
        if careless and op == "-" and x < y:
            x, y = y, x  # the careless solver takes the smaller from the larger
        result = OPERATORS[op](x, y)
        if result < 1 or (op == "/" and result * y != x):
            return None
        values[f"s{index}"] = result
        lines.append(f"{word} <<{x}{op}{y}={result}>>{result}")
    return "\n".join([*lines, f"#### {result}"]), result


def split_of(question: str) -> str:
    """The split that owns a question, the same for every seed and every run."""
    bucket = int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big") % 100
    return next(split for split, buckets in SPLITS.items() if bucket in buckets)


def _draw(kind: Kind, split: str, random: Random) -> dict | None:
    """One problem of this kind with its right and its careless solution; None when the draw does not fit."""
    numbers = {letter: _pick(random, ADDENDS if letter in "abcd" else FACTORS) for letter in kind.letters}
    who, things = _pick(random, NAMES), _pick(random, THINGS)
    other = _pick(random, [name for name in NAMES if name != who])
    if kind.x is not None:
        numbers["x"] = kind.x(numbers)
    if min(numbers.values()) < 2:
        return None
    right, careless = _solve(kind, numbers, False), _solve(kind, numbers, True)
    if right is None or careless is None or right[1] == careless[1]:
        return None
    question = kind.text.format(who=who, other=other, things=things, **numbers)
    if split_of(question) != split:
        return None
    return {"question": question, "answer": right[0], "careless": careless[0], "kind": kind}


def _stream(split: str, rows: int, seed: int, purpose: str):
    """`rows` distinct problems of a split, every block of fifteen holding each kind once; yields (problem, random)."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(sorted(SPLITS))}, not {split!r}")
    random = Random(int.from_bytes(hashlib.sha256(f"{purpose} {split} {seed}".encode()).digest()[:8], "big"))
    seen: set[str] = set()
    order: list[Kind] = []
    for _ in range(rows):
        order = order or sorted(KINDS, key=lambda kind: random.random())
        kind = order.pop()
        for _attempt in range(5_000):
            problem = _draw(kind, split, random)
            if problem is not None and problem["question"] not in seen:
                break
        else:
            raise ValueError(
                f"rows={rows}: the generator knows only {len(seen):,} different {split} problems; ask for fewer"
            )
        seen.add(problem["question"])
        yield problem, random


def generate(split: str, rows: int, seed: int) -> list[dict]:
    """`rows` different problems of one split, reproducible from the seed.

    Each has id, question, answer (a right worked solution ending in "#### N"), kind (a name) and steps (1 to 3). A
    longer list starts with the shorter one. Raises ValueError for an unknown split, or more rows than there are.
    """
    return [
        {
            "id": f"generated-{split}-{seed}-{index:05d}",
            "question": problem["question"],
            "answer": problem["answer"],
            "kind": problem["kind"].name,
            "steps": len(problem["kind"].steps),
        }
        for index, (problem, _) in enumerate(_stream(split, rows, seed, "problems"))
    ]


def noisy_corpus(rows: int, seed: int) -> list[dict]:
    """`rows` train problems with worked solutions of which about 44 % are right: a corpus as scraped data is.

    Each row has id, question, answer, kind and right (bool). A wrong solution shows its kind's one mistake with
    otherwise correct arithmetic. A model fitted to it holds the right way in its samples and often not in its greedy
    answer: the start that reinforcement learning can improve.
    """
    corpus = []
    for index, (problem, random) in enumerate(_stream("train", rows, seed, "corpus")):
        right = random.random() >= problem["kind"].wrong
        corpus.append(
            {
                "id": f"noisy-{seed}-{index:05d}",
                "question": problem["question"],
                "answer": problem["answer"] if right else problem["careless"],
                "kind": problem["kind"].name,
                "right": right,
            }
        )
    return corpus
