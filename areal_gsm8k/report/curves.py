"""The curves of one metric: its values by step, their running mean, an interval. Picture and page both use this.

rows = merged(run.read_metrics())
curves("reward", rows)            # {"": [...], "_mean": [...]}; of few steps the values alone
curves("dev/accuracy", rows)      # {"": [...], "_low": [...], "_high": [...]}
"""

import math

from areal_gsm8k.statistics import share_interval
from areal_gsm8k.watch.trend import smooth

FEW = 30  # values that are marked with dots and not smoothed


def merged(rows: list[dict]) -> list[dict]:
    """One object a step, of finite numbers; rows of the same step (an evaluation apart from it) together."""
    steps: dict[int, dict] = {}
    for row in rows:
        known = {key: value for key, value in row.items() if value is not None and math.isfinite(value)}
        steps.setdefault(row["step"], {}).update(known)
    return [steps[step] for step in sorted(steps)]


def curves(key: str, rows: list[dict], smoothed: bool = True) -> dict[str, list[float]]:
    """The curves of a metric, by the ending of their names: "" as recorded, _mean, _low and _high. All rows have it."""
    values = [float(row[key]) for row in rows]
    found = {"": values}
    if key == "dev/accuracy":
        bounds = [share_interval(row[key], row["dev/n"]) for row in rows]
        found["_low"], found["_high"] = map(list, zip(*bounds, strict=True))
    elif smoothed and len(values) > FEW:
        found["_mean"] = smooth(values)
    return found
