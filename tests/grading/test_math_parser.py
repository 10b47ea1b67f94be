r"""What a verdict says: strict, formatted, rule, value, reference, error. Which answers
are right: tests/grading/conformance.

python -m pytest tests/grading/test_math_parser.py
"""

import subprocess
import sys
from pathlib import Path

import pytest

import math_parser
from math_parser import grade, process_results

STRICT = [  # completion for 42, answer format, (lenient, strict, formatted), why
    (r"\boxed{42}", None, (1, 1, 1), "any of the three"),
    (r"\boxed{42}", "boxed", (1, 1, 1), "the format asked for"),
    (r"\boxed{42}", "hash", (1, 0, 0), "another format"),
    (r"\boxed{7}", "boxed", (0, 0, 1), "well-formed and wrong"),
    ("<answer>42", "tags", (0, 0, 0), "an unclosed tag"),
    (r"\boxed{42", "boxed", (0, 0, 0), "a truncated box"),
    (r"\boxed{42", None, (0, 0, 0), "a truncated box is none of the three"),
    ("So 42", None, (1, 0, 0), "no marker"),
    ("The answer is 42", None, (1, 0, 0), "a sentence is no marker"),
    (r"<answer>\boxed{42}</answer>", "tags", (1, 1, 1), "a box inside tags is in the tags"),
    (r"<answer>\boxed{42}</answer>", "boxed", (1, 1, 1), "and in the box"),
    ("<answer>6*7. The answer is 42</answer>", "tags", (1, 1, 1), "a sentence inside the tags"),
    ("#### 7\n<answer>42</answer>", "hash", (1, 0, 1), "the asked marker says something else"),
    ("#### 42\nThe answer is 42.", "hash", (1, 1, 1), "both say it"),
    ("#### 42\nThe answer is 7.", "hash", (0, 0, 1), "strict is never more than lenient"),
    (r"\boxed{} 42", "boxed", (0, 0, 0), "an empty box is no well-formed marker"),
    ("<answer> </answer>", "tags", (0, 0, 0), "nor are empty tags"),
    ("So 42\n####", "hash", (1, 0, 0), "nor are marks before an empty line"),
    (r"<think>\boxed{42}</think> 42", "boxed", (1, 0, 0), "a box in the thinking"),
]


def named(cases):
    return [pytest.param(*case[:3], id=f"{case[3]}: {case[0][:40]!r} for {case[1]}") for case in cases]


@pytest.mark.parametrize(("completion", "answer_format", "expected"), named(STRICT))
def test_strict_and_formatted(completion, answer_format, expected):
    verdict = grade(completion, "42", answer_format)
    assert (verdict.lenient, verdict.strict, verdict.formatted) == tuple(map(bool, expected)), verdict


def test_a_verdict_explains_itself():
    verdict = grade("So \\boxed{ \\frac{6}{8} }.", "#### 0.75")
    assert (verdict.rule, verdict.extracted, verdict.value, verdict.reference) == (
        "boxed",
        r"\frac{6}{8}",
        "3/4",
        "3/4",
    )
    assert verdict.error is None
    assert grade("about $7 or so", "7").extracted == "7"
    assert grade("nothing", "7").rule is None
    listed = grade("#### 1, 2", "7")
    assert (listed.rule, listed.extracted, listed.value, listed.error) == ("hash", "1, 2", None, None)


@pytest.mark.parametrize(
    "reference", ["1080", "#### 1,080", "2*540=<<2*540=1080>>1080\n#### 1,080", r"\boxed{1080}", "It is 1080."]
)
def test_references(reference):
    assert process_results("#### 1080", reference) == (1, [["1080"], ["1080"]])
    assert process_results("#### 1081", reference) == (0, [["1081"], ["1080"]])


@pytest.mark.parametrize("reference", ["", "no number", "#### x", "#### 1, 2"])
def test_an_unreadable_reference_is_an_error_and_not_wrong(reference):
    verdict = grade("#### 1080", reference)
    assert not verdict.lenient
    assert "reference holds no single number" in verdict.error
    assert grade("no number", "1").error is None
    assert process_results("#### 1080", reference) == (0, [["1080"], []])


def test_predictions_show_what_was_written_when_it_holds_no_value():
    assert process_results("#### 1, 2", "3") == (0, [["1, 2"], ["3"]])
    assert process_results("nothing", "3") == (0, [[], ["3"]])


def test_an_unknown_answer_format_is_named():
    with pytest.raises(ValueError, match="answer_format: found 'latex', expected one of boxed, tags, hash"):
        grade("42", "42", "latex")


def test_what_cannot_be_decided_is_an_error_and_never_wrong():
    """Without sympy a root has no value; everything else needs the standard library alone."""
    code = r"""
import sys
sys.modules["sympy"] = None
from math_parser import grade
assert grade("#### $1,080.50", "1080.5").lenient and grade("The answer is 42 apples.", "42").lenient
verdict = grade(r"\boxed{\sqrt{12}}", "4")
assert (verdict.lenient, verdict.error) == (False, "not decided without sympy"), verdict
assert not {"numpy", "torch", "yaml"} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(math_parser.__file__).parent)
    assert done.returncode == 0


def test_only_irrational_numbers_load_sympy():
    code = r"""
import sys
from math_parser import grade
assert grade(r"\boxed{\frac{3 + 4}{2} \times \sqrt{16}}", "14").lenient
assert "sympy" not in sys.modules
assert grade(r"\boxed{\sqrt{12}}", r"2\sqrt{3}").lenient
assert "sympy" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(math_parser.__file__).parent)
    assert done.returncode == 0
