"""The comparison of models on identical items, with the same prompt and grader, each against the first.

compared = compare([graded, ...], seed=0)     # graded: report/graded.py
console.print(table(compared))                # report/comparison_table.py

`compared` is what comparison.json holds. Intervals are 95 %: Wilson's for one completion an item; for more, which
depend on their item, and for differences, a bootstrap over the items.
"""

from __future__ import annotations

from itertools import combinations

from areal_gsm8k.report.gain_split import Rates, gain_split
from areal_gsm8k.report.graded import CONDITIONS, Graded, GradedError
from areal_gsm8k.statistics import bootstrap_mean, gained_lost, mcnemar, paired_difference, wilson_interval

ACCURACIES = {"accuracy_strict": "strict", "accuracy": "lenient"}


def compare(models: list[Graded], seed: int = 0) -> dict:
    """All figures of the table. Raises GradedError when items, prompt, grader or decoding of two models differ."""
    first, names = models[0], [model.name for model in models]
    if len(set(names)) < len(names):
        raise GradedError(f"names must differ, found {', '.join(names)}; give them as NAME=FOLDER")
    for one, other in combinations(models, 2):
        _require_same(one, other)
    items = list(dict.fromkeys(row["row"] for row in first.rows))
    known = {key: value for model in models for key, value in model.conditions.items()}
    k = len(first.rows) // len(items)
    return {
        "first": first.name,
        "items": len(items),
        "samples": k,
        "conditions": {key: known[key] for key in CONDITIONS if key in known},
        "models": [
            _figures(model, items, k) | ({"against_first": _against(first, model, items, k, seed)} if at else {})
            for at, model in enumerate(models)
        ],
        "notes": _notes(models),
    }


def _require_same(first: Graded, other: Graded) -> None:
    """Raise GradedError, naming the difference, unless both have the same items, prompt, decoding and grader."""
    mine, theirs = ({(row["row"], row["sample"]): row for row in model.rows} for model in (first, other))
    only = [sorted(mine.keys() - theirs.keys()), sorted(theirs.keys() - mine.keys())]
    if any(only):
        found = "; ".join(
            f"{len(keys)} only in {model.name!r} (such as {keys[0][0]}, sample {keys[0][1]})"
            for keys, model in zip(only, (first, other), strict=True)
            if keys
        )
        raise GradedError(f"{first.name!r} and {other.name!r} are of different items: {found}; evaluate both alike")
    for key, row in mine.items():
        for field in ("question", "reference"):
            if field in row and field in theirs[key] and row[field] != theirs[key][field]:
                raise GradedError(
                    f"{key[0]} has another {field} in {other.name!r} than in {first.name!r}: the data differ; "
                    "evaluate both on the same"
                )
    for condition in CONDITIONS:
        values = [model.conditions.get(condition) for model in (first, other)]
        if None not in values and values[0] != values[1]:
            raise GradedError(
                f"{condition} is {values[0]!r} for {first.name!r} and {values[1]!r} for {other.name!r}; "
                "evaluate both alike with `gsm8k eval`"
            )


def _notes(models: list[Graded]) -> list[str]:
    """Facts that a reader of the table needs beside its figures."""
    notes = []
    for model in models:
        if errors := sum(bool(row.get("error")) for row in model.rows):
            notes.append(
                f"{model.name}: {errors} of {len(model.rows)} completions without a verdict, counted as wrong."
            )
        missing = [key for key in CONDITIONS if key not in model.conditions and key != "data_checksum"]
        if missing:
            notes.append(f"{model.name}: {', '.join(missing)} not recorded, so not checked.")
    openings = max((model.test_openings or 0 for model in models), default=0)
    if openings:
        notes.append(f"The test split had been opened {openings} times.")
    return notes


def _figures(model: Graded, items: list[str], k: int) -> dict:
    """One model's own figures; shares between 0 and 1, seconds, tokens."""
    figures: dict = {"name": model.name, "model": model.model, "folder": str(model.folder)}
    for name, verdict in ACCURACIES.items():
        scores = _scores(model, items, verdict)
        share = sum(scores) / len(scores)
        if k == 1:
            low, high = wilson_interval(round(sum(scores)), len(scores))
        else:
            low, high = bootstrap_mean(scores)
        figures[name] = {"value": share, "low": low, "high": high}
    figures["format_rate"] = _share(model, "formatted")
    figures["truncated"] = _share(model, "truncated")
    lengths = [row["completion_tokens"] for row in model.rows if row.get("completion_tokens") is not None]
    figures["completion_tokens"] = sum(lengths) / len(lengths) if lengths else None
    figures["errors"] = sum(bool(row.get("error")) for row in model.rows)
    figures["training_seconds"] = model.training_seconds
    if model.gain_by_step:
        figures["gain_by_step"] = model.gain_by_step
    return figures


def _against(first: Graded, model: Graded, items: list[str], k: int, seed: int) -> dict:
    """Differences from the first model on the same items; p of McNemar's test where each item has one completion."""
    found: dict = {}
    for name, verdict in ACCURACIES.items():
        before, after = (_scores(one, items, verdict) for one in (first, model))
        difference, low, high = paired_difference(before, after, seed)
        found[name] = {"difference": difference, "low": low, "high": high}
        gained, lost = gained_lost(before, after)
        found[name] |= {"gained": gained, "lost": lost, "p": mcnemar(before, after).p_value if k == 1 else None}
    rates = [Rates(*(_share(one, verdict) for verdict in Rates._fields)) for one in (first, model)]
    return found | {"gain_split": gain_split(*rates)._asdict()}


def _scores(model: Graded, items: list[str], verdict: str) -> list[float]:
    """For each item the share of its completions with that verdict."""
    right = dict.fromkeys(items, 0)
    for row in model.rows:
        right[row["row"]] += bool(row.get(verdict))
    k = len(model.rows) // len(items)
    return [right[item] / k for item in items]


def _share(model: Graded, field: str) -> float:
    return sum(bool(row.get(field)) for row in model.rows) / len(model.rows)
