"""Samples and flips for the browser: small JSON, gzipped, in base64, each step apart, as many as there is room for.

The browser unpacks one step when it is looked at (DecompressionStream). Base64 holds nothing that could end a script.
"""

from __future__ import annotations

import gzip
import json
import math
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence

from areal_gsm8k.report.flips import Flip, Flips
from areal_gsm8k.runs.files import read_lines
from areal_gsm8k.runs.run import Run

STEPS = 500  # of a run that are looked at at most
FLIPS = 400  # of each kind that are packed at most
OF_A_GROUP = ("row", "question", "reference")
OF_A_SAMPLE = (
    "id", "completion", "extracted", "rule", "lenient", "strict", "truncated", "reward", "parts", "advantage",
    "versions", "completion_tokens", "logprob_drift", "error", "rejected",
)  # fmt: skip


def samples(run: Run, step: int, rejected: Iterable[dict]) -> str:
    """One step packed: its groups, in order, then the samples rejected during it, by question."""
    groups: dict[str, dict] = {}
    rows = [(row["group"], row) for row in read_lines(run.samples(step))[0]]
    rows += [(f"rejected {row['row']}", row) for row in rejected]
    for name, row in rows:
        group = groups.setdefault(name, {"name": name, **{key: row.get(key) for key in OF_A_GROUP}, "samples": []})
        sample = {key: _short(row[key]) for key in OF_A_SAMPLE if row.get(key) is not None}
        if len(sample.get("parts", ())) < 2:
            sample.pop("parts", None)
        group["samples"].append(sample)
    return pack(list(groups.values()))


def rejected_by_step(run: Run) -> dict[int, list[dict]]:
    """samples/rejected.jsonl by the step during which a sample was rejected."""
    found: dict[int, list[dict]] = {}
    for row in read_lines(run.rejected)[0]:
        found.setdefault(row["step"], []).append(row)
    return found


def flips(found: Flips) -> str:
    """The gained and lost questions packed, only the first of each where there are very many."""
    return pack({kind: [_flip(flip) for flip in getattr(found, kind)[:FLIPS]] for kind in ("gained", "lost")})


def _flip(flip: Flip) -> dict:
    sides = {"before": flip.before, "after": flip.after}
    keys = ("completion", "extracted", "rule", "truncated", "error")
    return {key: flip.after.get(key) for key in OF_A_GROUP} | {
        side: {key: row[key] for key in keys if row.get(key)} for side, row in sides.items()
    }


def pack(value) -> str:
    """JSON, gzip, base64. The same value gives the same text."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return b64encode(gzip.compress(text.encode(errors="replace"), compresslevel=6, mtime=0)).decode()


def evenly(items: Sequence, count: int) -> list:
    """`count` of the items, evenly spaced, with the first and the last; all where there are no more."""
    if count >= len(items):
        return list(items)
    if count < 2:
        return list(items[-count:]) if count else []
    return [items[round(at * (len(items) - 1) / (count - 1))] for at in range(count)]


def fitting(steps: Sequence[int], packed: Callable[[int], str], room: int) -> dict[int, str]:
    """As many evenly spaced steps, packed, as fit into `room` characters; the first and the last are the last to go."""
    made = {step: packed(step) for step in evenly(steps, STEPS)}
    for count in range(len(made), -1, -1):
        chosen = evenly(list(made), count)
        if sum(len(made[step]) for step in chosen) <= room:
            return {step: made[step] for step in chosen}
    return {}


def _short(value):
    """A number as short as it is needed; one that JSON does not know becomes null."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _short(one) for key, one in value.items()}
    return value
