"""CONTRIBUTING.md and the hooks for commits say what is so; test_docs.py looks after the names of files."""

import re

import yaml
from test_architecture import LEVELS

from areal_gsm8k.paths import PROJECT


def test_the_levels_are_those_of_the_law():
    page = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [1-9] \| ([^|]+) \|", page, re.MULTILINE)
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == list(LEVELS)


def test_hooks_fetch_nothing_and_their_tools_are_locked():
    text = (PROJECT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    (local,) = yaml.safe_load(text)["repos"]
    assert local["repo"] == "local"
    assert len(local["hooks"]) == 3
    for hook in local["hooks"]:
        script, tool, *_ = hook["entry"].split()
        assert (script, hook["language"]) == ("./run", "system")
        for lock in ("cpu.txt", "gpu.txt"):
            assert re.search(rf"^{tool}==", (PROJECT / "requirements" / lock).read_text(), re.MULTILINE)
