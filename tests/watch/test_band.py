"""The expected band: what is recorded, where it applies, and what a run from a weak start is held to."""

import json

import pytest
import yaml
from made_runs import config, line, noisy, steps
from typer.testing import CliRunner

from areal_gsm8k.cli import app
from areal_gsm8k.config.compose import make_plan
from areal_gsm8k.config.schema import ConfigError
from areal_gsm8k.paths import CPU_OVERLAY
from areal_gsm8k.runs.files import append_lines, write_atomically
from areal_gsm8k.runs.run import Run
from areal_gsm8k.watch import band, verdict
from areal_gsm8k.watch.band import Band, BandError

COURSE = line(0.2, 0.7, 60)


def finished(folder, seed: int, means=COURSE, grader="2.0.0", **changes) -> Run:
    """A run directory as a finished run leaves it, as far as a band looks at it."""
    run = Run(folder / f"seed{seed}")
    write_atomically(run.config, yaml.safe_dump(config(seed=seed, **changes)))
    append_lines(run.metrics, steps(noisy(means, seed), dev={0: 0.2}))
    run.add_launch(
        f"./run train --config /there/configs/cpu.yaml seed={seed} runs_dir=/somewhere trial_name=x",
        step=0,
        steps=len(means),
    )
    write_atomically(run.summary, json.dumps({"grader": grader}))
    return run


@pytest.fixture
def recorded(tmp_path):
    return band.record([finished(tmp_path, seed) for seed in (1, 2, 3)], "2 cores")


def test_a_band_holds_every_run_it_was_recorded_from_with_room_for_sampling(tmp_path, recorded):
    assert recorded.steps == list(range(20, 61, 5)) and recorded.runs == 3
    for seed in (1, 2, 3):
        course = band.Trend(Run(tmp_path / f"seed{seed}").read_metrics(), config())
        for step in recorded.steps:
            expected, level = recorded.at(step), course.level(step)
            assert expected.low < level.value - level.error and level.value + level.error < expected.high
            assert expected.gain_low < level.value - course.first().value < expected.gain_high


def test_the_range_is_widened_by_twice_the_error_of_a_difference(tmp_path):
    """Three times the same run: there is nothing but the widening."""
    run = finished(tmp_path, 1)
    level = band.Trend(run.read_metrics(), config()).level(40)
    expected = band.record([run, run, run], "2 cores").at(40)
    assert expected.high - level.value == pytest.approx(2 * 2**0.5 * level.error, abs=1e-3)
    assert level.value - expected.low == pytest.approx(2 * 2**0.5 * level.error, abs=1e-3)


def test_between_two_entries_and_outside_them():
    made = Band({}, {}, 2, [20, 30], [0.2, 0.4], [0.4, 0.6], [0.0, 0.1], [0.2, 0.3])
    assert made.at(19) is None
    assert made.at(20).low == 0.2 and made.at(25) == pytest.approx((0.3, 0.5, 0.05, 0.25)) and made.at(30).high == 0.6
    assert made.at(500) == made.at(30)


def test_a_band_says_what_made_it_and_nothing_of_the_place(tmp_path, recorded):
    facts = recorded.facts
    assert facts["seeds"] == [1, 2, 3] and facts["hardware"] == "2 cores" and facts["grader"] == ["2.0.0"]
    assert facts["commands"][0] == "./run train --config configs/cpu.yaml seed=1"
    recorded.write(tmp_path / "band.json")
    assert Band.read(tmp_path / "band.json") == recorded
    assert str(tmp_path) not in (tmp_path / "band.json").read_text()


def test_it_applies_to_its_recipe_whatever_the_seed_and_the_folder(recorded):
    same = [
        {"seed": 9}, {"data__dev_rows": 7}, {"actor__path": "/elsewhere/.start_models/tiny-seed9-0123456789ab"},
        {"train_dataset__path": "/elsewhere/generated"}, {"actor__kl_ctl": 1e-8}, {"collapse__stop": True},
    ]  # fmt: skip
    for changes in same:
        assert recorded.differences(config(**changes)) == {}, changes
    other = {
        "actor.optimizer.lr": 1e-4, "train_dataset.batch_size": 16, "gconfig.n_samples": 4, "gconfig.temperature": 0.6,
        "actor.path": "Qwen2.5-0.5B-Instruct", "train_dataset.path": "gsm8k", "reward.format": 0.2,
        "reward.shuffled": True, "answer_format": "tags", "actor.optimizer.beta1": 0.8, "total_train_epochs": 3,
    }  # fmt: skip
    for key, value in other.items():
        (difference,) = recorded.differences(config(**{key.replace(".", "__"): value})).items()
        assert difference[0] == key and difference[1][1] == value


def test_the_band_of_a_run(tmp_path, recorded):
    recorded.write(tmp_path / "band.json")
    named = {"expected_band": str(tmp_path / "band.json")}
    assert band.band_of(finished(tmp_path / "a", 4, **named)) == recorded
    assert band.band_of(finished(tmp_path / "b", 4, gconfig__n_samples=4, **named)) is None
    assert band.band_of(finished(tmp_path / "c", 4)) is None
    assert "expected" in verdict.of_run(Run(tmp_path / "a" / "seed4")).summary
    (tmp_path / "band.json").unlink()
    found = verdict.of_run(Run(tmp_path / "a" / "seed4"))
    assert found.state == verdict.ON_TRACK and "no such file" in found.summary


@pytest.mark.parametrize("text", ["", "[]", '{"steps": [20]}', "not json"])
def test_a_file_that_is_no_band_is_named(tmp_path, text):
    (tmp_path / "band.json").write_text(text)
    with pytest.raises(BandError, match=r"band.json is not a band"):
        Band.read(tmp_path / "band.json")


def test_series_of_different_length_are_refused(tmp_path, recorded):
    recorded.write(tmp_path / "band.json")
    values = json.loads((tmp_path / "band.json").read_text())
    values["high"].pop()
    (tmp_path / "band.json").write_text(json.dumps(values))
    with pytest.raises(BandError, match="not as many values"):
        Band.read(tmp_path / "band.json")


def test_what_cannot_be_recorded_is_said(tmp_path):
    runs = [finished(tmp_path, seed) for seed in (1, 2)]
    with pytest.raises(BandError, match="at least 2 runs, found 1"):
        band.record(runs[:1], "")
    with pytest.raises(BandError, match=r"seed3 is of another recipe than .*seed1: gconfig.n_samples differs"):
        band.record([*runs, finished(tmp_path, 3, gconfig__n_samples=4)], "")
    unfinished = finished(tmp_path, 4)
    unfinished.summary.unlink()
    with pytest.raises(BandError, match="seed4: no finished run there"):
        band.record([*runs, unfinished], "")
    with pytest.raises(BandError, match="has 10 steps; a band begins at step 20"):
        band.record([*runs, finished(tmp_path, 5, means=[0.3] * 10)], "")


def test_the_command(tmp_path):
    folders = [str(finished(tmp_path, seed).root) for seed in (1, 2)]
    out = tmp_path / "bands" / "mine.json"
    done = CliRunner().invoke(app, ["band", *folders, "--out", str(out)])
    assert done.exit_code == 0 and "2 runs (seeds 1, 2), steps 20 to 60" in done.output
    assert Band.read(out).runs == 2
    refused = CliRunner().invoke(app, ["band", folders[0], "--out", str(tmp_path / "other.json")])
    assert refused.exit_code == 1 and "at least 2 runs" in refused.output and not (tmp_path / "other.json").exists()


def test_the_recipe_that_ships_has_a_band_of_its_own():
    plan = make_plan([CPU_OVERLAY], [], gpus=0)
    shipped = band.configured(plan.values)
    assert shipped.differences(plan.values) == {}
    assert shipped.steps[0] == 20 and shipped.steps[-1] == 240


def test_a_band_that_is_not_there_does_not_start():
    with pytest.raises(ConfigError, match=r"expected_band=configs/bands/cup.json: .*no such file"):
        make_plan([CPU_OVERLAY], ["expected_band=configs/bands/cup.json"], gpus=0)
    assert band.configured(make_plan([CPU_OVERLAY], ["expected_band=null"], gpus=0).values) is None
