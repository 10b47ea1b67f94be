r"""Other graders' conventions, re-implemented in a line or two each, to show where they and ours differ on a file.

gsm8k grade --file samples.jsonl --compare
gsm8k reward attack --reward strict-hash

Each function takes a completion and a reference and says whether that grader would pay. docs/reward.md has the table of
who uses which.
"""

import re
from collections.abc import Callable

from areal_gsm8k.grading.parser import grade, process_results

_NUMBER = re.compile(r"-?\$?[0-9][0-9,]*(?:\.[0-9]+)?")


def ours(completion: str, reference: str) -> bool:
    """math_parser, by any answer format."""
    return bool(process_results(completion, reference)[0])


def strict_hash(completion: str, reference: str) -> bool:
    """The last `#### number` of the last 300 characters, compared as text without commas (verl's "strict")."""
    found = re.findall(r"#### (-?[0-9.,]+)", completion[-300:])
    return bool(found) and _as_text(found[-1]) == _gold(reference)


def strict_boxed(completion: str, reference: str) -> bool:
    """The last `\\boxed{...}` without inner braces, compared as text (TapeAgents, TRL before math-verify)."""
    found = re.findall(r"\\boxed\{([^{}]*)\}", completion)
    return bool(found) and _as_text(found[-1]) == _gold(reference)


def tags(completion: str, reference: str) -> bool:
    """The last `<answer>...</answer>`, compared as text (GRPO demos)."""
    found = re.findall(r"<answer>(.*?)</answer>", completion, re.S)
    return bool(found) and _as_text(found[-1]) == _gold(reference)


def last_number(completion: str, reference: str) -> bool:
    """The last thing that looks like a number, compared as text (lm-eval's and verl's "flexible")."""
    found = _NUMBER.findall(completion)
    return bool(found) and _as_text(found[-1]) == _gold(reference)


def math_verify(completion: str, reference: str) -> bool:
    """math-verify with its defaults. Its time-outs are signals: call it from the main thread only."""
    from math_verify import parse, verify

    return bool(verify(parse(f"${_gold(reference)}$"), parse(completion)))


CONVENTIONS: dict[str, Callable[[str, str], bool]] = {
    "ours": ours,
    "strict-hash": strict_hash,
    "strict-boxed": strict_boxed,
    "tags": tags,
    "last-number": last_number,
    "math-verify": math_verify,
}


def _as_text(number: str) -> str:
    return number.strip().replace(",", "").replace("$", "").rstrip(".")


def _gold(reference: str) -> str:
    """The reference as these graders are given it: the text of its number."""
    return grade("", reference).reference or reference
