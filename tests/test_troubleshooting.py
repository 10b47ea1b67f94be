"""docs/troubleshooting.md quotes messages and keys that exist."""

import re

import pytest

from areal_gsm8k.config.compose import ALIASES
from areal_gsm8k.config.schema import known_keys
from areal_gsm8k.paths import PROJECT

PAGE = (PROJECT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
# Part of a message of ours as the page has it, and the file that says it.
QUOTED = {
    "no Python 3.11 or 3.12 found": "run",
    "has no venv module": "run",
    "no network: ": "run",
    "needs an NVIDIA GPU and none answers": "areal_gsm8k/config/checks.py",
    "nearest that would run: ": "areal_gsm8k/config/devices.py",
    "server and trainer share one GPU, and NCCL refuses two": "areal_gsm8k/config/devices.py",
    "The rollout server ended while it started: its own words are above.": "areal_gsm8k/training/areal_launcher.py",
    "that key must be ": "areal_gsm8k/training/run_config.py",
    "was ended by ": "areal_gsm8k/children.py",
    "Not trained:": "areal_gsm8k/launch/train.py",
    "In no group did two rewards differ, so there is nothing to learn from.": "areal_gsm8k/watch/preflight.py",
    " batches in a row held no group worth training on.": "areal_gsm8k/training/rollouts.py",
    "nothing has moved for ": "areal_gsm8k/launch/processes.py",
    "What each process is doing:": "areal_gsm8k/launch/processes.py",
    "rollout.consumer_batch_size=": "areal_gsm8k/config/capacity.py",
    "not on this disk, and the hub does not give it (": "areal_gsm8k/launch/readiness.py",
    "no such file or folder here": "areal_gsm8k/data/problems.py",
    "stats_logger.wandb.mode=online: no login to W&B (": "areal_gsm8k/config/tracking.py",
    " already holds a run.": "areal_gsm8k/runs/run.py",
    " is running, as process ": "areal_gsm8k/runs/run.py",
    "a resumed run keeps its configuration": "areal_gsm8k/launch/resume.py",
    "half-written (": "areal_gsm8k/runs/recovery.py",
}


@pytest.mark.parametrize("message", QUOTED)
def test_the_message_is_in_the_page_and_in_the_source(message):
    assert " ".join(message.split()) in " ".join(PAGE.split())
    source = re.sub(r'"\s*\n\s*f?"', "", (PROJECT / QUOTED[message]).read_text(encoding="utf-8"))
    assert message in source


def test_settings_that_are_advised_exist():
    advised = set(re.findall(r"(?<![\w./-])([a-z_]+(?:\.[a-z_]+)*)=[\w/-]", PAGE)) - {"key", "memory", "swap"}
    known = {*known_keys(), *ALIASES}
    assert not {key for key in advised if key not in known}
    assert len(advised) > 20


def test_every_section_of_the_first_table_is_there():
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line[3:].lower()).replace(" ", "-")
        for line in PAGE.splitlines()
        if line[:3] == "## "
    }
    assert set(re.findall(r"\]\(#([a-z0-9-]+)\)", PAGE)) <= headings
