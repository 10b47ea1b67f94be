"""The live view of a run: redrawn in a terminal, plain lines elsewhere. It only reads the run directory.

with LiveView(run, console) as view:      # what `./run train` shows, and `gsm8k watch` from another shell
    view.update()                         # a few times a second
"""

import time

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from areal_gsm8k.runs.run import Run
from areal_gsm8k.watch import preflight
from areal_gsm8k.watch.progress import RECENT, RunProgress, clock
from areal_gsm8k.watch.verdict import COLLAPSING, FLAT, ON_TRACK, SLOW, TOO_EARLY, RunVerdict, cause_line

PHASES = (
    "rollout", "reference", "logprobs", "advantages", "train", "update_weights", "save", "recovery", "eval",
)  # fmt: skip
COUNTED = {"rollout": "samples", "training": "microbatches", "evaluating": "answers", "preflight": "answers"}
SAY_SECONDS = 30  # between plain lines within a step
STYLES = {TOO_EARLY: "dim", ON_TRACK: "green", SLOW: "yellow", FLAT: "yellow", COLLAPSING: "bold red"}


class LiveView:
    """Follows one run. Steps from before the view was made are taken in, but not printed again as plain lines."""

    def __init__(self, run: Run, console: Console):
        self.run, self.console = run, console
        self.progress = RunProgress(run)
        self._phase = ""
        self._preflight_shown = run.preflight.exists()
        self._started = False  # whether a row was shown; until then every phase is shown
        self._said = time.monotonic()  # when the last plain line was written
        self._bar = Progress(TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn())
        self._task = self._bar.add_task("starting", total=None)
        self.progress.read()
        self._state = self.progress.verdict.state  # the state that was printed last
        self._live = Live(self._render(), console=console, refresh_per_second=4) if console.is_terminal else None

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
        new = self.progress.read()
        self._started = self._started or bool(new)
        for row in new if not self._live else ():
            self.console.print(self._line(row), highlight=False, soft_wrap=True)
        for row in self.progress.restarts():
            self.console.print(_restart(row), style="yellow", highlight=False, soft_wrap=True)
        phase = self.progress.phase
        if self._live:
            done, steps = self.progress.step, self.progress.steps
            self._bar.update(self._task, completed=done, total=steps, description=within(phase, self.progress.status))
            self._live.update(self._render())
        else:
            self._say_changes(phase)
            self._say_within(phase, new)
        self._phase = phase

    def say_where_it_stands(self) -> None:
        """In plain lines: the last step and the state so far, for a reader who comes late."""
        self._started = self.run.in_a_step()
        if self.progress.rows and not self._live:
            self.console.print(self._line(self.progress.rows[-1]), highlight=False, soft_wrap=True)
            self._say_state()

    def _say_changes(self, phase: str) -> None:
        """Plain lines: another phase on the way to the first step, and another state after it."""
        if phase != self._phase and not self._started:
            self.console.print(f"{time.strftime('%H:%M:%S')} {phase}", highlight=False)
        if self.progress.verdict.state != self._state:
            self._say_state()

    def _say_within(self, phase: str, new: list[dict]) -> None:
        """Plain lines: how far a long phase has come, when nothing was said for a while."""
        if new or phase != self._phase:
            self._said = time.monotonic()
        status = self.progress.status
        if "of" in status and time.monotonic() - self._said >= SAY_SECONDS:
            self._said = time.monotonic()
            at = f"step {status['step']}: " if status.get("step") else ""
            self.console.print(f"{time.strftime('%H:%M:%S')} {at}{within(phase, status)}", highlight=False)

    def _say_state(self) -> None:
        verdict = self.progress.verdict
        self._state = verdict.state
        self.console.print(Text(verdict.line(), style=STYLES[verdict.state]), soft_wrap=True)
        for cause in verdict.causes[:1]:
            self.console.print(Text(f"  likely: {cause_line(cause)}"), soft_wrap=True)

    def _line(self, row: dict) -> str:
        of = f"step {row['step']}/{self.progress.steps or '?'}"
        if "reward" not in row:
            return f"{of}  dev accuracy {row['dev/accuracy']:.1%} of {row['dev/n']}"
        dev = f"  dev {row['dev/accuracy']:.1%}" if row.get("dev/accuracy") is not None else ""
        return (
            f"{of}  reward {row['reward']:.3f}  "
            f"no signal {row['groups_without_signal']:.0%}  truncated {row['truncated']:.0%}  "
            f"staleness {row['staleness']:.1f}  {row['tokens_per_second']:.0f} tokens/s  {row['time/step']:.2f} s"
            f"{dev}  {clock(self.progress.seconds_left())} left"
        )

    def _render(self) -> Group:
        view, progress = Table.grid(padding=(0, 3)), self.progress
        if progress.rows:
            row = progress.rows[-1]
            view.add_row(
                "reward",
                f"{row['reward']:.3f}  (last {RECENT}: {progress.reward():.3f})",
                "tokens/s",
                f"{row['tokens_per_second']:.0f}",
            )
            view.add_row(
                "groups without signal", f"{row['groups_without_signal']:.0%}", "truncated", f"{row['truncated']:.0%}"
            )
            view.add_row("staleness", f"{row['staleness']:.2f}", "completion tokens", f"{row['completion_tokens']:.0f}")
            view.add_row("entropy", f"{row.get('entropy') or 0:.3f}", "reward errors", str(row["reward_errors"]))
            parts = {name: row.get(f"time/{name}") or 0.0 for name in PHASES}
            parts["rest"] = row["time/step"] - sum(parts.values())
            spent = "  ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items() if seconds >= 0.005)
            view.add_row("seconds a step", f"{row['time/step']:.2f}", "of which", spent)
            view.add_row("time left", clock(progress.seconds_left()), "", "")
        if progress.dev:
            trail = "  ".join(f"{accuracy:.1%} @{step}" for step, accuracy in progress.dev[-6:])
            view.add_row("dev accuracy", trail, "", "")
        return Group(self._bar, view, _state(progress.verdict))


def _state(verdict: RunVerdict) -> Group:
    """The state line, and the likeliest causes under it."""
    causes = (Text(f"  likely: {cause_line(cause)}") for cause in verdict.causes[:2])
    return Group(Text(verdict.line(), style=STYLES[verdict.state]), *causes)


def within(phase: str, status: dict) -> str:
    """The phase, and how far it has come: `rollout, 5 of 16 samples, 62 tokens/s`."""
    if "of" not in status:
        return phase
    rate = f", {status['tokens_per_second']} tokens/s" if "tokens_per_second" in status else ""
    return f"{phase}, {status['done']} of {status['of']} {COUNTED[phase]}{rate}"


def _restart(row: dict) -> str:
    return (
        f"rollout server {row['server']} {row['ended']}; restart {row['restart']} of {row['bound']} with "
        f"{row['weights']}. Its log: {row['log']}"
    )
