"""Before step 1: can this model learn anything from these prompts? A sample of training groups says.

GRPO learns only from groups whose rewards differ. The trainer samples the first training prompts (`preflight_prompts`)
with the start model, as in training, and this file sums up the completions; with no signal at all the run is refused,
and the likely cause named.

    ./run train                     # shows the line "preflight: ..." and refuses to start at zero signal
    ./run train preflight=off
"""

from typing import Any

from areal_gsm8k.runs.records import RATES

OFTEN = 0.5  # share from which truncation, or a missing format, is called the cause


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rates over sample records (training/workflow.py writes them), grouped by `row`, the prompt.

    `signal` is the share of groups with at least two different rewards; a completion without a reward counts in
    `errors` only.
    """
    groups: dict[str, set[float]] = {}
    for row in rows:
        groups.setdefault(row["row"], set()).update([row["reward"]] if "reward" in row else [])
    graded = [row for row in rows if "reward" in row]

    def share(field: str) -> float:
        return sum(bool(row[field]) for row in graded) / len(graded) if graded else 0.0

    return {
        "prompts": len(groups),
        "samples": len(rows),
        "errors": len(rows) - len(graded),
        "signal": sum(len(rewards) > 1 for rewards in groups.values()) / len(groups) if groups else 0.0,
        **{name: share(field) for name, field in RATES.items()},
    }


def line(found: dict[str, Any]) -> str:
    """One line for a person."""
    return (
        f"preflight: {found['samples']} completions of {found['prompts']} training prompts: "
        f"right {found['accuracy']:.0%} (strict {found['accuracy_strict']:.0%}), format {found['format_rate']:.0%}, "
        f"truncated {found['truncated']:.0%}; groups with signal {found['signal']:.0%}"
    )


def refusal(found: dict[str, Any], max_new_tokens: int, answer_format: str) -> str | None:
    """Why training would be in vain, and what to change; None when at least one group has signal."""
    if found["signal"]:
        return None
    return (
        f"{line(found)}. In no group did two rewards differ, so there is nothing to learn from. "
        f"{_cause(found, max_new_tokens, answer_format)} preflight=off starts all the same."
    )


def _cause(found: dict[str, Any], max_new_tokens: int, answer_format: str) -> str:
    if found["errors"] == found["samples"]:
        return "Cause: no completion could be had and graded; preflight.jsonl says why."
    if found["truncated"] >= OFTEN:
        return (
            f"Likely cause: length. {found['truncated']:.0%} were cut off at gconfig.max_new_tokens={max_new_tokens}; "
            "raise it, and actor.mb_spec.max_tokens_per_mb with it."
        )
    if found["accuracy"] >= OFTEN:
        return "Cause: every answer is right already. Take harder problems, or a higher gconfig.temperature."
    if found["format_rate"] < OFTEN:
        return (
            f"Likely cause: format. Only {found['format_rate']:.0%} answer in answer_format={answer_format}; try "
            "another of boxed, tags and hash, pay for it (reward.format=0.2), or fine-tune first "
            "(train_local_simple.py)."
        )
    return (
        "Likely cause: ability. The format is followed and no answer is right: take a stronger model or easier "
        "problems, fine-tune first (train_local_simple.py), or raise gconfig.n_samples."
    )
