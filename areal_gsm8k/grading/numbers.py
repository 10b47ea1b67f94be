r"""Numbers written in digits: what one looks like in text, and its exact value. Words and arithmetic come in values.py.

numbers.read("1,080.50"), numbers.read("-3/4%")  # "2161/2", "-3/4"
"""

import re
from fractions import Fraction

MAX_DIGITS = 300  # of a number that is not a plain integer, and of an exponent: int() and Fraction stay cheap

DIGIT = re.compile(r"[0-9]")
GLUE = r"[^\W\u3400-\u9fff]"  # a character that makes one word of a number and itself; a Chinese one does not
_COMMAS = r"[0-9]{1,3}(?:,[0-9]{3}){1,100}"
NUMERAL = (
    rf"(?:[0-9]+|{_COMMAS}|[0-9]{{1,3}}(?:_[0-9]{{3}})+|[0-9]{{1,3}}(?:[\u2009\u202f\u00a0][0-9]{{3}})+|(?=\.[0-9]))"
    r"(?:\.[0-9]*)?(?:[eE][-+−]?[0-9]{1,4})?"
)
_UNGROUP = str.maketrans("−E", "-e", ",_\u2009\u202f\u00a0")
_INTEGER = re.compile(rf"(?:\\?\$)?([-−]?)(?:\\?\$)?([0-9]++|{_COMMAS})(?:\.0*)?(?:\\?[%$])?\.?")
_PLAIN = re.compile(rf"(?P<sign>[-−+]?)\$?(?P<above>{NUMERAL})(?:/(?P<below>{NUMERAL}))?%?\.?")


def read_integer(span: str) -> str | None:
    """The value of an integer of any length, which never becomes an int; None for anything else."""
    integer = _INTEGER.fullmatch(span)
    if integer is None:
        return None
    digits = integer[2].replace(",", "").lstrip("0")
    return ("-" if integer[1] else "") + digits if digits else "0"


def is_plain(span: str) -> bool:
    """Whether the span is one number or fraction in digits and nothing else; `read` then says its value."""
    return _PLAIN.fullmatch(span) is not None


def read(span: str) -> str | None:
    """The value of a plain number or fraction, as "17" or "-3/4"; None for one too long, or over zero."""
    plain = _PLAIN.fullmatch(span)
    if plain is None:
        return None
    above, below = exact(plain["above"]), exact(plain["below"] or "1")
    if above is None or not below:
        return None
    return str(-above / below if plain["sign"] in ("-", "−") else above / below)


def exact(numeral: str) -> Fraction | None:
    """The value of what NUMERAL matches; None for one that is too long to compute with."""
    mantissa, _, power = numeral.translate(_UNGROUP).partition("e")
    if len(mantissa) > MAX_DIGITS or abs(int(power or 0)) > MAX_DIGITS:
        return None
    return Fraction(f"{mantissa}e{power or 0}")
