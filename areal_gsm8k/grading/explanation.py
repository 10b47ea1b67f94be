"""A grader's verdict in words: what `gsm8k grade` prints, and what `gsm8k chat` shows under a reply."""

from __future__ import annotations

from areal_gsm8k.grading.parser import Verdict


def explained(verdict: Verdict) -> dict[str, str]:
    """Label to text, in the order of reading; a field that the verdict lacks is left out."""
    judged = "not decided" if verdict.error else "right" if verdict.lenient else "wrong"
    lines = {
        "verdict": judged + (" (strict)" if verdict.strict else ""),
        "rule": verdict.rule or "none: nothing that could be an answer",
        "extracted": verdict.extracted,
        "value": verdict.value or "none: no single number",
        "reference": verdict.reference,
        "formatted": "yes" if verdict.formatted else "no",
        "error": verdict.error,
    }
    return {label: text for label, text in lines.items() if text is not None}
