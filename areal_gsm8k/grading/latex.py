r"""Exact values of closed arithmetic in a final answer: `\frac{3+4}{2}`, `6 \times 7`, `2\sqrt{3}`, `4\pi`.

values.py loads this file when a statement holds an operator. A small recursive-descent reader walks the text, so
nothing in it is ever run. Rational arithmetic is Fraction's. Only a root that does not come out, or a pi, loads sympy
(once a process, about a second); sympy sees numbers, never text, and only multiplies: sums of irrational numbers have
no value here, because sympy can take minutes over them. Every bound is checked before the work that it bounds:

    python -c "import math_parser; print(math_parser.grade(r'\boxed{\sqrt{12}}', r'2\sqrt{3}'))"

Text with two readings has no value: `10-5` alone (a range), `2 (3+4)` (a remark), `4{2}`, `2^2^2`, `50\% \times 8`,
`5!`; nor has text with a symbol, a zero below, or an even root of a negative number.
"""

import math
import re
from fractions import Fraction
from functools import cache

from areal_gsm8k.grading.numbers import NUMERAL, exact

MAX_CHARACTERS = 300
MAX_DEPTH = 12  # brackets, fractions and roots in each other
MAX_DIGITS = 30  # of a number as written
MAX_BITS = 2000  # of a numerator or denominator
MAX_IRRATIONALS = 4  # roots and pis
MAX_RADICAND = 10**9  # numerator and denominator under a root that does not come out

_TOKEN = re.compile(
    rf"\s*(?:(?P<number>{NUMERAL})(?![.,_]?[0-9])|\\(?P<frac>[dtc]?frac)(?![A-Za-z])|\\(?P<root>sqrt)(?![A-Za-z])"
    r"|(?P<pi>\\pi(?![A-Za-z])|π)|(?P<times>\\(?:cdot|times)(?![A-Za-z])|[*×·])|(?P<over>\\div(?![A-Za-z])|[/÷])"
    r"|(?P<minus>[-−])|(?P<plus>\+)|(?P<power>\^)|(?P<open>\()|(?P<close>\))"
    r"|(?P<brace>\{)|(?P<unbrace>\})|(?P<bracket>\[)|(?P<unbracket>\]))"
)
_DRESSING = re.compile(r"\\(?:left|right|displaystyle|q?quad)(?![A-Za-z])|\\[,!;: ]|\\?\$|(?<!\*)\*\*(?!\*)")
_UNIT = re.compile(r"(?:\s*\\(?:text|mathrm|mbox)\s*\{[A-Za-z .]*\}|\s[A-Za-z]{2,}(?:\s[A-Za-z]{2,})*)[\s.]*$")
_AMBIGUOUS = re.compile(  # a range or date, a chain of quotients, a remark in brackets, a word that changes the number
    r"^[0-9.,/\s]*(?:[-−–][0-9.,/\s]+)+$|^[0-9.,\s]*(?:/[0-9.,\s]+){2,}$|[0-9]\s+\(|\b(?:or|and|nor|not|squared|cubed)\b"
)


class _Unreadable(Exception):
    """The text is no closed arithmetic, or leaves the bounds."""


def evaluate(text: str) -> str | None:
    r"""The value of closed arithmetic as "17", "-3/4" or, in sympy's notation, "2*sqrt(3)"; None when it has none."""
    if len(text) > MAX_CHARACTERS or _AMBIGUOUS.search(text.replace("\\$", "").replace("$", "")):
        return None
    text = _UNIT.sub("", _DRESSING.sub(" ", text))
    try:
        reader = _Reader(text)
        value = reader.sum(0)
        reader.expect("end")
        return str(value)  # sympy writes equal products of square roots alike
    except _Unreadable:
        return None


class _Reader:
    """Reads left to right; every method returns a Fraction, or a sympy number where one is needed."""

    def __init__(self, text: str):
        self.tokens: list[tuple[str, str, bool]] = []  # kind, text, whether a space stands before it
        self.at = self.irrationals = 0
        end = 0
        while found := _TOKEN.match(text, end):
            kind = str(found.lastgroup)  # every alternative has a name
            self.tokens.append((kind, found[kind], text[end].isspace()))
            end = found.end()
        if text[end:].strip():
            raise _Unreadable
        self.tokens.append(("end", "", False))

    def kind(self) -> str:
        return self.tokens[self.at][0]

    def expect(self, kind: str) -> str:
        found, text, _ = self.tokens[self.at]
        if found != kind:
            raise _Unreadable
        self.at += 1
        return text

    def sum(self, depth: int):
        if depth > MAX_DEPTH:
            raise _Unreadable
        value = self.product(depth)
        while self.kind() in ("plus", "minus"):
            sign = 1 if self.expect(self.kind()) == "+" else -1
            if self.kind() in ("plus", "minus"):
                raise _Unreadable  # two signs
            term = self.product(depth)
            if not (isinstance(value, Fraction) and isinstance(term, Fraction)):
                raise _Unreadable
            value = _bounded(value + sign * term)
        return value

    def product(self, depth: int):
        value = self.signed(depth)
        while True:
            kind = self.kind()
            if kind in ("times", "over"):
                self.expect(kind)
                factor = self.signed(depth)
                value = _times(value, self.power(factor, Fraction(-1)) if kind == "over" else factor)
            elif kind in ("open", "root", "pi"):  # 2(3+4), 2\sqrt{3}, 2\pi
                value = _times(value, self.powered(depth))
            else:
                return value

    def signed(self, depth: int):
        negative = self.kind() == "minus"
        if negative or self.kind() == "plus":
            self.at += 1
        value = self.powered(depth)
        return -value if negative else value

    def powered(self, depth: int):
        base = self.atom(depth)
        if self.kind() != "power":
            return base
        self.expect("power")
        if self.kind() == "brace":
            self.expect("brace")
            exponent = self.sum(depth + 1)
            self.expect("unbrace")
        else:
            exponent = self.number()
        if self.kind() == "power" or not isinstance(exponent, Fraction):
            raise _Unreadable
        return self.power(base, exponent)

    def atom(self, depth: int):
        kind = self.kind()
        if kind == "number":
            value = self.number()
            return value + self.proper_fraction(depth) if self.kind() == "frac" else value  # 3\frac{1}{2} is mixed
        if kind == "frac":
            self.expect("frac")
            above = self.argument(depth)
            return _times(above, self.power(self.argument(depth), Fraction(-1)))
        if kind == "root":
            return self.root_sign(depth)
        if kind == "pi":
            self.expect("pi")
            self.count_irrational()
            return _sympy().pi
        closing = {"open": "close", "brace": "unbrace", "bracket": "unbracket"}.get(kind)
        if closing is None:
            raise _Unreadable
        self.expect(kind)
        value = self.sum(depth + 1)
        self.expect(closing)
        return value

    def number(self) -> Fraction:
        text = self.expect("number")
        value = exact(text) if len(text) <= MAX_DIGITS else None
        if value is None:
            raise _Unreadable
        return value

    def argument(self, depth: int):
        """What follows `\\frac` or `\\sqrt`: a group in braces, or one digit of the next number."""
        if self.kind() == "number":
            _, digits, space = self.tokens[self.at]
            if not digits[:2].isdecimal():  # 1e3, 1.5, .5: nobody means the first character alone
                raise _Unreadable
            self.tokens[self.at : self.at + 1] = [
                ("number", digits[0], space),
                *([("number", digits[1:], False)] if digits[1:] else []),
            ]
            return self.number()
        self.expect("brace")
        value = self.sum(depth + 1)
        self.expect("unbrace")
        return value

    def proper_fraction(self, depth: int) -> Fraction:
        value = self.atom(depth)
        if not isinstance(value, Fraction) or not 0 < value < 1:
            raise _Unreadable
        return value

    def root_sign(self, depth: int):
        self.expect("root")
        degree = Fraction(2)
        if self.kind() == "bracket":
            self.expect("bracket")
            degree = self.number()
            self.expect("unbracket")
        if degree.denominator != 1 or not 2 <= degree <= 10:
            raise _Unreadable
        return self.power(self.argument(depth), 1 / degree)

    def power(self, base, exponent: Fraction):
        """The real power; its cost is known before it is computed."""
        if exponent.denominator > 10 or abs(exponent.numerator) > MAX_BITS or (base == 0 and exponent <= 0):
            raise _Unreadable
        if not isinstance(base, Fraction):
            if exponent not in (-1, 2):
                raise _Unreadable
            return _checked(base ** int(exponent))
        root = _exact_root(base, exponent.denominator)
        if root is not None:
            if max(root.numerator.bit_length(), root.denominator.bit_length()) * abs(exponent.numerator) > MAX_BITS:
                raise _Unreadable
            return root**exponent.numerator
        if base < 0 or max(base.numerator, base.denominator) > MAX_RADICAND or abs(exponent) > 3:
            raise _Unreadable
        self.count_irrational()
        rational = _sympy().Rational
        return _checked(rational(*base.as_integer_ratio()) ** rational(*exponent.as_integer_ratio()))

    def count_irrational(self) -> None:
        self.irrationals += 1
        if self.irrationals > MAX_IRRATIONALS:
            raise _Unreadable


@cache
def _sympy():
    """sympy, with all that it loads at its first product and power."""
    import sympy

    _ = sympy.sqrt(2) / (sympy.pi * sympy.pi)
    return sympy


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise _Unreadable
    return value


def _times(a, b):
    """The product of Fractions, or of sympy numbers as soon as one of the two is one."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return _bounded(a * b)
    a, b = (_sympy().Rational(*x.as_integer_ratio()) if isinstance(x, Fraction) else x for x in (a, b))
    return _checked(a * b)


def _checked(number):
    """A sympy number within the bounds; a Fraction where it is rational."""
    rational, rest = number.as_coeff_Mul()
    fraction = _bounded(Fraction(int(rational.p), int(rational.q)))
    return fraction if rest == 1 else number


def _exact_root(x: Fraction, degree: int) -> Fraction | None:
    """The rational root, None when there is none; of a negative number only an odd root is real."""
    if degree == 1:
        return x
    if x < 0:
        root = _exact_root(-x, degree) if degree % 2 else None
        return None if root is None else -root
    numerator, denominator = _integer_root(x.numerator, degree), _integer_root(x.denominator, degree)
    return None if numerator is None or denominator is None else Fraction(numerator, denominator)


def _integer_root(n: int, degree: int) -> int | None:
    near = math.isqrt(n) if degree == 2 else round(min(n, 2**1000) ** (1 / degree))
    return next((r for r in (near, near + 1, near - 1) if r**degree == n), None)
