"""How much of a gain in strict accuracy is format learned, and how much arithmetic.

A strict answer is right and stands in the marker of the answer format. So with L the lenient accuracy (right, however
written) and M the share of right answers that stand in the marker, the strict accuracy is S = L * M.
From before (0) to after (1),

    S1 - S0  =  (L1 - L0) * (M0 + M1) / 2   arithmetic: more right answers, at the mean share in the marker
              + (M1 - M0) * (L0 + L1) / 2   format: more of the right ones in the marker, at the mean accuracy

exactly. Changing L first and M second, or the other way round, would divide the gain differently; this is the mean of
both orders, Shapley's value, so neither is favoured. M looks at right answers only: P(right | formatted) instead would
compare different questions before and after, since a model that rarely formats does so on questions of its choice.

Shapley, L. S. (1953), A value for n-person games, Annals of Mathematics Studies 28, 307-317.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Rates(NamedTuple):
    """Shares of the completions, each between 0 and 1: strict (right, in the marker), lenient (right), formatted."""

    strict: float
    lenient: float
    formatted: float


class GainSplit(NamedTuple):
    """The two parts of a change in strict accuracy, which they sum to."""

    arithmetic: float
    format: float


def gain_split(before: Rates, after: Rates) -> GainSplit:
    """Divide the change in strict accuracy. Raises ValueError when strict exceeds lenient."""
    m0, m1 = _share_in_marker(before), _share_in_marker(after)
    return GainSplit(
        arithmetic=(after.lenient - before.lenient) * (m0 + m1) / 2,
        format=(m1 - m0) * (before.lenient + after.lenient) / 2,
    )


def by_step(metrics: Iterable[dict]) -> list[dict]:
    """step, arithmetic and format of every dev evaluation in rows of metrics.jsonl, against the first of them."""
    evaluated = [row for row in metrics if row.get("dev/accuracy") is not None]
    rates = [Rates(row["dev/accuracy_strict"], row["dev/accuracy"], row["dev/format_rate"]) for row in evaluated]
    return [
        {"step": row["step"]} | gain_split(rates[0], now)._asdict() for row, now in zip(evaluated, rates, strict=True)
    ]


def _share_in_marker(rates: Rates) -> float:
    """M; where no answer is right, the format rate of all completions stands in for it."""
    if rates.strict > rates.lenient:
        raise ValueError(f"{rates}: strict answers are lenient ones too, so strict cannot be the larger share")
    return rates.strict / rates.lenient if rates.lenient else rates.formatted
