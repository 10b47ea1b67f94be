"""Gives memory that a training step freed back to the system, where the C library would keep it (glibc).

The launcher has glibc keep freed memory within a step (launch/processes.py). Over several steps the holes in it add up:
a trainer of a 0.5B, 12 GB by the plan, was at 20 GB in its third step, and killed.

    heap.give_back()       # training/actor.py, after each update of a large model
"""

import ctypes
from functools import cache


def give_back() -> None:
    """Return free pages, also those between used ones. Nothing where the C library is not glibc."""
    if trim := _trim():
        trim(0)


@cache
def _trim():
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # musl, macOS, Windows
        return None
