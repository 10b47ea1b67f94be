"""Writes each training step to files, in the place of AReaL's StatsLogger: samples, metrics, then `after_step`.

AReaL's loop calls `commit` once a step, after the update, the save and the evaluation. By then the actor has handed
over the step's sample rows (`consume`), and the workflows have written their records (runs/records.py). The recorder
joins the two by id:

    <run>/samples/step_NNNNN.jsonl    the samples the step consumed
    <run>/samples/rejected.jsonl      the samples no step consumed, and why
    <run>/metrics.jsonl               one row a step, docs/metrics.md
"""

import time
from collections.abc import Callable
from typing import Any

from areal.utils.stats_logger import StatsLogger

from areal_gsm8k.runs.files import append_lines, to_lines, write_atomically
from areal_gsm8k.runs.records import RecordReader
from areal_gsm8k.runs.recovery import Ledger
from areal_gsm8k.runs.run import Run
from areal_gsm8k.training.batch_rows import step_metrics
from areal_gsm8k.training.ranks import Ranks


class StepRecorder:
    """AReaL's StatsLogger as its loop, recovery and `close` use it; the statistics also go to AReaL's own logger.

    `after_step(end_of_epoch)` is called by all ranks once a step is on file; it may raise to end the run.
    """

    def __init__(
        self,
        areal: StatsLogger,
        run: Run,
        ranks: Ranks,
        ledger: Ledger,
        steps_done: int,
        after_step: Callable[[bool], None],
        tracked: bool,
    ):
        """`tracked`: whether a tracker is to get the rows; AReaL spends a tenth of a step on disabled ones."""
        self.tracked = tracked
        self.areal, self.run, self.ranks, self.ledger, self.steps_done = areal, run, ranks, ledger, steps_done
        self.after_step = after_step
        self.reader = RecordReader(run.records)
        self.evaluated: dict[str, float | None] = {}  # metrics of an evaluation that no row of metrics.jsonl holds yet
        self._consumed: list[dict[str, Any]] = []  # this rank's sample rows of the current step
        self._started = time.perf_counter()

    def start(self) -> None:
        """Start the clock of the next step."""
        self._started = time.perf_counter()

    def consume(self, rows: list[dict[str, Any]]) -> None:
        """Take the rows of the batch that the actor trains on (training/batch_rows.py)."""
        self._consumed = rows

    def commit(self, epoch: int, step: int, global_step: int, data: dict[str, float]) -> None:
        """Put step `global_step` (counted from 0) on file. `data`: AReaL's statistics. Called by all ranks."""
        consumed = self.ranks.gather(self._consumed)
        ours: dict[str, Any] = {}
        if self.ranks.first:
            samples = self._write_samples(global_step + 1, consumed)
            rejected = self.flush_rejected()
            seconds = time.perf_counter() - self._started
            ours = {"step": global_step + 1, "epoch": epoch + 1}
            ours |= step_metrics(samples, rejected, data, version=global_step, seconds=seconds) | self.evaluated
            append_lines(self.run.metrics, [ours])
            self.ledger.add(row["position"] for row in [*samples, *rejected])
        self._track(epoch, step, global_step, data | _numbers(ours))
        self.evaluated = {}
        self.steps_done = global_step + 1
        self.start()
        self.after_step(step == self.areal.ft_spec.steps_per_epoch - 1)

    def commit_evaluation(self) -> None:
        """Put an evaluation outside AReaL's loop on file, as a row of its own."""
        if self.ranks.first:
            row = {"step": self.steps_done} | self.evaluated
            append_lines(self.run.metrics, [row])
            # AReaL counts its rows from 0 and never back: with this row at 0, step n of the run is AReaL's row n.
            self._track(0, -1, self.steps_done - 1, _numbers(row))
        self.evaluated = {}

    def _track(self, epoch: int, step: int, global_step: int, row: dict[str, float]) -> None:
        if self.tracked:
            self.areal.commit(epoch, step, global_step, row)
        else:
            self.areal.print_stats(row)

    def flush_rejected(self) -> list[dict[str, Any]]:
        """Write the samples that no step will consume to samples/rejected.jsonl."""
        if not self.ranks.first:
            return []
        rejected = [row | {"step": self.steps_done + 1} for row in self.reader.take_rejected()]
        append_lines(self.run.rejected, rejected)
        return rejected

    def state_dict(self) -> dict[str, Any]:
        return self.areal.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.areal.load_state_dict(state_dict)

    def print_stats(self, stats: dict[str, float]) -> None:
        self.areal.print_stats(stats)

    def close(self) -> None:
        self.areal.close()

    def _write_samples(self, step: int, consumed: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Join this step's tensors with the records the workflows wrote, and write them as one file."""
        records = self.reader.take([row["id"] for row in consumed])
        samples = [record | row for record, row in zip(records, consumed, strict=True)]
        write_atomically(self.run.samples(step), to_lines(samples))
        return samples


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """The row without nulls, which trackers refuse."""
    return {name: value for name, value in row.items() if value is not None}
