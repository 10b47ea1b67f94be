import pytest
from hypothesis import given
from hypothesis import strategies as st

from areal_gsm8k.runs import checkpoints, recovery
from areal_gsm8k.runs.files import append_lines, read_lines, write_atomically
from areal_gsm8k.runs.recovery import Ledger
from areal_gsm8k.runs.run import Run


@given(st.sets(st.integers(0, 40)), st.randoms())
def test_a_ledger_holds_what_was_added_in_whatever_order_and_survives_its_state(positions, random):
    ledger, added = Ledger(), list(positions)
    random.shuffle(added)
    for position in added:
        ledger.add([position])
    again = Ledger(**ledger.state())
    for position in range(45):
        assert (position in ledger) == (position in again) == (position in positions)
    assert not again.state()["beyond"] or again.state()["beyond"][0] > again.first_open  # nothing is kept twice


def save(run: Run, step: int) -> None:
    folder = run.recovery / f"step_{step:05d}"
    unfinished = checkpoints.partial(folder)
    unfinished.mkdir()
    (unfinished / "tensors").write_bytes(b"x" * 100)
    recovery.finish(unfinished, folder, {"step": step})


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "e" / "t")


def test_the_two_newest_points_are_kept(run):
    assert recovery.newest(run) == (None, [])
    for step in (5, 99_999, 100_000):
        save(run, step)
    assert {folder.name for folder in run.recovery.iterdir()} == {"step_99999", "step_100000"}
    point, notes = recovery.newest(run)
    assert point.step == 100_000 and point.state["step"] == 100_000 and not notes


@pytest.mark.parametrize("harm", ["short", "missing", "no state", "torn state"])
def test_a_half_written_point_is_passed_over_with_a_note(run, harm):
    save(run, 1)
    save(run, 2)
    broken = run.recovery / "step_00002"
    {
        "short": lambda: (broken / "tensors").write_bytes(b"x" * 99),
        "missing": (broken / "tensors").unlink,
        "no state": (broken / "state.json").unlink,
        "torn state": lambda: (broken / "state.json").write_text('{"step": 2, "fi'),
    }[harm]()
    point, (note,) = recovery.newest(run)
    assert point.step == 1 and str(broken) in note and "ignored" in note


def test_an_interrupted_save_leaves_the_older_points_and_a_note(run):
    save(run, 1)
    checkpoints.partial(run.recovery / "step_00002").mkdir()
    point, (note,) = recovery.newest(run)
    assert point.step == 1 and "unfinished" in note
    save(run, 2)  # the same step again, over what the crash left
    assert recovery.newest(run)[0].step == 2 and not recovery.newest(run)[1]


def test_rewinding_takes_out_later_steps_and_nothing_else(run):
    for step in range(4):
        append_lines(run.metrics, [{"step": step}])
        append_lines(run.rejected, [{"step": step, "id": step}])
        write_atomically(run.samples(step), "{}\n")
        write_atomically(run.evaluation(step), "{}\n")
    append_lines(run.records / "shard.jsonl", [{"id": 1}])
    with run.metrics.open("a") as torn:
        torn.write('{"step": 4')
    for _ in range(2):
        discarded = recovery.rewind(run, 2)
        assert [row["step"] for row in run.read_metrics()] == [0, 1, 2] and run.metrics.read_bytes().endswith(b"}\n")
        assert [row["step"] for row in read_lines(run.rejected)[0]] == [0, 1, 2]
        assert run.samples(2).exists() and not run.samples(3).exists()
        assert run.evaluation(2).exists() and not run.evaluation(3).exists()
        assert run.records.is_dir() and not list(run.records.iterdir())
    assert discarded == 0
    assert recovery.rewind(run, -1) == 2 and run.read_metrics() == [] and not run.evaluation(0).exists()
