"""The card of an evaluation: what was measured, and everything another person needs to measure it again.

Written as evaluation.json (generation.json when nothing was graded); docs/evaluation.md explains every field.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from areal_gsm8k.runs.files import write_atomically
from areal_gsm8k.runs.records import RATES
from areal_gsm8k.statistics import bootstrap_mean, mean_at_k, pass_at_k, wilson_interval


@dataclass(frozen=True)
class Card:
    """Shares are between 0 and 1; times are seconds; intervals are 95 %. None: not graded, or nothing to count."""

    # the model, the items and the prompts
    model: str  # as named
    checkpoint: str | None  # which one, when the model is a run directory
    model_checksum: str  # sha256 of its configuration and weights
    data: str
    split: str
    subset: str | None
    n: int  # items
    data_checksum: str
    answer_format: str
    system_prompt: str | None
    prompt_hash: str  # of the words around a question
    prompt_ids_hash: str  # of the prompts as this model's token ids, chat template included
    k: int  # completions an item
    temperature: float
    max_new_tokens: int
    seed: int
    # the engine and the grader
    engine: str
    software: dict[str, str]
    served_model: str | None  # the name that a server at a URL gives its model
    grader_version: str | None
    command: str
    time: str  # when it was finished
    wall_seconds: float  # of generating and grading, interruptions and loading left out
    tokens_per_second: float | None  # completion tokens over wall_seconds
    # the results
    completions: int  # completions that came, without those that failed while generating
    errors: int  # completions that failed or could not be graded; they count in n, as not right
    error_reasons: dict[str, int]
    accuracy: float | None  # lenient: right by the grading convention
    accuracy_strict: float | None  # right and in a well-formed marker of the answer format
    format_rate: float | None  # such a marker is there, right or wrong
    truncated: float | None  # cut off by max_new_tokens or the context
    completion_tokens: float | None  # mean
    mean_at_k: float | None  # equals accuracy
    pass_at_k: dict[str, float] | None  # unbiased, for 1, 2, 4, ... and k samples
    intervals: dict[str, tuple[float, float]]
    test_openings: int | None  # how often this test split was opened until now; None for train and dev
    dtype: str = "auto"  # of weights and arithmetic; auto: as the engine or the server chose

    def write(self, folder: Path) -> Path:
        file = folder / ("generation.json" if self.accuracy is None else "evaluation.json")
        write_atomically(file, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")
        return file

    @classmethod
    def read(cls, file: Path) -> Card:
        """A card from its file. Raises OSError, ValueError or TypeError when it holds none."""
        return cls(**json.loads(file.read_text(encoding="utf-8")))


def outcome(rows: list[dict], k: int, graded: bool) -> dict:
    """The card's fields that come from the completions: n items of k rows each, those of an item together."""
    had = [row for row in rows if row["completion"] is not None]
    reasons = Counter(row["error"] for row in rows if row["error"])
    fields = {
        "completions": len(had),
        "errors": sum(reasons.values()),
        "error_reasons": dict(reasons.most_common()),
        "completion_tokens": sum(row["completion_tokens"] for row in had) / len(had) if had else None,
        "mean_at_k": None,
        "pass_at_k": None,
        "intervals": {},
    } | dict.fromkeys(RATES)
    for name, column in RATES.items():
        if graded or column == "truncated":
            counts = [sum(bool(row.get(column)) for row in rows[at : at + k]) for at in range(0, len(rows), k)]
            fields[name] = mean_at_k(counts, k)
            fields["intervals"][name] = _interval(counts, k)
            if name == "accuracy":
                fields["mean_at_k"] = fields[name]
                fields |= _pass_at_k(counts, k, fields["intervals"])
    return fields


def _interval(counts: list[int], k: int) -> tuple[float, float]:
    """Wilson's for one completion an item; with more, which depend on their item, a bootstrap over the items."""
    return wilson_interval(sum(counts), len(counts)) if k == 1 else bootstrap_mean([count / k for count in counts])


def _pass_at_k(counts: list[int], k: int, intervals: dict) -> dict:
    found = {}
    for size in sorted({2**power for power in range(k.bit_length())} | {k}):
        each = [pass_at_k(k, count, size) for count in counts]
        found[str(size)] = sum(each) / len(each)
        intervals[f"pass_at_{size}"] = _interval(counts, 1) if k == 1 else bootstrap_mean(each)
    return {"pass_at_k": found}
