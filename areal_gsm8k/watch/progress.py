"""One run as it goes on: the rows, status and restarts it has written since the last look, and its verdict.

    progress = RunProgress(Run(folder))
    new = progress.read()           # the new rows of metrics.jsonl
    progress.verdict, progress.phase, progress.ended()

The live view (live.py) and the table of several runs (overview.py) are drawn from a RunProgress, which only reads.
"""

from areal_gsm8k.runs.files import read_lines
from areal_gsm8k.runs.run import ENDED, Run
from areal_gsm8k.watch import verdict

RECENT = 10  # steps averaged for the reward


class RunProgress:
    """`rows` are the steps so far, `dev` their evaluations as (step, accuracy), `steps` how many there are to be."""

    def __init__(self, run: Run):
        self.run = run
        self.rows: list[dict] = []
        self.dev: list[tuple[int, float]] = []
        self.steps: int | None = None
        self.verdict = verdict.of_run(run)
        self._offset = 0
        _, self._restarts_offset = read_lines(run.restarts)

    def read(self) -> list[dict]:
        """Rows that are new since the last call; `verdict` and `steps` follow them."""
        new, self._offset = read_lines(self.run.metrics, self._offset)
        if new:
            self.rows += [row for row in new if "reward" in row]
            self.dev += [(row["step"], row["dev/accuracy"]) for row in new if row.get("dev/accuracy") is not None]
            self.steps = self.run.read_launches()[-1].get("steps") if self.run.launches.exists() else None
            self.verdict = verdict.of_run(self.run)
        return new

    def restarts(self) -> list[dict]:
        """Rollout servers that died and were restarted since the last call."""
        new, self._restarts_offset = read_lines(self.run.restarts, self._restarts_offset)
        return new

    @property
    def step(self) -> int:
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def status(self) -> dict:
        """The phase under way and, in a long one, how far it has come (training/pulse.py)."""
        return self.run.status()

    @property
    def phase(self) -> str:
        return self.status.get("phase", "starting")

    def reward(self) -> float | None:
        """Mean over the last few steps."""
        recent = [row["reward"] for row in self.rows[-RECENT:]]
        return sum(recent) / len(recent) if recent else None

    def seconds_left(self) -> float | None:
        """Estimated seconds to the last step, from all so far (evaluations included)."""
        if not self.rows or self.steps is None:
            return None
        seconds = [row["time/step"] for row in self.rows]
        return (self.steps - self.step) * sum(seconds) / len(seconds)

    def ended(self) -> str | None:
        """How the run ended: its last phase, or that its process is gone; None while it goes on or has yet to start."""
        phase, launcher = self.phase, self.run.launcher()
        if phase in ENDED:
            return phase
        if launcher is None or launcher.alive:
            return None
        return f"ended while {phase}: process {launcher.pid} is gone"


def clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
