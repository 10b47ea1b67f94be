"""The conformance pack: labelled cases by rule, each with its reason, in tests/grading/conformance/*.yaml.

python -m pytest tests/grading/test_conformance.py
"""

from pathlib import Path

import pytest
import yaml

from math_parser import grade

PACK = {
    (file.stem, group): cases
    for file in sorted((Path(__file__).parent / "conformance").glob("*.yaml"))
    for group, cases in yaml.safe_load(file.read_text(encoding="utf-8")).items()
}


@pytest.mark.parametrize(("stem", "group"), PACK, ids=[group for _, group in PACK])
def test_every_case_of_a_rule(stem, group):
    lost = []
    for text, reference, label, why in PACK[stem, group]:
        completion = f"So it is \\boxed{{{text}}}, of 9." if stem == "values" else text
        verdict = grade(completion, reference)
        if verdict.lenient != {"right": True, "wrong": False}[label]:
            lost.append(f"{why}: {completion!r} for {reference!r} should be {label}: {verdict}")
    assert not lost, "\n".join(lost)


def test_the_pack_is_large_and_says_why():
    cases = [tuple(case) for group in PACK.values() for case in group]
    assert len(cases) >= 300
    assert all(len(case) == 4 and all(isinstance(text, str) for text in case) and case[3] for case in cases)
    for (stem, group), of_group in PACK.items():
        labels = {tuple(case[:2]): case[2] for case in of_group}
        assert len(labels) == len(of_group), (stem, group, "a case is there twice")
