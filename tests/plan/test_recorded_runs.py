"""The verdict on real runs of the tiny recipe: one healthy, three broken on purpose, judged as they went on.

recorded_runs.json holds their metrics, to three digits. All are `./run train --config configs/cpu.yaml` on 2 cores of
an AMD EPYC, 2026-11-21: healthy with seed=4, the one of five seeds that ended lowest; the others with seed=1 and the
overrides below.
"""

import json
from pathlib import Path

import pytest
from made_runs import steps

from areal_gsm8k.config.compose import make_plan
from areal_gsm8k.paths import CPU_OVERLAY
from areal_gsm8k.watch import band, verdict
from areal_gsm8k.watch.trend import Trend
from areal_gsm8k.watch.verdict import COLLAPSING, FLAT, ON_TRACK, TOO_EARLY

OVERRIDES = {
    "healthy": ["seed=4"],
    "lr30": ["actor.lr=9e-3"],
    "format": ["answer_format=tags", "reward.accuracy=0", "reward.format=1", "preflight=off"],
    "shuffled": ["reward.shuffled=true"],
}


@pytest.fixture(scope="module")
def judged():
    """{run: {step: verdict}}, at every third step."""
    recorded = json.loads((Path(__file__).parent / "recorded_runs.json").read_text())
    found = {}
    for name, columns in recorded.items():
        config = make_plan([CPU_OVERLAY], OVERRIDES[name], gpus=0).values
        dev = {int(step): accuracy for step, accuracy in columns.pop("dev").items()}
        columns.setdefault("accuracy", columns["reward"])
        columns.setdefault("accuracy_strict", columns["accuracy"])
        rewards = columns.pop("reward")
        count = max(len(column) for column in columns.values() if isinstance(column, list))
        rows = steps(rewards if isinstance(rewards, list) else [rewards] * count, dev, **columns)
        expected = band.configured(config)
        found[name] = {
            step: verdict.judge(Trend([row for row in rows if row["step"] <= step], config), expected)
            for step in range(0, count + 1, 3)
        }
    return found


def states(verdicts) -> dict[str, list[int]]:
    """{state: the steps it was found at}"""
    found: dict[str, list[int]] = {}
    for step, one in verdicts.items():
        found.setdefault(one.state, []).append(step)
    return found


def test_a_healthy_run_is_on_track_from_the_first_step_judged(judged):
    found = states(judged["healthy"])
    assert set(found) == {TOO_EARLY, ON_TRACK} and max(found[TOO_EARLY]) < 20
    assert all(one.causes == [] for one in judged["healthy"].values())


def test_a_learning_rate_30_times_too_high_collapses_and_is_named(judged):
    found = states(judged["lr30"])
    assert set(found) == {TOO_EARLY, COLLAPSING} and found[COLLAPSING][0] == 15
    for step in found[COLLAPSING]:
        cause = judged["lr30"][step].causes[0]
        assert cause.what == "learning rate too high (0.009)" and "30 times the 0.0003" in cause.evidence
        assert cause.try_ == "actor.lr=0.0003"


def test_a_format_nobody_follows_is_flat_and_named(judged):
    found = states(judged["format"])
    assert set(found) == {TOO_EARLY, FLAT} and found[FLAT][0] == 12
    assert {judged["format"][step].causes[0].what for step in found[FLAT]} == {"nobody follows the format tags"}


def test_shuffled_rewards_are_flat_then_collapse_and_are_named_a_control_run(judged):
    found = states(judged["shuffled"])
    assert set(found) == {TOO_EARLY, FLAT, COLLAPSING} and found[FLAT][0] == 42 and found[COLLAPSING][0] == 60
    assert all(one.causes[0].what.startswith("a control run") for one in judged["shuffled"].values())
