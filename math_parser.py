r"""Grade a GSM8K completion: find its final answer, read one exact number from it, compare it with the reference.

It is the whole supervision of the training, so it never guesses in the policy's favour. Plain Python: no eval, no
signals, linear time, and no text makes it raise. Reward, evaluation and both SFT baselines use it. One verdict:

    python -c "import math_parser; print(math_parser.grade(r'So \boxed{1{,}080}', '#### 1,080'))"

The answer is the last final-answer statement after the last `</think>`; without one, the last number of the text.
Values are exact rationals. Where graders disagree, this one chooses:
- kinds of marker that disagree: the one that starts last, whatever its kind; but a box counts with all it encloses;
- a last box or tag without its end is wrong (`\boxed{4` may be on its way to 42); an unclosed `<think>` hides the rest;
  `Answer:` before a worked solution, or a heading such as `#### Step 2`, is a label and no statement;
- an unevaluated expression (`6*7`, `2^3`, `\sqrt{16}`), a hedge ("41, no, 42"), a decimal comma, a spelled-out number,
  an interval or an inequality is no single value, so wrong; `84/2` is a fraction, so a value;
- units are dropped, never converted: 50% is 50, 50 cents are 50, 3 million is 3 (as in GSM8K's own golds); no rounding.
"""

import re
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

GRADER_VERSION = "1.0.0"  # changes whenever any verdict could change; every summary records it
ANSWER_FORMATS = ("boxed", "tags", "hash")

_MAX_DIGITS = 300  # of a number that is not a plain integer, and of an exponent: int() and Fraction stay cheap
_MAX_TRIES = 100  # candidates looked at, from the end; with _MAX_SPAN it bounds the work on a text stuffed with markers
_MAX_SPAN = 10_000  # characters of a statement, or of a box that holds braces


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `grade` decided, and why. `error` says that it could not decide; it never means "wrong"."""

    lenient: bool  # right by the convention above: what `process_results` pays
    strict: bool  # lenient, and the answer stands in a well-formed marker of the answer format
    formatted: bool  # such a well-formed marker is present, right or wrong
    rule: str | None  # "boxed" | "tags" | "hash" | "statement" | "last_number" | None: nothing found
    extracted: str | None  # the span taken as the answer, as written
    value: str | None  # its value ("17", "-3/4"), None when it holds no single number
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
    Raises ValueError for another answer format; no completion and no reference raises.
    """
    if answer_format is not None and answer_format not in ANSWER_FORMATS:
        raise ValueError(f"answer_format: found {answer_format!r}, expected one of {', '.join(ANSWER_FORMATS)} or None")
    gold = _reference_value(reference)
    error = f"the reference holds no single number: {reference[-80:]!r}" if gold is None else None
    text = _after_thinking(completion)
    last, well_formed = _statements(text)
    rule, extracted, value = _answer(text, last)
    lenient = value is not None and value == gold
    asked = [mark for mark in well_formed if answer_format in (None, mark.rule)]
    strict = lenient and any(m.lo <= last.lo <= m.hi or read_value(text[m.lo : m.hi]) == gold for m in asked)
    return Verdict(lenient, strict, bool(asked), rule, extracted, value, gold, error)


@lru_cache(maxsize=1024)  # a group of completions shares its reference
def _reference_value(reference: str) -> str | None:
    _, mark, tail = reference.rpartition("####")
    return read_value(tail) if mark else _answer(reference, _statements(reference)[0])[2]


def _after_thinking(text: str) -> str:
    start = text.rfind("</think>") + len("</think>") if "</think>" in text else 0
    end = text.find("<think>", start)
    return text[start : end if end >= 0 else len(text)]


class _Mark(NamedTuple):
    """A final-answer statement; its content is text[lo:hi]."""

    rule: str
    lo: int
    hi: int
    closed: bool  # False for a box or tag without its end


_SAYS = (
    r"s?\b[*_]*(?:,\s*\w+,)?\s*(?:(?:to|for)\s[^\n.?!:=<#\\]{1,80}?\s)??(?:[:：=]|"
    r"(?:is|are|was|will be|would be|should be|must be|equals?|comes to)\b(?!\s+not\b))[\s:：=*_]*"
)
_MARK = re.compile(  # every branch starts with a literal, which lets re skip fast
    r"\\(?:boxed|fbox)\s*\{|<answer>|#(?<!##)###(?!#)|A:(?<!\wA:)[\s:*_]*|答案[*_]*[是为為:：=][\s:：=*_]*"
    rf"|n(?<=[aA]n)(?<![</\\][aA]n)(?i:swer{_SAYS})|N(?<=AN)(?i:swer{_SAYS})"
)
_BRACE = re.compile(r"\\.|[{}]", re.S)
_HEADING = re.compile(r"(?:step|part|case|question|problem|solution|explanation|example|method|final|answer)s?\b", re.I)
_CLAUSE_END = re.compile(r"\n|(?<!approx)[.!?](?=\s|$|[A-Z*_\"')\]}<$])|。|</|<\|")
_ASIDE = re.compile(r"[,\s](?:because|since|which|where|given|after|when|as|so)\b", re.I)
_DIGIT = re.compile(r"[0-9]")


def _statements(text: str) -> tuple[_Mark | None, list[_Mark]]:
    """The last final-answer statement, and the last well-formed box, tag and hash line."""
    last, well_formed = None, {}
    for found in reversed(deque(_MARK.finditer(text), maxlen=_MAX_TRIES)):
        first, lo = found[0][0], found.end()
        mark = _box(text, lo) if first == "\\" else _tag(text, lo) if first == "<" else _line(text, found)
        if mark is None:
            continue
        if last is None or (mark.rule == "boxed" and mark.closed and mark.hi > last.lo):  # a box around `last`
            last = mark
        if mark.closed and mark.rule != "statement" and text[mark.lo : mark.hi].strip():
            well_formed.setdefault(mark.rule, mark)
    return last, list(well_formed.values())


def _box(text: str, lo: int) -> _Mark:
    end, depth = text.find("}", lo), 1
    if end >= 0 and text.find("{", lo, end) >= 0:
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


def _line(text: str, found: re.Match) -> _Mark | None:
    """A hash line or a sentence; None if empty, a heading, a label over a worked solution, an `A:` within a line."""
    kind, lo = found[0], found.end()
    hi = _clause_end(text, lo)
    said, hashed = text[lo:hi].strip(" *_"), kind == "####"
    before = text[max(0, found.start() - 9) : found.start()].rstrip(" \t*#>")[-1:]
    if not said or (kind[:2] == "A:" and before not in ("", *"\n.?!")):
        return None
    if said[:1].isalpha() and text[hi : hi + _MAX_SPAN].strip(" \n.!?*"):
        prose = " " in said and not _DIGIT.search(said)
        if hashed and (prose or _HEADING.match(said)):
            return None
        if not {":", "：", "="}.isdisjoint(kind) and said.count(" ") >= 3 and (prose or "=" in said):
            return None
    return _Mark("hash" if hashed else "statement", lo, hi, True)


def _clause_end(text: str, lo: int) -> int:
    """A statement ends with its line, its sentence, or where it goes on to reasons after its number."""
    stop = _CLAUSE_END.search(text, lo, lo + _MAX_SPAN)
    end = stop.start() if stop else min(len(text), lo + _MAX_SPAN)
    digit = _DIGIT.search(text, lo, end)
    aside = _ASIDE.search(text, digit.start(), end) if digit else None
    return aside.start() if aside else end


_UP_TO_DIGIT = re.compile(r"(?s:.*)[0-9]")
_UP_TO_SPACE = re.compile(r"(?s:.*)\s")
_WORD_END = re.compile(r"\S*")
_GLUE = r"[^\W\u3400-\u9fff]"  # a character that makes one word of a number and itself; a Chinese one does not
_TOKEN = re.compile(rf"(?:(?<![.\w])\.(?=[0-9]))?{_GLUE}+(?:(?:(?<=[0-9])[.,:/]|(?<=[0-9][eE])[-+])(?=[0-9]){_GLUE}+)*")
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
        stop = _WORD_END.match(text, digit.end()).end()
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
    if _DIGIT.search(token[0]) is None:
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


_COMMAS = r"[0-9]{1,3}(?:,[0-9]{3})+"
_NUMERAL = (
    rf"(?:[0-9]+|{_COMMAS}|[0-9]{{1,3}}(?:_[0-9]{{3}})+|[0-9]{{1,3}}(?:[\u2009\u202f\u00a0][0-9]{{3}})+|(?=\.[0-9]))"
    r"(?:\.[0-9]*)?(?:[eE][-+−]?[0-9]{1,4})?"
)
_UNGROUP = str.maketrans("−E", "-e", ",_\u2009\u202f\u00a0")
_INTEGER = re.compile(rf"([-−]?)[$]?([0-9]+|{_COMMAS})(?:\.0*)?")
_SPACED = re.compile(r"^([^0-9]*)([0-9]{1,3}(?: [0-9]{3})+)((?:\.[0-9]+)?[^0-9]*)$")
_UNIT = r"(?:[kmc]?[mgl]|mL|L|lbs?|oz|ft|in|mi|mph|h|hrs?|mins?|s|secs?|USD|[kc]?m[²³])"  # may touch its number
_VALUE = re.compile(
    rf"(?P<head>[^0-9]*?)(?<!{_GLUE})(?<![.,/])(?<!\w\()(?P<first>{_NUMERAL})(?:\s?/\s?(?P<below>{_NUMERAL})"
    r"|\s+(?P<over>[0-9]+)\s?/\s?(?P<under>[0-9]+)|\s*[×x*]\s*10\s*\^\s*(?P<power>[-−]?[0-9]{1,3}))?"
    rf"(?P<tail>{_UNIT}?(?!{_GLUE})[^0-9]*)"
)
_POWER = re.compile(r"(?<=[A-Za-z])\}?\s?\^\s?(?:[23]|\{[23]\})(?![0-9])")  # cm^2
_DRESSING = re.compile(  # any other command keeps its backslash, which is vetoed
    r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox|boxed|fbox|emph|underline|left|right|displaystyle|q?quad|approx|degree)"
    r"(?![A-Za-z])|\^\{?\\circ\}?|\\[!()\[\]{}#]|\*\*|<<[^<>]*>>"
)
_SYMBOLS = ((r"\$", "$"), (r"\%", "%"), (r"\times", "×"), (r"\,", "\u2009"), ("\\ ", " "), ("{", "  "), ("}", "  "))
_FRAC = re.compile(r"\\[dtc]?frac" + 2 * r"\s*(?:\{\s*([-−+]?\\?[$]?[0-9][0-9.,]*)\s*\}|([0-9]))")
_RELATION = re.compile(r"[<>≠≤≥]|!=")
_LISTED = re.compile(r"\b(?:or|and)\b|[,;](?![0-9])")
_SIGNS = ("-", "−", "–", "+")
_VETO = re.compile(  # beside one number, any of these makes it another number, several, or an expression
    r"[\\+*^×÷·±√|!负不]|n't\b|\b(?i:not|never|n?or|n?either|minus|negative)\b"
    r"|\b(?i:and\s+(?:(?:an?|one|two|three)\s+)?(?:half|third|quarter|fourth|fifth|sixth|eighth|tenth))"
    r"|(?<![\w'’./°])[b-fi-kn-rt-zBDEGHJKM-Z](?![\w'’.])"  # a lone letter that is neither a word nor a unit
)
_EDGES = " \t\r\n*_`$"


def read_value(span: str) -> str | None:
    """The single number a statement holds, as "17" or "-3/4"; None when it holds none, several, or an expression."""
    integer = _INTEGER.fullmatch(span.strip(_EDGES).rstrip(".%"))
    if integer:  # of any length: it never becomes an int
        digits = integer[2].replace(",", "").lstrip("0")
        return ("-" if integer[1] else "") + digits if digits else "0"
    if len(span) > _MAX_SPAN:
        return None
    text = _plain(span)
    *before, text = text.split("=")
    if _RELATION.search(text) or any(map(_RELATION.search, before)) or any(map(_LISTED.search, before[1:])):
        return None
    text = text.strip(_EDGES)
    text = _SPACED.sub(lambda m: m[1] + m[2].replace(" ", "") + m[3], text)
    found = _VALUE.fullmatch(text)
    if found is None:
        return None
    head, tail = found["head"].rstrip(" \t$€£¥₹(["), found["tail"]
    negative = head.endswith(("-", "−", "–"))
    if head.endswith(_SIGNS):
        attached = head[-2:-1].isspace() and not text[len(head)].isspace()
        head = head[:-1].rstrip(_EDGES)
        if head.endswith(_SIGNS) or not (attached or head.strip("(:≈~") == ""):
            return None  # two signs, or a minus between two terms
    if _VETO.search(head) or _VETO.search(tail):
        return None
    value, scale = _exact(found["first"]), _exact("1e" + (found["power"] or "0"))
    part, below = _exact(found["over"] or "0"), _exact(found["below"] or found["under"] or "1")
    if value is None or scale is None or part is None or not below:
        return None
    if found["over"] and not (found["first"].isdigit() and 0 < part < below):
        return None
    value = value + part / below if found["over"] else value * scale / below
    return str(-value if negative else value)


def _plain(span: str) -> str:
    """The span without LaTeX dressing; what is dropped leaves a gap, so that no two numbers meet."""
    span = _DRESSING.sub("  ", span.replace(r",\!", ",").replace("{,}", ","))
    span = _FRAC.sub(lambda m: f" {m[1] or m[2]}/{m[3] or m[4]} ", _POWER.sub(" ", span))
    for symbol, plain in _SYMBOLS:
        span = span.replace(symbol, plain)
    return span


def _exact(numeral: str) -> Fraction | None:
    mantissa, _, power = numeral.translate(_UNGROUP).partition("e")
    if len(mantissa) > _MAX_DIGITS or abs(int(power or 0)) > _MAX_DIGITS:
        return None
    return Fraction(f"{mantissa}e{power or 0}")
