r"""Grade a GSM8K completion: find its final answer, read one exact number from it, compare it with the reference.

This grader is the whole supervision of the training, so it never guesses in the policy's favour. It is plain Python: no
eval, no signals, linear time, and no text makes it raise. Reward, evaluation and both SFT baselines use it:

    gsm8k grade 'So \boxed{1{,}080}' '#### 1,080'
    python -c "import math_parser; print(math_parser.grade(r'So \boxed{1{,}080}', '#### 1,080'))"

The answer is the last final-answer statement after the last `</think>`; without one, the last number of the text.
Values are exact: numbers.py reads digits, values.py a number among words, latex.py arithmetic (`6 \times 7`).
docs/reward.md holds the convention in full; where graders disagree, this one chooses:
- kinds of marker that disagree: the one that starts last, whatever its kind; but a box counts with all it encloses;
- a last box or tag without its end is wrong (`\boxed{4` may be on its way to 42); an unclosed `<think>` hides the rest;
  `Answer:` before a worked solution, or a heading such as `#### Step 2`, is a label and no statement;
- a hedge ("41, no, 42"), a decimal comma, a spelled-out number, an interval or an inequality is no single value;
- units are dropped, never converted: 50% is 50, 50 cents are 50, 3 million is 3 (as in GSM8K's own golds); no rounding.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from areal_gsm8k.grading.numbers import DIGIT, GLUE
from areal_gsm8k.grading.values import read_value

GRADER_VERSION = "2.0.0"  # changes whenever any verdict could change; every summary records it
ANSWER_FORMATS = ("boxed", "tags", "hash")

_MAX_TRIES = 100  # candidates looked at, from the end; with _MAX_SPAN it bounds the work on a text stuffed with markers
_MAX_SPAN = 4_000  # characters of a statement, or of a box that holds braces


class Verdict(NamedTuple):
    """The decision of `grade`, and why. `error`: why there is no decision, which never means "wrong"."""

    lenient: bool  # right by the convention above: what `process_results` pays
    strict: bool  # lenient, and the answer stands in a well-formed marker of the answer format
    formatted: bool  # such a well-formed marker is present, right or wrong
    rule: str | None  # "boxed" | "tags" | "hash" | "statement" | "last_number" | None: nothing found
    extracted: str | None  # the span taken as the answer, as written
    value: str | None  # its value ("17", "-3/4", "2*sqrt(3)", "5:30"), None when it holds no single one
    reference: str | None  # the reference's value
    error: str | None


def process_results(completion: str, reference: str) -> tuple[int, list[list[str]]]:
    """The reward, 0 or 1, and [predictions, references]: the values, or the prediction as written if it has none."""
    verdict = grade(completion, reference)
    prediction = verdict.extracted if verdict.value is None else verdict.value
    return int(verdict.lenient), [[text] if text is not None else [] for text in (prediction, verdict.reference)]


def grade(completion: str, reference: str, answer_format: str | None = None) -> Verdict:
    """Grade one completion against a number, a statement, or a gold solution that ends in `#### N`.

    `answer_format` ("boxed", "tags", "hash"; None: any of them) decides `strict` and `formatted` only.
    Raises ValueError for another answer format; whatever the completion and the reference hold, nothing else is raised.
    """
    if answer_format is not None and answer_format not in ANSWER_FORMATS:
        raise ValueError(f"answer_format: found {answer_format!r}, expected one of {', '.join(ANSWER_FORMATS)} or None")
    text = _after_thinking(completion)
    last, well_formed = _statements(text)
    try:
        gold = _reference_value(reference)
        rule, extracted, value = _answer(text, last)
        asked = well_formed if answer_format is None else [mark for mark in well_formed if mark.rule == answer_format]
        lenient = value is not None and value == gold
        strict = (
            lenient
            and last is not None
            and (last in asked or any(m.lo <= last.lo <= m.hi or read_value(text[m.lo : m.hi]) == gold for m in asked))
        )
    except ImportError as missing:  # sympy
        return Verdict(False, False, False, None, None, None, None, f"not decided without {missing.name}")
    error = f"the reference holds no single number: {reference[-80:]!r}" if gold is None else None
    return Verdict(lenient, strict, bool(asked), rule, extracted, value, gold, error)


@lru_cache(maxsize=1024)  # a group of completions shares its reference
def _reference_value(reference: str) -> str | None:
    _, mark, tail = reference.rpartition("####")
    return read_value(tail) if mark else _answer(reference, _statements(reference)[0])[2] or read_value(reference)


def _after_thinking(text: str) -> str:
    end_tag = text.rfind("</think>")
    start = 0 if end_tag < 0 else end_tag + len("</think>")
    end = text.find("<think>", start)
    return text[start : end if end >= 0 else len(text)]


class _Mark(NamedTuple):
    """A final-answer statement; its content is text[lo:hi]."""

    rule: str
    lo: int
    hi: int
    closed: bool  # False for a box or tag without its end


_SAYS = (
    r"\b[*_]{0,4}(?:,\s?\w{1,30},)?\s{0,9}(?:(?:to|for)\s[^\n.?!:=<#\\]{1,80}?\s)??(?:[:：=]|"
    r"(?:is|are|was|will be|would be|should be|must be|equals?|comes to)\b(?!\s+not\b))[\s:：=*_]*"
)
_MARKS = {  # what begins a statement, by a literal that is quick to find
    r"\boxed": re.compile(r"\\boxed\s*\{"),
    r"\fbox": re.compile(r"\\fbox\s*\{"),
    "<answer>": re.compile("<answer>"),
    "####": re.compile("(?<!#)####(?!#)"),
    "A:": re.compile(r"(?<!\w)A:[\s:*_]*"),
    "答案": re.compile(r"答案[*_]*[是为為:：=][\s:：=*_]*"),
    "nswer": re.compile(rf"(?<=[aA])(?<![</\\][aA])nswer(?i:{_SAYS})"),
    "NSWER": re.compile(rf"(?<=A)NSWER(?i:{_SAYS})"),
}
_BOXES, _SENTENCES = (r"\boxed", r"\fbox"), ("A:", "答案", "nswer", "NSWER")
_NUMBER_LINE = re.compile(r"\s*\\?\$?[-−]?[0-9][0-9,]*(?:\.[0-9]+)?(?=[.!]?[ *$]*(?:\n|$))")
_BRACE = re.compile(r"\\.|[{}]", re.S)
_HEADING = re.compile(r"(?:step|part|case|question|problem|solution|explanation|example|method|final|answer)s?\b", re.I)
_CLAUSE_END = re.compile(r"\n|(?<!approx)[.!?](?=\s|$|[A-Z*_\"')\]}<$])|。|</|<\|")
_ASIDE = re.compile(r"[,\s(](?:because|since|which|where|given|after|when|as|so)\b", re.I)


def _statements(text: str) -> tuple[_Mark | None, list[_Mark]]:
    """The last final-answer statement, and the last well-formed box, tag and hash line."""
    last, well_formed = None, {}
    places = {start: at for start in _MARKS if start[0] in text and (at := text.rfind(start)) >= 0}
    for _ in range(_MAX_TRIES):
        if not places:
            break
        start = max(places, key=places.__getitem__)
        at = places.pop(start)
        if (before := text.rfind(start, 0, at)) >= 0:
            places[start] = before
        found = _MARKS[start].match(text, at)
        if found is None:
            continue
        lo = found.end()
        if start in _BOXES:
            mark = _box(text, lo)
        else:
            mark = _tag(text, lo) if start == "<answer>" else _line(text, start, at, lo)
        if mark is None:
            continue
        if last is None:
            last = mark
            if places:
                places = {start: at for start, at in places.items() if start not in _SENTENCES}
        elif mark.rule == "boxed" and mark.closed and mark.hi > last.lo:  # a box around `last`
            last = mark
        if mark.closed and mark.rule != "statement" and text[mark.lo : mark.hi].strip():
            well_formed.setdefault(mark.rule, mark)
            if start not in _BOXES:
                places.pop(start, None)
    return last, list(well_formed.values())


def _box(text: str, lo: int) -> _Mark:
    end, depth = text.find("}", lo), 1
    if end >= 0 and (text.find("{", lo, end) >= 0 or text[end - 1] == "\\"):
        for brace in _BRACE.finditer(text, lo, lo + _MAX_SPAN):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0:
                return _Mark("boxed", lo, brace.start(), True)
        end = -1
    return _Mark("boxed", lo, end if end >= 0 else _clause_end(text, lo), end >= 0)


def _tag(text: str, lo: int) -> _Mark:
    end = text.find("</answer>", lo)
    closed = end >= 0 and text.find("<answer>", lo, end) < 0
    return _Mark("tags", lo, end if closed else _clause_end(text, lo), closed)


def _line(text: str, start: str, at: int, lo: int) -> _Mark | None:
    """A hash line or a sentence; None if empty, a heading, a label over a worked solution, an `A:` within a line."""
    hashed = start == "####"
    if start == "A:" and text[max(0, at - 9) : at].rstrip(" \t*#>")[-1:] not in ("", *"\n.?!"):
        return None
    number = _NUMBER_LINE.match(text, lo)
    hi = number.end() if number else _clause_end(text, lo)
    said = text[lo:hi].strip(" *_")
    if not said.strip():
        return None
    if said[0].isalpha() and text[hi : hi + _MAX_SPAN].strip(" \n.!?*"):
        prose = " " in said and not DIGIT.search(said)
        if hashed and (prose or _HEADING.match(said)):
            return None
        if not {":", "：", "="}.isdisjoint(text[at:lo]) and said.count(" ") >= 3 and (prose or "=" in said):
            return None
    return _Mark("hash" if hashed else "statement", lo, hi, True)


def _clause_end(text: str, lo: int) -> int:
    """A statement ends with its line, its sentence, or where it goes on to reasons after its number."""
    stop = _CLAUSE_END.search(text, lo, lo + _MAX_SPAN)
    end = stop.start() if stop else min(len(text), lo + _MAX_SPAN)
    digit = DIGIT.search(text, lo, end)
    aside = _ASIDE.search(text, digit.start(), end) if digit else None
    return aside.start() if aside else end


_UP_TO_DIGIT = re.compile(r"(?s:.*)[0-9]")
_UP_TO_SPACE = re.compile(r"(?s:.*)\s")
_WORD_END = re.compile(r"\S*")
_NUMBER_WORD = re.compile(r"(?<=[A-Za-z=] )\$?([0-9][0-9,]*(?:\.[0-9]+)?)[.,!?]?(?!\S)")  # nothing beside it to look at
_TOKEN = re.compile(rf"(?:(?<![.\w])\.(?=[0-9]))?{GLUE}+(?:(?:(?<=[0-9])[.,:/]|(?<=[0-9][eE])[-+])(?=[0-9]){GLUE}+)*")
_NUMBER_TOKEN = re.compile(r"[0-9.,_]+(?:[eE][-+]?[0-9]+|/[0-9.,_]+)?")
_TEX_BEFORE = re.compile(r"[{}^\\]$|\\[,!]|[0-9][\u2009\u202f\u00a0]")
_SIGN_BEFORE = re.compile(r"(?:(?<![\w)\]}.])|=\s)[-−][\\$€£¥]*$|=\s?[-−]\s[\\$€£¥]*$")
_WHOLE_BEFORE = re.compile(r"(?:(?<![\w)\]}.,:/])[-−])?(?<![\w.,:/])[$]?[0-9]{1,9} $")


def _answer(text: str, mark: _Mark | None) -> tuple[str | None, str | None, str | None]:
    """(rule, extracted, value) of the last statement, else of the last number."""
    if mark is not None:
        extracted = text[mark.lo : mark.hi].strip()
        return mark.rule, extracted, read_value(extracted) if mark.closed else None
    end = len(text)
    for _ in range(_MAX_TRIES):
        digit = _UP_TO_DIGIT.match(text, 0, end)
        if digit is None:
            break
        space = _UP_TO_SPACE.match(text, 0, digit.end())
        start = space.end() if space else 0
        if plain := _NUMBER_WORD.match(text, start):
            return "last_number", plain[1], read_value(plain[1])
        stop = word.end() if (word := _WORD_END.match(text, digit.end())) else digit.end()
        for token in reversed(list(_TOKEN.finditer(text, start, stop)) if stop - start <= _MAX_SPAN else []):
            number = _free_number(text, token)
            if number is not None:
                return "last_number", *number
        end = start
    return None, None, None


def _free_number(text: str, token: re.Match) -> tuple[str, str | None] | None:
    """(extracted, value) of a number in running text; None for a word, a glued number, a time, ratio or version."""
    lo, hi = token.span()
    before = text[max(0, lo - 16) : lo]
    if DIGIT.search(token[0]) is None:
        return None
    if _TEX_BEFORE.search(before[-2:]):
        line = text[max(text.rfind("\n", 0, lo) + 1, lo - _MAX_SPAN) : hi + 200].partition("\n")[0].strip()
        return line, read_value(line.rstrip(".!"))
    if _NUMBER_TOKEN.fullmatch(token[0]) is None or (before[-1:] in "-−" and before[-2:-1].isalpha()):
        return None
    prefix = (_WHOLE_BEFORE.search(before) if "/" in token[0] else None) or _SIGN_BEFORE.search(before)
    extracted = (prefix[0] if prefix else "") + token[0]
    value = read_value(extracted)
    return None if value is None and token[0].count(".") > 1 else (extracted, value)
