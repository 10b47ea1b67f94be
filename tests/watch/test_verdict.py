"""Every state and every cause from made-up runs that only its rule can tell, and no alarm from noise alone."""

import pytest
from made_runs import CONFIG, config, line, noisy, steps

from areal_gsm8k.watch import verdict
from areal_gsm8k.watch.band import Band, recipe
from areal_gsm8k.watch.diagnosis import COLLAPSING, FLAT, ON_TRACK, SLOW, TOO_EARLY
from areal_gsm8k.watch.trend import Trend, noise, slope, trimmed_mean

LEARNING = line(0.25, 0.75, 60)


def judged(rows, band=None, **changes):
    return verdict.judge(Trend(rows, config(**changes)), band)


def band(low=0.5, gain_low=0.3, **changes) -> Band:
    """Of runs that reach `low` from step 20 on."""
    series = ([low, low], [0.9, 0.9], [gain_low, gain_low], [0.7, 0.7])
    return Band(recipe(config(**changes)), {}, 5, [20, 240], *series)


# States


def test_a_run_without_steps_is_too_early():
    assert judged([]).state == TOO_EARLY
    assert judged(steps([], dev={0: 0.4})).state == TOO_EARLY
    assert judged(steps([0.3] * 9)).state == TOO_EARLY
    found = judged(steps(noisy([0.3] * 39)))
    assert found.state == TOO_EARLY and found.step == 39 and "judged from step 40 on" in found.summary


def test_a_rising_reward_is_on_track_without_a_band():
    found = judged(steps(noisy(LEARNING)))
    assert found.state == ON_TRACK and "rises" in found.summary and found.causes == []


def test_a_rise_seen_only_lately_is_on_track():
    late = judged(steps(noisy([0.3] * 80 + line(0.3, 0.7, 40))))
    assert late.state == ON_TRACK


def test_what_had_risen_and_stays_is_on_track():
    assert judged(steps(noisy(LEARNING + [0.75] * 100))).state == ON_TRACK


def test_no_rise_is_flat():
    found = judged(steps(noisy([0.3] * 60)))
    assert found.state == FLAT and "60 steps" in found.summary


def test_no_signal_at_all_is_flat_at_once():
    found = judged(steps([0.0] * 10, groups_without_signal=1.0))
    assert found.state == FLAT and "100% of the groups have no signal" in found.summary


def test_at_the_ceiling_is_on_track():
    saturated = judged(steps([0.93] * 12, groups_without_signal=0.85))
    assert saturated.state == ON_TRACK and "ceiling" in saturated.summary
    assert saturated.causes[0].what.startswith("the problems are too easy")
    assert judged(steps([0.97] * 12)).state == ON_TRACK
    assert judged(steps(noisy([0.8] * 60))).state == FLAT  # high, but neither rising nor at the ceiling


def test_the_ceiling_is_what_the_reward_can_pay():
    half = {"reward__accuracy": 0.5, "reward__overlong": 0.5}
    assert judged(steps([0.48] * 12), **half).state == ON_TRACK
    assert judged(steps([0.48] * 60)).state == FLAT
    assert judged(steps([0.96] * 60), reward__format=1.0).state == FLAT


def test_where_groups_are_dropped_the_dev_accuracy_shows_the_learning():
    rewards = noisy([0.5] * 60)
    assert judged(steps(rewards, dev={0: 0.40, 60: 0.42})).state == FLAT
    found = judged(steps(rewards, dev={0: 0.40, 60: 0.60}))
    assert found.state == ON_TRACK and "40% to 60%" in found.summary


def test_within_and_below_the_band():
    rewards = noisy(LEARNING)
    assert judged(steps(rewards), band(low=0.5)).state == ON_TRACK
    slow = judged(steps(rewards), band(low=0.8, gain_low=0.7))
    assert slow.state == SLOW and "at least 0.80" in slow.summary
    assert judged(steps(noisy([0.3] * 60)), band(low=0.5, gain_low=0.3)).state == FLAT


def test_a_weak_start_is_judged_by_its_gain():
    rewards = noisy(line(0.05, 0.45, 60))
    assert judged(steps(rewards), band(low=0.5, gain_low=0.5)).state == SLOW
    found = judged(steps(rewards), band(low=0.5, gain_low=0.2))
    assert found.state == ON_TRACK and "weak start" in found.summary


def test_with_a_band_a_run_is_judged_from_its_first_entry_on():
    rewards = noisy([0.6] * 20)
    assert judged(steps(rewards[:19]), band()).state == TOO_EARLY
    assert judged(steps(rewards), band()).state == ON_TRACK
    assert judged(steps(rewards)).state == TOO_EARLY


def test_a_band_of_another_recipe_is_not_applied_and_the_summary_says_why():
    found = judged(steps(noisy(LEARNING)), band(low=0.9, gain_low=0.8), actor__optimizer__lr=1e-4)
    assert found.state == ON_TRACK
    assert "no band: actor.optimizer.lr is 0.0001, recorded with 0.0003" in found.summary


def test_down_from_its_best_is_not_on_track():
    found = judged(steps(noisy(line(0.2, 0.75, 60) + line(0.75, 0.45, 30) + [0.45] * 20)))
    assert found.state == FLAT and "down from its best, 0.7" in found.summary
    assert found.causes[0].what.startswith("learning rate too high")


# Collapses


def collapsing(rows, said: str, **changes):
    found = judged(rows, **changes)
    assert found.state == COLLAPSING and said in found.summary, found.line()
    return found


def test_a_reward_that_falls_below_half_of_its_best():
    rewards = noisy(LEARNING + line(0.75, 0.2, 20) + [0.2] * 20)
    found = collapsing(steps(rewards), "fell from its best, 0.69 at step")
    assert found.causes[0].what == "learning rate too high (0.0003)" and found.causes[0].try_ == "actor.lr=3e-05"
    assert judged(steps(rewards), collapse__reward=0.1).state == FLAT


def test_a_fall_is_counted_from_the_lowest_reward_there_can_be():
    """From 0.7 to 0.1 in a reward of -1 to 1 is from 85% to 55%."""
    rewards = [2 * reward - 1 for reward in noisy(line(0.5, 0.85, 40) + line(0.85, 0.55, 20) + [0.55] * 20)]
    ternary = {"reward__accuracy": 0.0, "reward__ternary": 1.0}
    assert judged(steps(rewards), **ternary).state == FLAT
    collapsing(steps(rewards), "fell from its best")


def test_dev_accuracy_that_falls_while_the_reward_rises_is_a_reward_for_something_else():
    found = collapsing(
        steps(noisy(LEARNING), dev={0: 0.40, 30: 0.45, 60: 0.15}),
        "dev accuracy fell from 45% at step 30 to 15%",
        reward__custom="module:function",
    )
    assert found.causes[0].what.startswith("the reward pays for something else")
    few_rows = steps(noisy(LEARNING), dev={0: 0.40, 60: 0.15})
    for row in few_rows:
        row["dev/n"] = 10
    assert judged(few_rows).state == ON_TRACK
    only_format = {"reward__accuracy": 0.0, "reward__format": 1.0}
    assert judged(steps(noisy(LEARNING), dev={0: 0.40, 60: 0.10}), **only_format).state == ON_TRACK


def test_an_entropy_that_explodes():
    entropy = [0.05] * 30 + [0.6] * 30
    collapsing(steps(noisy(LEARNING), entropy=entropy), "entropy went from 0.05 to 0.60")
    assert judged(steps(noisy(LEARNING), entropy=entropy), collapse__entropy=20.0).state == ON_TRACK
    assert judged(steps(noisy(LEARNING), entropy=[0.01] * 30 + [0.08] * 30)).state == ON_TRACK  # still sure of itself


def test_completions_that_grow_into_the_limit():
    collapsing(steps(noisy(LEARNING), truncated=[0.0] * 30 + [0.7] * 30), "70% of the completions run into the limit")
    assert judged(steps(noisy(LEARNING), truncated=0.7)).state == ON_TRACK  # they always were that long


def test_rollout_and_trainer_of_two_minds():
    collapsing(steps(noisy(LEARNING), logprob_drift=0.8), "differ by 0.80 nats")


def test_values_that_are_no_numbers():
    nan = float("nan")
    collapsing(steps(noisy(LEARNING), loss=[0.0] * 57 + [nan] * 3), "loss has not been a number")
    assert judged(steps(noisy(LEARNING), loss=[0.0] * 58 + [nan] * 2)).state == ON_TRACK
    collapsing(steps(LEARNING[:57] + [nan] * 3), "reward has not been a number")


# Causes


def first_cause(rows, what: str, band=None, **changes):
    found = judged(rows, band, **changes)
    assert found.causes and found.causes[0].what.startswith(what), found
    assert found.causes[0].what not in [cause.what for cause in judged(steps(noisy(LEARNING))).causes]
    return found.causes[0]


FLAT_REWARDS = noisy([0.3] * 60)
WRONG = [0.0] * 60


def test_a_control_run_explains_everything_else():
    falling = steps(noisy(line(0.3, 0.0, 60)), truncated=[0.0] * 20 + [1.0] * 40)
    for rows in (falling, steps(FLAT_REWARDS)):
        cause = first_cause(rows, "a control run", reward__shuffled=True, actor__optimizer__lr=1.0)
        assert "expected" in cause.evidence
    assert judged(steps(noisy(LEARNING)), reward__shuffled=True).causes[0].what.startswith("a control run")


def test_a_format_nobody_follows():
    metrics = {"format_rate": 0.01, "groups_without_signal": 1.0}
    paid = {"reward__accuracy": 0.0, "reward__format": 1.0, "answer_format": "tags"}
    cause = first_cause(steps(WRONG, **metrics), "nobody follows the format tags", **paid)
    assert cause.try_.startswith("answer_format=boxed or hash") and "pays for nothing else" in cause.evidence
    lenient = steps(FLAT_REWARDS, format_rate=0.0, accuracy_strict=0.0)
    assert any("right in some form, 0% in the asked one" in cause.evidence for cause in judged(lenient).causes)
    lost = [1.0] * 10 + [0.0] * 50  # a collapse took it along: a symptom
    assert not any("format" in cause.what for cause in judged(steps(FLAT_REWARDS, format_rate=lost)).causes)


def test_completions_cut_off_from_the_start():
    cause = first_cause(steps(FLAT_REWARDS, truncated=0.6), "completions are cut off")
    assert cause.try_ == "gconfig.max_new_tokens=96" and "60%" in cause.evidence


def test_a_learning_rate_far_above_the_bands():
    rows = steps(noisy(line(0.3, 0.0, 30)) + WRONG[:30], logprob_drift=0.2, kl=3.0)
    cause = first_cause(rows, "learning rate too high (0.009)", band(), actor__optimizer__lr=9e-3)
    assert "30 times the 0.0003" in cause.evidence and "0.2" in cause.evidence and cause.try_ == "actor.lr=0.0003"


def test_a_learning_rate_too_low_by_the_band_or_because_nothing_moves():
    cause = first_cause(steps(FLAT_REWARDS), "learning rate too low (1e-06)", band(), actor__optimizer__lr=1e-6)
    assert "300 times as much" in cause.evidence and cause.try_ == "actor.lr=0.0003"
    cause = first_cause(steps(FLAT_REWARDS, logprob_drift=2e-6), "learning rate too low")
    assert "2e-06 only" in cause.evidence and cause.try_ == "actor.lr=0.0009"


def test_problems_too_hard_and_too_easy():
    cause = first_cause(steps([0.02] * 60, groups_without_signal=0.9), "the problems are too hard")
    assert "gconfig.n_samples=16" in cause.try_
    first_cause(steps([0.88] * 60, groups_without_signal=0.9), "the problems are too easy")


def test_sampling_too_hot_and_too_cold():
    rows = steps(noisy([0.1] * 60), dev={0: 0.5})
    assert (
        first_cause(rows, "sampling temperature too high", gconfig__temperature=1.5).try_ == "gconfig.temperature=1.0"
    )
    alike = steps(FLAT_REWARDS, groups_without_signal=0.7)
    assert first_cause(alike, "the completions of a group", gconfig__temperature=0.3).try_ == "gconfig.temperature=1.0"
    gone = steps(FLAT_REWARDS, groups_without_signal=0.7, entropy=[0.5] * 20 + [0.01] * 40)
    assert "entropy went from 0.5 to 0.01" in first_cause(gone, "the completions of a group").evidence


def test_stale_rollouts():
    cause = first_cause(steps(FLAT_REWARDS, staleness=4.0, logprob_drift=0.1), "stale rollouts")
    assert cause.try_ == "rollout.max_head_offpolicyness=1"


def test_engines_that_disagree():
    first_cause(steps(FLAT_REWARDS, logprob_gap=0.05), "rollout server and trainer disagree")
    usual = judged(steps(FLAT_REWARDS, logprob_gap=0.05), actor__dtype="bfloat16")
    assert not any("disagree" in cause.what for cause in usual.causes)


def test_rewards_that_fail():
    cause = first_cause(steps(FLAT_REWARDS, reward_errors=32), "rewards fail")
    assert "50%" in cause.evidence


def test_a_run_on_track_has_no_guesses():
    assert judged(steps(noisy(LEARNING), truncated=0.3, staleness=4.0, logprob_drift=0.1)).causes == []


# Noise


@pytest.mark.parametrize("mean", [0.02, 0.1, 0.3, 0.8])
def test_noise_around_a_constant_never_collapses_and_is_seldom_a_rise(mean):
    states = [
        judged(steps(rewards[:count])).state
        for seed in range(10)
        for rewards in [noisy([mean] * 160, seed)]
        for count in range(40, 161, 10)
    ]
    assert COLLAPSING not in states
    assert states.count(FLAT) > 0.9 * len(states)


def test_noise_around_a_course_like_the_bands_is_hardly_ever_slow():
    """Six seeds: a band of five, the sixth judged at every step."""
    from areal_gsm8k.watch import band as bands

    trends = [Trend(steps(noisy(line(0.2, 0.6, 40) + line(0.6, 0.85, 80), seed)), CONFIG) for seed in range(6)]
    ranges = [bands._range(trends[:5], step) for step in range(20, 121, 5)]  # noqa: SLF001 - the arithmetic by itself
    recorded = Band(recipe(CONFIG), {}, 5, list(range(20, 121, 5)), *(list(s) for s in zip(*ranges, strict=True)))
    states = [verdict.judge(Trend(trends[5].rows[:count], CONFIG), recorded).state for count in range(20, 121)]
    assert states.count(ON_TRACK) > 0.95 * len(states) and not {COLLAPSING, FLAT} & set(states)


# The arithmetic


def test_one_odd_step_does_not_move_the_smoothed_value():
    assert trimmed_mean([0.5] * 19 + [100.0]) == 0.5
    assert trimmed_mean([1.0, 2.0]) == 1.5


def test_noise_and_slope():
    assert noise([0.0, 1.0, 2.0, 3.0]) == pytest.approx(0.5**0.5)
    assert noise([3.0]) == 0.0
    found = slope([0.1 * at for at in range(10)], deviation=1.0)
    assert found.value == pytest.approx(0.1) and found.error == pytest.approx(1 / 82.5**0.5)
    assert slope([1.0], 1.0).z == 0.0
