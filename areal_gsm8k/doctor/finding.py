"""The result of one check: ok, warn or fail, and what to do about it."""

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True)
class Finding:
    """`fix` is for a person; `cure` holds settings (`key=value ...`) that put the failure right in the command."""

    level: str
    found: str
    fix: str = ""
    cure: str = ""


def ok(found: str) -> Finding:
    return Finding(OK, found)


def warn(found: str, fix: str, cure: str = "") -> Finding:
    return Finding(WARN, found, fix, cure)


def fail(found: str, fix: str, cure: str = "") -> Finding:
    return Finding(FAIL, found, fix, cure)
