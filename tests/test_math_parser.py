r"""The grader: labelled cases by rule, each with its reason, then properties over generated numbers and text.

python -m pytest tests/test_math_parser.py
"""

import pytest

from math_parser import grade, process_results

RIGHT, WRONG = True, False

# (completion, reference, right, why)
STATEMENTS = [
    (r"So \boxed{42}.", "42", RIGHT, "a box"),
    (r"So \fbox{42}.", "42", RIGHT, "a framed box"),
    (r"\boxed{\text{42}}", "42", RIGHT, "braces inside the box"),
    (r"\boxed{\boxed{42}}", "42", RIGHT, "a box in a box"),
    (r"\boxed{41 \text{ or } \boxed{42}}", "42", WRONG, "the outer box holds two values"),
    (r"\boxed{7} and so \boxed{42}", "42", RIGHT, "the last box counts"),
    (r"\boxed{42} and so \boxed{7}", "42", WRONG, "the last box counts, also when it is wrong"),
    (r"\boxed{} 42", "42", WRONG, "an empty last box is the answer given"),
    (r"\boxed{42} 3 apples remain, see page 9", "42", RIGHT, "text after the statement changes nothing"),
    ("<answer>42</answer>", "42", RIGHT, "tags"),
    ("<answer>\n 42 \n</answer>", "42", RIGHT, "tags over lines"),
    ("<answer>7</answer><answer>42</answer>", "42", RIGHT, "the last tags count"),
    (r"<answer>3+4 is 7, times 6: \boxed{42}</answer>", "42", RIGHT, "a solution inside the tags, with its own box"),
    ("<answer>So 6 by 7. The answer is 42.</answer>", "42", RIGHT, "a solution inside the tags, with its own sentence"),
    ("I use <answer> tags. <answer>42</answer>", "42", RIGHT, "a tag that is only named before"),
    ("6*7=42\n#### 42", "42", RIGHT, "a hash line"),
    ("#### 42\nQ: 5 men?\nThey have 5 hats.", "42", RIGHT, "text after the hash line"),
    ("#### 42\n" + "filler 5 " * 500, "42", RIGHT, "however long"),
    ("#### 42.\n", "42", RIGHT, "a full stop"),
    ("#### $1080.00", "1080", RIGHT, "currency and cents"),
    ("#### Step 2: add\n40 + 2 = 42", "42", RIGHT, "a Markdown heading is no statement"),
    ("##### 7\nSo 42", "42", RIGHT, "five marks are a heading"),
    ("#### nan\n42", "42", WRONG, "a bare symbol after the marks is the answer given"),
    ("The answer is 42.", "42", RIGHT, "a sentence"),
    ("The answer is 42. She has 7 left.", "42", RIGHT, "the statement ends with its sentence"),
    ("The answer is 42 because 6 * 7 = 42 and 5 > 3", "42", RIGHT, "the statement ends where reasons begin"),
    ("The final answer is: **42**", "42", RIGHT, "Markdown around it"),
    ("**Answer:** $42", "42", RIGHT, "a bold label"),
    ("## Final Answer:\n\n$42$", "42", RIGHT, "a label with its number below"),
    ("THE ANSWER IS 42", "42", RIGHT, "capitals"),
    ("The answer to the question is 42.", "42", RIGHT, "words between"),
    ("The answer is\n42", "42", RIGHT, "a line break between"),
    ("A: 18", "18", RIGHT, "A:"),
    ("Q: 6 hats and 12 more?\nA: 18 hats\n", "18", RIGHT, "A: with units"),
    ("Plan A: 5 dollars. In all 18", "18", RIGHT, "an A: within a line is no statement"),
    ("所以答案是42。", "42", RIGHT, "Chinese"),
    ("答案：42元", "42", RIGHT, "a Chinese label and unit"),
    ("The answer is 42.\nThe answer is", "42", RIGHT, "a statement cut off before its content is none"),
    ("The answer is 7. Wait. The answer is 42.", "42", RIGHT, "the last sentence counts"),
    ("The answer is 42. The answer is not 41.", "42", RIGHT, "a denial is no statement"),
    ("Answer: She has 5 + 4 = 9 hats.\nThen 9 * 2 = 18 hats.", "18", RIGHT, "a label over a worked solution"),
    ("The answer is unknown. We saw 42.", "42", WRONG, "a statement without a value"),
    ("The answer is 4 h 2 m", "42", WRONG, "two quantities in two units"),
    ("The answer is 41 or 42", "42", WRONG, "alternatives"),
    ("#### 41, 42", "42", WRONG, "a list"),
    (r"\boxed{41-42}", "42", WRONG, "a range"),
    (r"\boxed{41 \text{ to } 42}", "41", WRONG, "a range in words"),
    (r"\boxed{True}", "1", WRONG, "a truth value"),
    (r"\boxed{x}", "42", WRONG, "a bare symbol"),
    (r"\boxed{nan}", "nan", WRONG, "nan is no reference either"),
    (r"\boxed{x = 42}", "42", RIGHT, "an equation counts with its last side"),
    (r"\boxed{6 \times 7 = 42}", "42", RIGHT, "a calculation with its result"),
    (r"\boxed{42 = x}", "42", WRONG, "the last side is a symbol"),
    (r"\boxed{x = 41 \text{ or } x = 42}", "42", WRONG, "two equations"),
    (r"\boxed{x=41,y=42}", "42", WRONG, "two equations with a comma"),
]
THINKING = [
    ("<think>\n\\boxed{7}\n</think>\n\\boxed{42}", "42", RIGHT, "the box after the thinking"),
    ("<think>\\boxed{42}</think>", "42", WRONG, "nothing after the thinking"),
    ("\\boxed{42}</think> \n", "42", WRONG, "an empty remainder, the opening tag being in the prompt"),
    ("<think>So 42", "42", WRONG, "thinking that never ends"),
    ("<think>a</think>42<think>7", "42", RIGHT, "an unclosed second thought hides only itself"),
    ("a</think>41</think>42", "42", RIGHT, "the last closing tag counts"),
]
LAST_NUMBER = [
    ("She has 42", "42", RIGHT, "the last number"),
    ("She has 42.", "42", RIGHT, "a full stop"),
    ("It costs $1,080.50!", "1080.5", RIGHT, "currency, commas, cents"),
    ("6 * 7 = 42 apples", "42", RIGHT, "the right-hand side"),
    ("<<6*7=42>>42 apples", "42", RIGHT, "after a calculator note"),
    ("42 apples for GPT4", "42", RIGHT, "a quantity glued to letters is no number"),
    ("42 kinds of COVID-19", "42", RIGHT, "nor a name with a hyphen"),
    ("42 apples at 5:30", "42", RIGHT, "nor a clock time or a ratio"),
    ("42 apples in version 1.2.3", "42", RIGHT, "nor a version"),
    ("It fell to -5", "-5", RIGHT, "a sign"),
    ("It fell to -5", "5", WRONG, "a sign counts"),
    ("a total of 10-5", "-5", WRONG, "a minus between numbers is no sign"),
    ("He ate 1 1/2 pies", "3/2", RIGHT, "a mixed number"),
    ("He ate $\\frac{3}{4}$ of it.", "3/4", RIGHT, "a fraction in LaTeX"),
    ("He ate $\\frac{3}{4}$ of it.", "4", WRONG, "its denominator is not the answer"),
    ("That is $1{,}080$", "1080", RIGHT, "LaTeX grouping"),
    ("That is $1{,}080$", "80", WRONG, "a group is not the answer"),
    ("It is 1e3", "1000", RIGHT, "scientific notation"),
    ("They are 32, 349", "32349", WRONG, "a list is not joined"),
    ("It is 3,4", "4", WRONG, "a decimal comma is read as neither part"),
    ("Nothing here", "42", WRONG, "no number"),
    ("", "42", WRONG, "no text"),
    ("It is ４２", "42", WRONG, "digits of another script are not read"),
    ("She pays \\$3 for 42 and saves \\$5", "5", RIGHT, "an escaped dollar is no formula"),
    ("一共是42元。", "42", RIGHT, "a Chinese unit is not glued"),
    ("There are 4 million", "4", RIGHT, "a scale is a unit, as in the golds"),
]
VALUES = [  # as the content of a box
    ("42.0", "42", RIGHT, "trailing zeros"),
    ("007", "7", RIGHT, "leading zeros"),
    ("+42", "42", RIGHT, "a plus sign"),
    ("-42", "-42", RIGHT, "a minus sign"),
    ("−42", "-42", RIGHT, "U+2212"),
    ("-0", "0", RIGHT, "minus zero"),
    ("-\\$42", "-42", RIGHT, "sign before currency"),
    ("\\$-42", "-42", RIGHT, "sign after currency"),
    ("-(42)", "42", WRONG, "a sign before a bracket counts"),
    ("--42", "42", WRONG, "two signs"),
    ("x - 42", "42", WRONG, "a term"),
    (".5", "1/2", RIGHT, "no leading zero"),
    ("3/4", "0.75", RIGHT, "a fraction equals its decimal"),
    ("\\frac{3}{4}", "0.75", RIGHT, "frac"),
    ("\\dfrac34", "0.75", RIGHT, "dfrac without braces"),
    ("-\\tfrac{3}{4}", "-0.75", RIGHT, "tfrac with a sign"),
    ("\\frac{84}{2}", "42", RIGHT, "an unreduced fraction"),
    ("\\frac{42}{0}", "42", WRONG, "division by zero"),
    ("1 1/2", "1.5", RIGHT, "a mixed number"),
    ("3\\frac{1}{2}", "3.5", RIGHT, "a mixed number in LaTeX"),
    ("3\\frac{1}{2}", "31/2", WRONG, "never joined"),
    ("3\\frac{1}{2}", "3/2", WRONG, "never multiplied"),
    ("1 3/2", "5/2", WRONG, "no mixed number"),
    ("1/2/3", "1/6", WRONG, "no single fraction"),
    ("1e3", "1000", RIGHT, "scientific notation"),
    ("1.5 \\times 10^{3}", "1500", RIGHT, "in LaTeX"),
    ("1e999999999", "1", WRONG, "an exponent out of bounds is not computed"),
    ("10^{10^{10}}", "10", WRONG, "nor a tower"),
    ("1,000", "1000", RIGHT, "commas"),
    ("1{,}000", "1000", RIGHT, "commas in braces"),
    ("1,\\!000", "1000", RIGHT, "commas with a negative space"),
    ("1\\,000", "1000", RIGHT, "LaTeX thin space"),
    ("1\u202f000\u202f000", "1000000", RIGHT, "thin spaces"),
    ("1 000", "1000", RIGHT, "spaces in threes, alone in the statement"),
    ("1_000", "1000", RIGHT, "underscores"),
    ("1,00", "100", WRONG, "a group of two"),
    ("1,0000", "10000", WRONG, "a group of four"),
    ("12,34,567", "1234567", WRONG, "groups of two"),
    ("1000,000", "1000000", WRONG, "a first group of four"),
    ("32, 349", "32349", WRONG, "a list"),
    ("4 2", "42", WRONG, "two numbers"),
    ("4{2}", "42", WRONG, "braces join nothing"),
    ("4\\text{ h }2\\text{ m}", "42", WRONG, "units join nothing"),
    ("42\\%", "42", RIGHT, "per cent is dropped"),
    ("42%", "0.42", WRONG, "and never divides"),
    ("4200", "42", WRONG, "nor multiplies"),
    ("42^\\circ", "42", RIGHT, "degrees"),
    ("42°", "42", RIGHT, "a degree sign"),
    ("42\\text{ cm}^2", "42", RIGHT, "a unit with a power"),
    ("42 m^2", "42", RIGHT, "a plain unit with a power"),
    ("{3}^2", "3", WRONG, "a power of a number"),
    ("42 km/h", "42", RIGHT, "a unit with a slash"),
    ("\\$42/\\text{day}", "42", RIGHT, "a rate"),
    ("42kg", "42", RIGHT, "a unit that touches"),
    ("42x", "42", WRONG, "a symbol that touches"),
    ("42 x", "42", WRONG, "a symbol"),
    ("42 apples", "42", RIGHT, "unit words"),
    ("\\text{about 42 apples}", "42", RIGHT, "words around"),
    ("€42", "42", RIGHT, "euro"),
    ("42 dollars", "42", RIGHT, "currency in words"),
    ("\\left(42\\right)", "42", RIGHT, "brackets"),
    ("> 42", "42", WRONG, "an inequality"),
    ("x \\geq 42", "42", WRONG, "an inequality in LaTeX"),
    ("\\pm 42", "42", WRONG, "two values"),
    ("\\sqrt{16}", "16", WRONG, "a function is not its argument"),
    ("42!", "42", WRONG, "a factorial"),
    ("f(42)", "42", WRONG, "a function of it"),
    ("42^\\circ\\text{C}", "42", RIGHT, "degrees Celsius"),
    ("not 42", "42", WRONG, "a denial"),
    ("minus 42", "42", WRONG, "a sign in words"),
    ("42.0001", "42", WRONG, "no tolerance"),
    ("0.33", "1/3", WRONG, "no rounding"),
    ("\\infty", "42", WRONG, "infinity"),
    ("0x2A", "42", WRONG, "hexadecimal"),
    ("1.2.3", "1.2", WRONG, "a version"),
    ("5:30", "5", WRONG, "a clock time"),
    ("３", "3", WRONG, "digits of another script"),
    ("exec('print(42)')", "42", WRONG, "code"),
]
CONTESTED = [  # graders differ; the module docstring states our choice
    ("\\boxed{7} #### 42", "42", RIGHT, "kinds disagree: the one that starts last"),
    ("#### 42 so \\boxed{7}", "42", WRONG, "kinds disagree: the one that starts last"),
    ("<answer>42</answer> The answer is 7.", "42", WRONG, "kinds disagree: the one that starts last"),
    ("So 42: \\boxed{42", "42", WRONG, "a last box without its end"),
    ("So 42: <answer>42", "42", WRONG, "last tags without their end"),
    ("\\boxed{4 and so the answer is 42.", "42", RIGHT, "an unfinished box before the statement"),
    (r"\boxed{6 \cdot 7}", "42", WRONG, "an unevaluated expression"),
    (r"\boxed{40+2}", "42", WRONG, "an unevaluated sum"),
    ("The answer is 41, no, 42", "42", WRONG, "a hedge that ends in the gold"),
    (r"\boxed{1,5}", "1.5", WRONG, "a decimal comma"),
    (r"\boxed{\text{forty-two}}", "42", WRONG, "a spelled-out number"),
    ("The answer is 42 and a half", "42", WRONG, "half of it spelled out"),
    (r"\boxed{50\text{ cents}}", "0.5", WRONG, "no unit conversion"),
    (r"\boxed{0.667}", "2/3", WRONG, "a rounded decimal"),
]


def named(cases):
    return [pytest.param(*case[:3], id=f"{case[3]}: {case[0][:40]!r} for {case[1]}") for case in cases]


@pytest.mark.parametrize(("completion", "reference", "right"), named(STATEMENTS + THINKING + LAST_NUMBER + CONTESTED))
def test_labelled_completions(completion, reference, right):
    verdict = grade(completion, reference)
    assert verdict.lenient is right, verdict


@pytest.mark.parametrize(("content", "reference", "right"), named(VALUES))
def test_labelled_values(content, reference, right):
    verdict = grade(f"So it is \\boxed{{{content}}}, of 9.", reference)
    assert (verdict.rule, verdict.lenient) == ("boxed", right), verdict


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
