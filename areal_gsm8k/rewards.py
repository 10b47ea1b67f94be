"""What a completion is paid: parts, each from one verdict of math_parser, added up by the run's weights.

reward: {accuracy: 1.0, format: 0.2}      in the YAML, or reward.format=0.2 on the command line
"""

from math_parser import Verdict


def accuracy(verdict: Verdict) -> float:
    """1 when the final answer is right by the grading convention (docs of math_parser.py), else 0."""
    return float(verdict.lenient)


def format_followed(verdict: Verdict) -> float:
    """1 when the answer, right or wrong, stands in a well-formed marker of the asked-for format, else 0."""
    return float(verdict.formatted)


def total(verdict: Verdict, accuracy_weight: float, format_weight: float) -> float:
    """The scalar reward of one completion. Raises ValueError when the verdict holds a grading error."""
    if verdict.error:
        raise ValueError(f"not gradable: {verdict.error}")
    return accuracy_weight * accuracy(verdict) + format_weight * format_followed(verdict)
