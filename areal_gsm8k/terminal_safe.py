"""Makes text harmless to a terminal: completions are untrusted, and an escape sequence could clear or fake a screen.

The control character that begins a sequence becomes a visible sign, so the terminal obeys nothing, a reader sees
everything, and there is no syntax of sequences to get wrong.
"""

from __future__ import annotations

import re

# C0 but tab and newline, DEL and C1; characters that reorder or break a line; lone surrogates, which cannot be encoded.
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` with ESC as ␛, other control characters alike; other characters that steer a terminal as <U+009B>."""
    return STEERING.sub(_sign, text.replace("\r\n", "\n"))


def _sign(found: re.Match) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode's control pictures
    return "\u2421" if code == 0x7F else f"<U+{code:04X}>"
