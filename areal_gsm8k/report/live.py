"""The live view of a run: redrawn in a terminal, plain lines elsewhere. It only reads the run directory."""

import time

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from areal_gsm8k import preflight
from areal_gsm8k.runs import Run, read_lines

PHASES = ("time/rollout", "time/logprobs", "time/train", "time/update_weights", "time/eval")
RECENT = 10  # steps averaged for the reward


class LiveView:
    """Follows metrics.jsonl and status.json; call `update()` a few times a second."""

    def __init__(self, run: Run, total_steps: int, console: Console):
        self.run, self.total_steps, self.console = run, total_steps, console
        self.rows: list[dict] = []
        self._offset = 0
        _, self._restarts_offset = read_lines(run.restarts)
        self._dev: list[tuple[int, float]] = []
        self._phase = ""
        self._preflight_shown = run.preflight.exists()
        self._started = False  # whether a row was shown; until then every phase is
        self._progress = Progress(TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn())
        self._task = self._progress.add_task("starting", total=total_steps)
        self._live = Live(self._render(), console=console, refresh_per_second=4) if console.is_terminal else None
        self._read()  # a resumed run's rows so far, which were shown when they were new

    def __enter__(self) -> "LiveView":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live:
            self.update()
            self._live.stop()

    def update(self) -> None:
        """Take in whatever the run has written since the last call, and show it."""
        if not self._preflight_shown and (found := self.run.read_preflight()):
            self._preflight_shown = True
            self.console.print(preflight.line(found), highlight=False, soft_wrap=True)
        new = self._read()
        self._started = self._started or bool(new)
        for row in new:
            if not self._live:
                self.console.print(self._line(row), highlight=False, soft_wrap=True)
        restarts, self._restarts_offset = read_lines(self.run.restarts, self._restarts_offset)
        for row in restarts:
            self.console.print(_restart(row), style="yellow", highlight=False, soft_wrap=True)
        phase = self.run.status().get("phase", "starting")
        if self._live:
            self._progress.update(self._task, completed=self.rows[-1]["step"] if self.rows else 0, description=phase)
            self._live.update(self._render())
        elif phase != self._phase and not self._started:
            self.console.print(f"{time.strftime('%H:%M:%S')} {phase}", highlight=False)
        self._phase = phase

    def _read(self) -> list[dict]:
        new, self._offset = read_lines(self.run.metrics, self._offset)
        self.rows += [row for row in new if "reward" in row]
        self._dev += [(row["step"], row["dev/accuracy"]) for row in new if row.get("dev/accuracy") is not None]
        return new

    def seconds_left(self) -> float | None:
        """Estimated seconds to the last step, from all so far (evaluations included)."""
        if not self.rows:
            return None
        seconds = [row["time/step"] for row in self.rows]
        return (self.total_steps - self.rows[-1]["step"]) * sum(seconds) / len(seconds)

    def _line(self, row: dict) -> str:
        if "reward" not in row:
            return f"step {row['step']}/{self.total_steps}  dev accuracy {row['dev/accuracy']:.1%} of {row['dev/n']}"
        dev = f"  dev {row['dev/accuracy']:.1%}" if row.get("dev/accuracy") is not None else ""
        left = self.seconds_left()
        return (
            f"step {row['step']}/{self.total_steps}  reward {row['reward']:.3f}  "
            f"no signal {row['groups_without_signal']:.0%}  truncated {row['truncated']:.0%}  "
            f"staleness {row['staleness']:.1f}  {row['tokens_per_second']:.0f} tokens/s  {row['time/step']:.2f} s"
            f"{dev}  {_clock(left)} left"
        )

    def _render(self) -> Group:
        view = Table.grid(padding=(0, 3))
        if self.rows:
            row = self.rows[-1]
            mean = sum(r["reward"] for r in self.rows[-RECENT:]) / len(self.rows[-RECENT:])
            view.add_row(
                "reward",
                f"{row['reward']:.3f}  (last {RECENT}: {mean:.3f})",
                "tokens/s",
                f"{row['tokens_per_second']:.0f}",
            )
            view.add_row(
                "groups without signal", f"{row['groups_without_signal']:.0%}", "truncated", f"{row['truncated']:.0%}"
            )
            view.add_row("staleness", f"{row['staleness']:.2f}", "completion tokens", f"{row['completion_tokens']:.0f}")
            view.add_row("entropy", f"{row.get('entropy') or 0:.3f}", "reward errors", str(row["reward_errors"]))
            spent = "  ".join(
                f"{name.removeprefix('time/')} {row[name]:.2f}" for name in PHASES if row.get(name) is not None
            )
            view.add_row("seconds a step", f"{row['time/step']:.2f}", "of which", spent)
            view.add_row("time left", _clock(self.seconds_left()), "", "")
        if self._dev:
            trail = "  ".join(f"{accuracy:.1%} @{step}" for step, accuracy in self._dev[-6:])
            view.add_row("dev accuracy", trail, "", "")
        return Group(self._progress, view)


def _restart(row: dict) -> str:
    return (
        f"rollout server {row['server']} {row['ended']}; restart {row['restart']} of {row['bound']} with "
        f"{row['weights']}. Its log: {row['log']}"
    )


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
