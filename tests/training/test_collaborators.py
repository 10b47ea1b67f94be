"""What stands in the places of AReaL's collaborators: a recorder, an evaluator, a saver and recovery points."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

pytest.importorskip("areal", reason="areal is not installed")

from areal_gsm8k.runs import checkpoints, recovery
from areal_gsm8k.runs.files import read_lines
from areal_gsm8k.runs.records import RecordWriter
from areal_gsm8k.runs.recovery import Ledger
from areal_gsm8k.runs.run import Run
from areal_gsm8k.training.dev_evaluator import DevEvaluator
from areal_gsm8k.training.policy_saver import PolicySaver
from areal_gsm8k.training.ranks import Ranks
from areal_gsm8k.training.recovery_points import RecoveryPoints
from areal_gsm8k.training.step_recorder import StepRecorder

ALONE = Ranks(0, None)
GRADED = {"lenient": True, "strict": True, "formatted": True, "parts": {"accuracy": 1.0}}
SAMPLED = {"prompt_tokens": 3, "completion_tokens": 5, "truncated": False, "versions": [0]}


class Every:
    """AReaL's frequency control: true at every `steps`-th check."""

    def __init__(self, steps: int):
        self.steps, self.checked = steps, 0

    def check(self, epochs: int, steps: int) -> bool:
        self.checked += steps
        return self.checked % self.steps == 0

    def state_dict(self) -> dict:
        return {"checked": self.checked}

    def load_state_dict(self, state: dict) -> None:
        self.checked = state["checked"]


class Logger:
    """AReaL's StatsLogger: what it was given."""

    def __init__(self):
        self.ft_spec = SimpleNamespace(steps_per_epoch=2)
        self.rows: list[tuple[int, dict]] = []

    def commit(self, epoch, step, global_step, data):
        self.rows.append((global_step, data))

    def state_dict(self) -> dict:
        return {"rows": len(self.rows)}

    def load_state_dict(self, state: dict) -> None:
        self.loaded = state


class Actor:
    """Saves a folder that says how it was to be saved."""

    def __init__(self):
        self.version, self.loaded = 7, None
        self.lr_scheduler = SimpleNamespace(state_dict=lambda: {"lr": 1}, load_state_dict=lambda state: None)

    def get_version(self) -> int:
        return self.version

    def save(self, meta) -> None:
        checkpoints.Path(meta.path).mkdir(parents=True)
        (checkpoints.Path(meta.path) / "config.json").write_text(json.dumps([meta.weight_format, meta.with_optim]))

    def load(self, meta) -> None:
        self.loaded = meta.path


@pytest.fixture
def run(tmp_path):
    made = Run(tmp_path / "run")
    made.make_folders()
    return made


@pytest.fixture
def recorder(run):
    return StepRecorder(
        Logger(), run, ALONE, Ledger(), steps_done=0, after_step=lambda end_of_epoch: None, tracked=True
    )


def sampled(run: Run, position: int) -> dict:
    """A consumed sample: its record is on file, its tensors' row is returned."""
    RecordWriter(run.records).write({"id": position, "position": position, "row": "r", **SAMPLED, **GRADED})
    return {"id": position, "group": f"0-{position}", "reward": 1.0, "advantage": 0.5}


def test_a_step_is_on_file_before_anything_follows_it(run, recorder):
    seen = []
    recorder.after_step = lambda end_of_epoch: seen.append((end_of_epoch, len(run.read_metrics()), recorder.steps_done))
    for step, position in enumerate((0, 1)):
        recorder.consume([sampled(run, position)])
        recorder.commit(0, step, step, {"ppo_actor/update/lr": 0.25})
    assert seen == [(False, 1, 1), (True, 2, 2)]
    first, second = run.read_metrics()
    assert (first["step"], first["reward"], first["lr"], second["step"]) == (1, 1.0, 0.25, 2)
    assert read_lines(run.samples(2))[0][0] | {"lenient": True} == read_lines(run.samples(2))[0][0]
    assert recorder.ledger.first_open == 2
    assert [row for row, _ in recorder.areal.rows] == [0, 1] and None not in recorder.areal.rows[0][1].values()


def test_rejected_samples_are_on_file_and_done(run, recorder):
    writer = RecordWriter(run.records)
    writer.write({"id": 1, "position": 1, "row": "r", "error": "boom"})
    recorder.consume([sampled(run, 0)])
    recorder.commit(0, 0, 0, {})
    assert [row["rejected"] for row in read_lines(run.rejected)[0]] == ["boom"]
    assert recorder.ledger.first_open == 2 and run.read_metrics()[0]["reward_errors"] == 1


def test_an_evaluation_is_in_the_next_row_or_in_one_of_its_own(run, recorder):
    held = []

    @contextmanager
    def at_work():
        held.append(True)
        yield
        held.append(False)

    config = SimpleNamespace(freq_steps=1)
    areal = SimpleNamespace(freq_ctl=Every(1), config=config, evaluate=lambda evaluate, *_: evaluate())
    evaluator = DevEvaluator(areal, recorder, ALONE, Actor(), at_work, lambda *_, **__: None)
    writer = RecordWriter(run.records)

    def sample_all() -> None:
        assert held[-1] is True
        writer.write({"id": writer.new_id(), "row": "b", "evaluation": True, **SAMPLED, **GRADED})
        writer.write({"id": writer.new_id(), "row": "a", "evaluation": True, "error": "late"})

    evaluator.evaluate(sample_all, 0, 0, 0)
    assert held == [True, False] and evaluator.evaluated_version == 7
    assert [row["row"] for row in read_lines(run.evaluation(7))[0]] == ["a", "b"]
    assert evaluator.take_accuracy() == 0.5 and evaluator.take_accuracy() is None
    recorder.consume([sampled(run, 0)])
    recorder.commit(0, 0, 0, {})
    evaluator.evaluate_now(sample_all)
    recorder.commit_evaluation()
    rows = run.read_metrics()
    assert [(row["step"], row["dev/accuracy"], row["dev/errors"]) for row in rows] == [(1, 0.5, 1), (1, 0.5, 1)]
    assert "reward" in rows[0] and "reward" not in rows[1]
    config.freq_steps = 0
    evaluator.evaluate(lambda: pytest.fail("a run with freq_steps=0 never evaluates"), 0, 0, 0)
    assert not evaluator.ever


def test_checkpoints_are_saved_when_due_and_when_best(run):
    areal = SimpleNamespace(freq_ctl=Every(2), ft_spec=SimpleNamespace(steps_per_epoch=9))
    saver = PolicySaver(areal, run, ALONE, Actor(), tokenizer=None, processor=None)
    for step in range(4):
        saver.save(None, 0, step, step, tokenizer=None, processor=None)
    assert [saver.save_if_best(accuracy) for accuracy in (0.5, 0.5, None, 0.6)] == [True, False, False, True]
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["best", "step_00002", "step_00004"]
    assert checkpoints.version(run.checkpoints / "best") == 7
    assert json.loads((run.checkpoints / "best" / "config.json").read_text()) == ["hf", False]


def test_a_recovery_point_holds_all_that_steers_the_run(run):
    def trainer(actor: Actor) -> SimpleNamespace:
        made = SimpleNamespace(run=run, ranks=ALONE, scheduler=None, actor=actor, status=lambda *_, **__: None)
        made.saver = PolicySaver(
            SimpleNamespace(freq_ctl=Every(3), ft_spec=None), run, ALONE, actor, tokenizer=None, processor=None
        )
        made.stats_logger = StepRecorder(Logger(), run, ALONE, Ledger(), 0, lambda end_of_epoch: None, True)
        areal = Every(5)
        made.evaluator = DevEvaluator(
            SimpleNamespace(freq_ctl=areal, state_dict=areal.state_dict, load_state_dict=areal.load_state_dict),
            made.stats_logger, ALONE, actor, lambda: None, made.status,
        )  # fmt: skip
        made.recover_handler = RecoveryPoints(SimpleNamespace(freq_ctl=Every(4)), made)
        client = SimpleNamespace(pause=lambda: None, resume=lambda: None, set_version=lambda version: None)
        recovered = SimpleNamespace(on_version_recovered=lambda version: setattr(made, "recovered_to", version))
        client.workflow_executor = SimpleNamespace(staleness_manager=recovered)
        made.rollout = made.eval_rollout = client
        made.weight_update_meta = SimpleNamespace(with_version=lambda version: version)
        actor.update_weights, actor.set_version = made.__dict__.setdefault("sent", []).append, lambda version: None
        made.train_dataloader = [None] * 4
        return made

    before = trainer(Actor())
    before.stats_logger.steps_done, before.saver.best_accuracy, before.evaluator.evaluated_version = 6, 0.75, 5
    before.stats_logger.ledger.add([0, 1, 3])
    before.saver.freq_ctl.checked = before.evaluator.freq_ctl.checked = before.recover_handler.freq_ctl.checked = 2
    before.recover_handler.dump("anything", of="AReaL's")
    assert recovery.newest(run)[0] is None  # AReaL's call comes before the step is on file
    assert not before.recover_handler.due(end_of_epoch=False) and before.recover_handler.due(end_of_epoch=False)
    before.recover_handler.save()

    point, _ = recovery.newest(run)
    after = trainer(Actor())
    info = after.recover_handler.restore(point)
    assert (
        info.last_step_info.global_step == 5 and info.last_step_info.epoch == 1 and info.last_step_info.epoch_step == 1
    )
    assert (after.saver.best_accuracy, after.evaluator.evaluated_version) == (0.75, 5)
    assert [one.freq_ctl.checked for one in (after.saver, after.evaluator, after.recover_handler)] == [2, 2, 4]
    assert after.actor.loaded == str(point.folder) and after.sent == [6] and after.recovered_to == 6
    assert recovery.Ledger(**point.state["ledger"]).first_open == 2 and point.state["step"] == 6
