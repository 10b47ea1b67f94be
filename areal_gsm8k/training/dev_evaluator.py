"""Dev evaluations of the policy, in the place of AReaL's Evaluator, which saves no completions.

    <run>/evaluations/step_NNNNN.jsonl    every graded completion; the metrics stand in that step's row as dev/...

AReaL's loop calls `evaluate` after every step; `evaluator.freq_steps` and its siblings say which steps get one. null is
none between the first and the last, 0 none at all.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from areal.utils.evaluator import Evaluator

from areal_gsm8k.runs.files import to_lines, write_atomically
from areal_gsm8k.training.batch_rows import evaluation_metrics
from areal_gsm8k.training.ranks import Ranks
from areal_gsm8k.training.step_recorder import StepRecorder


class DevEvaluator:
    """AReaL's Evaluator as its loop and recovery use it.

    `servers_at_work()` holds the GPU for the rollout servers, where they and the trainer take turns.
    """

    def __init__(
        self,
        areal: Evaluator,
        recorder: StepRecorder,
        ranks: Ranks,
        actor,
        servers_at_work: Callable[[], AbstractContextManager[None]],
        status: Callable[..., None],
    ):
        self.areal, self.freq_ctl = areal, areal.freq_ctl
        self.recorder, self.ranks, self.actor = recorder, ranks, actor
        self.servers_at_work, self.status = servers_at_work, status
        self.evaluated_version = -1
        self._accuracy: float | None = None

    @property
    def ever(self) -> bool:
        """Whether this run evaluates at all. For AReaL's timer 0 would be after every step."""
        return self.areal.config.freq_steps != 0

    def evaluate(self, evaluate_fn: Callable[[], None], epoch: int, step: int, global_step: int) -> None:
        """Evaluate when an evaluation is due. `evaluate_fn` is AReaL's: it samples every dev row and waits for all."""
        if self.ever:
            self.areal.evaluate(lambda: self.evaluate_now(evaluate_fn), epoch, step, global_step)

    def evaluate_now(self, evaluate_fn: Callable[[], None]) -> None:
        """Evaluate the current policy; the metrics wait for the recorder's next row. Called by all ranks."""
        self.status("evaluating", step=self.recorder.steps_done)
        with self.servers_at_work():
            evaluate_fn()
        self.evaluated_version = self.actor.get_version()
        if self.ranks.first:
            rows = sorted(self.recorder.reader.take_evaluated(), key=lambda row: row["row"])
            write_atomically(self.recorder.run.evaluation(self.evaluated_version), to_lines(rows))
            self.recorder.evaluated = evaluation_metrics(rows)
        self._accuracy = self.ranks.from_first(self.recorder.evaluated.get("dev/accuracy"))

    def take_accuracy(self) -> float | None:
        """Dev accuracy of the last evaluation, once; None when no evaluation followed the last call."""
        accuracy, self._accuracy = self._accuracy, None
        return accuracy

    def state_dict(self) -> dict[str, Any]:
        return self.areal.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.areal.load_state_dict(state_dict)
