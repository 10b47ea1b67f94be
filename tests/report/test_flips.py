from pathlib import Path

import pytest

from areal_gsm8k.report.flips import flips
from areal_gsm8k.report.graded import Graded


def graded(name: str, verdicts: str, samples: int = 1) -> Graded:
    """`R` right, `W` wrong, `!` without a verdict; with several samples those of an item stand together."""
    rows = [
        {"row": f"q{at // samples}", "sample": at % samples, "completion": f"{name} {at}"}
        | ({"error": "broken"} if letter == "!" else {"lenient": letter == "R"})
        for at, letter in enumerate(verdicts)
    ]
    return Graded(name, "model", Path(), rows, {}, None)


def test_gained_and_lost_with_both_completions():
    found = flips(graded("start", "RRWWW!"), graded("end", "RWRRW!"))
    assert (found.both_right, found.both_wrong) == (1, 2)
    assert [(flip.before["completion"], flip.after["completion"]) for flip in found.gained] == [
        ("start 2", "end 2"), ("start 3", "end 3")
    ]  # fmt: skip
    assert [flip.before["row"] for flip in found.lost] == ["q1"]
    assert found.p_value == pytest.approx(1.0)  # 2 of 3: as uneven as it gets at random


def test_p_by_hand_and_none_for_several_samples_an_item():
    assert flips(graded("a", "WWWWWW"), graded("b", "RRRRRR")).p_value == pytest.approx(2 / 2**6)
    several = flips(graded("a", "RWWW", samples=2), graded("b", "RRWR", samples=2))
    assert several.p_value is None and [flip.after["row"] for flip in several.gained] == ["q0", "q1"]


def test_other_items_are_refused():
    with pytest.raises(ValueError, match="'a' and 'b' are of different items"):
        flips(graded("a", "RR"), graded("b", "R"))
