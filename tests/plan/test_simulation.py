"""`gsm8k plan --simulate`: the limits that anyone can work out by hand, speeds out of a run's files, and bad input."""

import json
import re
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner
from written_run import sample, write_run

from areal_gsm8k.cli import app
from areal_gsm8k.config import allocation
from areal_gsm8k.plan.speed import recorded, splits
from areal_gsm8k.plan.speed.rates import ScalingError, ServerSpeed, TrainerSpeed, fit_server, read_points
from areal_gsm8k.plan.speed.simulation import LOOK_SECONDS, Simulation
from areal_gsm8k.plan.speed.workload import Workload, drawn
from areal_gsm8k.runs.files import append_lines

LENGTHS = drawn(mean=250, spread=100, longest=512, group=4, groups=64)
STEADY = ServerSpeed(floor=0.0, each=1e-3)  # 1,000 tokens a second, however few requests run
FREE = TrainerSpeed(1e-9)


def played(server, trainer, servers=1, ranks=1, batch=8, concurrent=64, bound=2, lengths=LENGTHS, cores=None):
    """Steps of the steady state."""
    workload = Workload(batch, concurrent, bound, lengths)
    return Simulation(server, trainer, workload, servers, ranks, cores).run(20)[8:]


def seconds(steps) -> float:
    return fmean(step.seconds for step in steps)


# Limits


def test_when_rollouts_are_slow_a_step_takes_tokens_over_their_rate():
    steps = played(STEADY, FREE)
    assert sum(step.tokens for step in steps) / sum(step.seconds for step in steps) == pytest.approx(1000, rel=0.05)
    assert sum(step.wait for step in steps) == pytest.approx(sum(step.seconds for step in steps), rel=1e-4)


def test_when_training_is_slow_a_step_takes_its_parts_and_waits_for_nothing():
    trainer = TrainerSpeed(per_token=1e-2, update=2.0, record=0.3)
    for step in played(STEADY, trainer):
        assert (step.wait, step.staleness) == (0, 2)
        assert step.seconds == pytest.approx(step.tokens * 1e-2 + 2 + 0.3)


def test_handling_completions_takes_the_trainers_time_only_while_it_trains():
    trainer, handling = TrainerSpeed(per_token=1e-2), TrainerSpeed(per_token=1e-2, handling=0.1)
    for step in played(STEADY, handling):
        assert step.seconds == pytest.approx(step.tokens * 1e-2 + 32 * 0.1)
    assert seconds(played(STEADY, handling, bound=0)) == pytest.approx(seconds(played(STEADY, trainer, bound=0)))


def test_a_synchronous_step_is_the_sum_of_rollout_training_and_update():
    server, trainer = ServerSpeed(floor=0.01, each=2e-4), TrainerSpeed(per_token=1e-3, update=0.7, record=0.1)
    lengths = [[90, 40, 210, 160], [30, 30, 120, 70]]  # both prompts of the batch, again and again
    for step in played(server, trainer, batch=2, bound=0, lengths=lengths):
        # the longest completion's decoding steps, and every token's own share
        rollout = 0.01 * 210 + 2e-4 * 750
        assert step.wait == pytest.approx(rollout) and step.staleness == 0
        assert step.seconds == pytest.approx(rollout + 750 * 1e-3 + 0.7 + 0.1)


def test_two_servers_halve_a_synchronous_rollout_and_two_trainers_the_update():
    one, two = (played(STEADY, FREE, servers, bound=0, lengths=[[100] * 4]) for servers in (1, 2))
    assert seconds(one) == pytest.approx(2 * seconds(two))
    slow = TrainerSpeed(per_token=1e-2)
    one, two = (played(ServerSpeed(0, 1e-9), slow, ranks=ranks, bound=0) for ranks in (1, 2))
    assert seconds(one) == pytest.approx(2 * seconds(two), rel=0.01)


def test_requests_beyond_a_servers_rows_wait():
    lengths = [[100] * 4]
    all_at_once, in_two_turns = (
        played(ServerSpeed(floor=0.01, each=0.0, rows=rows), FREE, batch=2, bound=0, lengths=lengths) for rows in (8, 4)
    )
    assert seconds(in_two_turns) == pytest.approx(2 * seconds(all_at_once))


def test_few_concurrent_prompts_starve_a_server_that_wants_many():
    wide, narrow = (played(ServerSpeed(0.01, 0.0), FREE, concurrent=concurrent) for concurrent in (8, 1))
    assert seconds(narrow) > 3 * seconds(wide)


def test_completions_interrupted_by_an_update_go_on_later_and_hold_two_versions():
    # A completion takes 10 s and the trainer 1 s, so every update meets the next one after 1 s.
    trainer = TrainerSpeed(per_token=1e-4)
    for step in played(STEADY, trainer, batch=1, bound=1, concurrent=1, lengths=[[10000]]):
        assert step.seconds == pytest.approx(10 + LOOK_SECONDS)
        assert (step.staleness, step.staleness_max) == (0.5, 1)


# Staleness and devices


class Watched(Simulation):
    """Holds AReaL's two bounds against every admission."""

    def _admit(self):
        super()._admit()
        for client in self.clients:
            assert client.running <= self.concurrent
            assert client.accepted + client.running <= (self.workload.bound + self.version + 1) * self.share


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 4), st.integers(1, 3), st.sampled_from([1, 2, 4]), st.integers(1, 40), st.floats(1e-5, 1e-2),
    st.integers(0, 99),
)  # fmt: skip
def test_the_bounds_of_areal_hold_at_every_moment(bound, servers, ranks, concurrent, per_token, seed):
    workload = Workload(4, concurrent, bound, drawn(60, 40, 200, 2, 32, seed))
    assert len(Watched(STEADY, TrainerSpeed(per_token), workload, servers, ranks).run(20)) == 20


@pytest.mark.parametrize("bound", [0, 1, 2, 4])
def test_slow_training_meets_the_bound_and_never_passes_it(bound):
    steps = played(STEADY, TrainerSpeed(1e-2), bound=bound)
    assert {(step.staleness, step.staleness_max) for step in steps} == {(bound, bound)}


def test_interrupted_groups_may_be_overtaken_and_pass_the_bound_by_little():
    """The next ones, of the same length, begin while they wait to be let on: AReaL bounds what is begun, not this."""
    steps = played(STEADY, TrainerSpeed(1e-5), bound=1, lengths=[[1000] * 4])
    assert max(step.staleness_max for step in steps) == 2


def test_a_synchronous_batch_is_of_the_current_version():
    assert {step.staleness_max for step in played(STEADY, TrainerSpeed(1e-3), servers=2, ranks=2, bound=0)} == {0}


@pytest.mark.parametrize("bound", [0, 1, 4])
@pytest.mark.parametrize("per_token", [1e-4, 1e-3, 4e-3])
def test_more_devices_are_never_slower(bound, per_token):
    server, trainer = ServerSpeed(0.02, 1e-3), TrainerSpeed(per_token, update=0.2)
    for servers, ranks in ((1, 1), (2, 1), (1, 2), (3, 4)):
        now = seconds(played(server, trainer, servers, ranks, 16, bound=bound))
        assert seconds(played(server, trainer, servers + 1, ranks, 16, bound=bound)) <= 1.02 * now
        # Each trainer needs a share of its own, so more of them wait a little longer for slow rollouts.
        assert seconds(played(server, trainer, servers, 2 * ranks, 16, bound=bound)) <= 1.05 * now


def test_running_ahead_is_faster_than_waiting():
    times = [seconds(played(STEADY, TrainerSpeed(1e-3), bound=bound)) for bound in (0, 1, 2)]
    assert times[0] > 1.5 * times[1] and times[2] <= 1.02 * times[1]


def test_processes_share_the_cores_there_are():
    slow, lengths = TrainerSpeed(per_token=1e-2), [[100] * 4]
    own, shared = (seconds(played(STEADY, slow, ranks=2, bound=0, lengths=lengths, cores=cores)) for cores in (2, 1))
    generating = 8 * 400 * 1e-3
    assert shared - generating == pytest.approx(2 * (own - generating))  # both trainers at once; the server is alone


# Splits


def configured(batch=16, n=4) -> dict:
    return {
        "train_dataset": {"batch_size": batch},
        "valid_dataset": {"batch_size": batch},
        "rollout": {"max_concurrent_rollouts": 64, "max_head_offpolicyness": 2, "consumer_batch_size": batch},
    }


def best_of(devices, trainer_rate, text="sglang.d1+d1"):
    values = configured()
    workload = Workload.of(values, LENGTHS)
    speeds = splits.Speeds(STEADY, TrainerSpeed(1 / trainer_rate))
    found = [
        splits.predict(speeds, workload, sides, devices)
        for sides in splits.splits(values, allocation.parse(text), devices)
    ]
    return splits.best(found).allocation


def test_the_best_split_gives_each_side_what_its_speed_asks_for():
    assert str(best_of(4, trainer_rate=1000)) == "sglang:d2p1t1+fsdp:d2p1t1"
    assert str(best_of(4, trainer_rate=4000)) == "sglang:d3p1t1+fsdp:d1p1t1"
    assert str(best_of(5, trainer_rate=220)) == "sglang:d1p1t1+fsdp:d4p1t1"


def test_splits_keep_tensor_sizes_and_trainers_that_divide_the_batch():
    found = splits.splits(configured(batch=12), allocation.parse("sglang.d1t2+d1"), 8)
    assert [(sides.rollout.data, sides.train.data) for sides in found] == [(1, 6), (2, 4), (3, 2)]
    assert {sides.rollout.tensor for sides in found} == {2}


def test_one_device_cannot_be_split():
    with pytest.raises(ScalingError, match=r"--devices 1: .* need 2"):
        splits.splits(configured(), allocation.parse("sglang.d1+d1"), 1)


# Speeds


def test_a_servers_curve_passes_through_two_points():
    server = fit_server(read_points("1:95,64:1900"))
    assert server.tokens_per_second(1) == pytest.approx(95) and server.tokens_per_second(64) == pytest.approx(1900)
    assert fit_server({32: 500}).tokens_per_second(4) == pytest.approx(500)


@pytest.mark.parametrize("text", ["fast", "0", "4:", "-3", "1:90,1:95", "0:5", "64:nan"])
def test_a_rate_that_is_none_is_refused_by_its_option(text):
    with pytest.raises(ScalingError, match="--rollout-rate"):
        read_points(text)


@pytest.mark.parametrize("text", ["1:100,10:50", "1:100,10:2000"])
def test_a_curve_no_server_has_is_refused(text):
    with pytest.raises(ScalingError, match="must grow with the requests"):
        fit_server(read_points(text))


FLOOR, EACH, PER_TOKEN = 0.01, 2e-4, 1e-3


def recorded_run(folder, *overrides, steps=15, hiccup=0.0):
    """A synchronous run of groups of four whose times follow from known speeds; `hiccup` seconds more in step 9."""
    lengths = drawn(24, 8, 48, group=4, groups=8 * steps, seed=7)
    batches = {step: lengths[8 * (step - 1) : 8 * step] for step in range(1, steps + 1)}
    rows = {
        step: [
            sample(i, group=f"0-{i // 4}", completion_tokens=tokens)
            for i, tokens in enumerate(t for g in batch for t in g)
        ]
        for step, batch in batches.items()
    }
    run = write_run(folder, rows, "rollout.max_head_offpolicyness=0", *overrides)
    for step, batch in batches.items():
        tokens, longest = sum(map(sum, batch)), max(map(max, batch))
        times = {"time/rollout": FLOOR * longest + EACH * tokens, "time/train": PER_TOKEN * tokens}
        times |= {"time/update_weights": 0.04, "time/eval": 9.0 if step == 10 else 0.0}
        times["time/rollout"] += hiccup * (step == 9)
        append_lines(run.metrics, [{"step": step, **times, "time/step": sum(times.values()) + 0.03}], sync=False)
    return run


def test_speeds_are_read_back_from_the_run_they_made(tmp_path):
    run = recorded_run(tmp_path)
    found = recorded.read(run.root)
    assert (found.server.floor, found.server.each) == pytest.approx((FLOOR, EACH))
    trainer = found.trainer
    assert trainer.per_token == pytest.approx(PER_TOKEN)
    assert (trainer.update, trainer.record) == pytest.approx((0.04, 0.03))  # evaluation left out
    assert len(found.groups) == 12 * 8 and all(len(group) == 4 for group in found.groups)
    # and a simulation of the run as it was takes its times again
    measured = fmean(row["time/step"] - row["time/eval"] for row in run.read_metrics()[3:])
    workload = Workload(8, 32, 0, found.groups)
    predicted = Simulation(found.server, trainer, workload, 1, 1).run(12)
    assert seconds(predicted) == pytest.approx(measured)


def test_one_step_that_hung_does_not_spoil_the_speeds(tmp_path):
    found = recorded.read(recorded_run(tmp_path, hiccup=5.0).root)
    rollout = [server.floor * 40 + server.each * 800 for server in (found.server, ServerSpeed(FLOOR, EACH))]
    assert rollout[0] == pytest.approx(rollout[1], rel=0.05)


def test_groups_of_another_size_are_drawn_from_the_recorded_ones():
    drawn_groups = recorded.resampled([[1, 2], [30, 40]], size=5)
    assert all(len(group) == 5 and (set(group) <= {1, 2} or set(group) <= {30, 40}) for group in drawn_groups)


@pytest.mark.parametrize(
    ("overrides", "steps", "wrong"),
    [
        (("rollout.max_head_offpolicyness=2",), 15, "rollouts ran ahead there .*max_head_offpolicyness=0"),
        ((), 5, "holds 2 steps after the first 3; give a run of at least 11"),
    ],
)
def test_a_run_that_does_not_tell_is_refused(tmp_path, overrides, steps, wrong):
    run = recorded_run(tmp_path, *overrides, steps=steps)
    with pytest.raises(ScalingError, match=f"--from .*{wrong}"):
        recorded.read(run.root)


def test_a_run_without_samples_or_no_run_at_all_is_refused(tmp_path):
    with pytest.raises(ScalingError, match=r"--from .*no run there"):
        recorded.read(tmp_path)
    run = recorded_run(tmp_path)
    run.samples(7).unlink()
    with pytest.raises(ScalingError, match=r"step_00007.jsonl is missing"):
        recorded.read(run.root)


# The command


def planned(*arguments):
    return CliRunner().invoke(app, ["plan", "--simulate", *map(str, arguments)], env={"COLUMNS": "120"})


RATES = ("--rollout-rate", "1:95,64:1900", "--trainer-rate", "8000", "--completion-tokens", "250")


def test_the_table_marks_the_best_split_and_names_its_allocation():
    shown = planned("--devices", 4, "--config", "configs/scales/8gpus.yaml", *RATES)
    assert shown.exit_code == 0 and "best" in shown.output and "allocation_mode=sglang:d" in shown.output
    told = json.loads(planned("--devices", 4, "--config", "configs/scales/8gpus.yaml", *RATES, "--json").output)
    assert f"allocation_mode={told['best']}" in shown.output
    assert [split["allocation"][:10] for split in told["splits"]] == ["sglang:d1p", "sglang:d2p", "sglang:d3p"]


def test_a_run_is_enough(tmp_path):
    run = recorded_run(tmp_path)
    shown = planned("--from", run.root, "--config", "configs/cpu.yaml", "--devices", 3, "--cores", 2)
    assert shown.exit_code == 0 and "allocation_mode=embedded:d" in shown.output


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ((), "--rollout-rate, --trainer-rate, --completion-tokens"),
        ((*RATES[:-2],), "--simulate needs --completion-tokens"),
        ((*RATES, "--trainer-rate", "0"), "--trainer-rate 0: "),
        ((*RATES, "--update-seconds", "-1"), "--update-seconds -1: "),
        ((*RATES, "--handling-seconds", "-1"), "--handling-seconds -1: "),
        ((*RATES, "--devices", "0"), "--devices 0: "),
        ((*RATES, "--cores", "0"), "--cores 0: "),
        ((*RATES, "--completion-tokens", "9000"), "--completion-tokens 9000: .*gconfig.max_new_tokens=512"),
        ((*RATES, "--completion-spread", "-1"), "--completion-spread -1: "),
    ],
)
def test_missing_and_senseless_options_are_named(arguments, wrong):
    shown = planned(*arguments)
    assert shown.exit_code == 2

    assert re.search(wrong, shown.output), shown.output


def test_its_options_need_simulate():
    shown = CliRunner().invoke(app, ["plan", "--devices", "4"])
    assert shown.exit_code == 2 and "--devices needs --simulate" in shown.output
