r"""The one number of a final answer, in digits or among words, units and LaTeX: "about \$18 for 9 eggs".

A span that is no plain number loses its dressing (units, currency, LaTeX); two numbers that the dressing separated are
never joined, and a word or sign beside the number that could change it means no value. Arithmetic goes on to latex.py,
which is loaded only then.

    gsm8k grade 'The answer is 18 dollars for 9 eggs.' 18
"""

import re

from areal_gsm8k.grading import numbers
from areal_gsm8k.grading.numbers import DIGIT, GLUE, NUMERAL, exact

EDGES = " \t\r\n*_`"
_MAX_WORDS = 400  # characters of a statement that is no plain number
_NUMERIC = re.compile(r"[0-9π]|\\pi")

_EUROPEAN = re.compile(r"(?<![\w.,])([0-9]{1,3}(?:\.[0-9]{3})+),([0-9]{1,2})(?![\w,]|\.[0-9])")  # 1.234,56
_CLOCK = re.compile(r"([0-9]{1,4}(?::[0-9]{1,4}){1,2})\s?(?:([ap])\.?m)?\.?", re.I)  # or a ratio: equals itself only
_SPACED = re.compile(r"^([^0-9]*)([0-9]{1,3}(?: [0-9]{3})+)((?:\.[0-9]+)?[^0-9]*)$")
_UNIT = r"(?:[kmc]?[mgl]|mL|L|lbs?|oz|ft|in|mi|mph|h|hrs?|mins?|s|secs?|USD|[kc]?m[²³])"  # may touch its number
_VALUE = re.compile(
    rf"(?P<head>[^0-9]*?)(?<!{GLUE})(?<![.,/])(?<!\w\()(?P<first>{NUMERAL})(?:\s?/\s?(?P<below>{NUMERAL})"
    r"|\s*[ \t\n]\s*(?P<over>[0-9]+)\s?/\s?(?P<under>[0-9]+)|\s*[×x*]\s*10\s*\^\s*(?P<power>[-−]?[0-9]{1,3}))?"
    rf"(?P<tail>{_UNIT}?(?!{GLUE})[^0-9]*)"
)
_POWER = re.compile(r"(?<=[A-Za-z])\}?\s?\^\s?(?:[23]|\{[23]\})(?![0-9])")  # cm^2
_DRESSING = re.compile(  # any other command keeps its backslash, which is vetoed
    r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox|boxed|fbox|emph|underline|left|right|displaystyle|q?quad|approx|degree)"
    r"(?![A-Za-z])|\^\{?\\circ\}?|\\[!()\[\]{}#]|\*\*|<<[^<>]*>>"
)
_SYMBOLS = ((r"\$", "$"), (r"\%", "%"), (r"\times", "×"), (r"\,", "\u2009"), ("\\ ", " "), ("{", "  "), ("}", "  "))
_FRAC = re.compile(r"\\[dtc]?frac" + 2 * r"\s*(?:\{\s*([-−+]?\\?[$]?[0-9][0-9.,]*)\s*\}|([0-9]))")
_REMARK = re.compile(r"([^()]*[0-9][^()]*)\s\(([^()]*)\)([\s.]*)")
_CIRCUMSTANCE = re.compile(  # "18 dollars | for 9 eggs"
    rf"([^0-9]*(?:[$€£¥₹]\s?{NUMERAL}|{NUMERAL}(?:\s+[A-Za-z]{{2,}})+?))(\s+(?:for|in|from|on|per|during|within|every)\s.*)",
    re.S,
)
_OPERATOR = re.compile(r"[-−+*×·÷/^(√π]|\\(?:frac|[dtc]frac|sqrt|cdot|times|div|pi)")
_RELATION = re.compile(r"[<>≠≤≥]|!=")
_LISTED = re.compile(r"\b(?:or|and)\b|[,;](?![0-9])")
_SIGNS = ("-", "−", "–", "+")
_VETO = re.compile(  # with 0 for the number: what makes it another number, several, or an expression
    r"[\\+*^×÷·±√|!负不]|n't\b|\b(?i:not|never|n?or|n?either|minus|negative)\b"
    r"|\b(?i:and\s+(?:(?:an?|one|two|three)\s+)?(?:half|third|quarter|fourth|fifth|sixth|eighth|tenth))"
    r"|(?<![\w'’./°])(?:[b-fi-kn-rt-z](?![\w'’.])|[BDEGHJKM-Z]\s*0)|0\s*[BDEGHJKM-Z](?![\w'’.])"  # a symbol, no unit
    r"|\.\.|…|\?|\w_|\w\((?!s\))|\(\)|[\x00-\x08\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]|\b(?i:wrong|incorrect|squared|cubed|between)\b"
    r"|\b(?i:(?:more|less|fewer|greater|bigger|smaller) than)\s*0"
    r"|\b(?i:twice|thrice|double|triple|half|third|quarter)(?: of)?\s*0"
)


def read_value(span: str) -> str | None:
    """The single number a statement holds, as "17", "-3/4", "5:30" or "2*sqrt(3)"; None for none or several."""
    span = span.strip(EDGES)
    if integer := numbers.read_integer(span):
        return integer
    if len(span) > _MAX_WORDS or _NUMERIC.search(span) is None:
        return None
    return numbers.read(span) if numbers.is_plain(span) else read_dressed(span)


def read_dressed(span: str) -> str | None:
    """The single number among words, units and LaTeX, as "17", "-3/4", "5:30" or "2*sqrt(3)"; None without one."""
    text = _plain(span)
    if _RELATION.search(text):
        return None
    *before, text = text.split("=")
    if any(map(_LISTED.search, before[1:])):
        return None
    text = _EUROPEAN.sub(lambda m: m[1].replace(".", "") + "." + m[2], text.strip(EDGES))
    clock = _CLOCK.fullmatch(text)
    if clock:
        half = f" {clock[2].lower()}m" if clock[2] else ""
        return ":".join(part.lstrip("0") or "0" for part in clock[1].split(":")) + half
    return _number(_main_part(text)) or _expression(span.rpartition("=")[2])


def _main_part(text: str) -> str:
    """Without a remark in brackets of the same value, "15 (5 x 3)", or what the quantity was for."""
    remark = _REMARK.fullmatch(text)
    if remark and not DIGIT.search(remark[2]):
        return f"{remark[1]} {remark[2]}"  # words may still deny the number
    if remark:
        value = read_value(remark[2].replace("x", "×"))
        return remark[1] if value is not None and value == read_value(remark[1]) else text
    circumstance = _CIRCUMSTANCE.fullmatch(text)
    if circumstance and not _LISTED.search(circumstance[2]) and not _VETO.search(circumstance[2]):
        return circumstance[1]
    return text


def _expression(text: str) -> str | None:
    if _OPERATOR.search(text) is None:
        return None
    from areal_gsm8k.grading.latex import evaluate

    return evaluate(text)


def _number(text: str) -> str | None:
    text = _SPACED.sub(lambda m: m[1] + m[2].replace(" ", "") + m[3], text)
    found = _VALUE.fullmatch(text)
    if found is None:
        return None
    head, tail = found["head"].rstrip(" \t$€£¥₹(["), found["tail"]
    negative = head.endswith(("-", "−", "–"))
    if head.endswith(_SIGNS):
        attached = head[-2:-1].isspace() and not text[len(head)].isspace()
        head = head[:-1].rstrip(EDGES)
        if head.endswith(_SIGNS) or not (attached or head.strip("(:≈~$€£¥₹ ") == ""):
            return None  # two signs, or a minus between two terms
    if _VETO.search(f"{head} 0 {tail}"):
        return None
    value, scale = exact(found["first"]), exact("1e" + (found["power"] or "0"))
    part, below = exact(found["over"] or "0"), exact(found["below"] or found["under"] or "1")
    if value is None or scale is None or part is None or not below:
        return None
    if found["over"] and not (found["first"].isdigit() and 0 < part < below):
        return None
    value = value + part / below if found["over"] else value * scale / below
    return str(-value if negative else value)


def _plain(span: str) -> str:
    """The span without LaTeX dressing; each dropped piece leaves a gap, so that no two numbers meet."""
    span = _DRESSING.sub("  ", span.replace(r",\!", ",").replace("{,}", ","))
    span = _FRAC.sub(lambda m: f" {m[1] or m[2]}/{m[3] or m[4]} ", _POWER.sub(" ", span))
    for symbol, plain in _SYMBOLS:
        span = span.replace(symbol, plain)
    return span
