"""Several runs in one table, a row a run: redrawn in a terminal, elsewhere a line a run whenever a step is done.

with Overview([Run(folder), ...], console) as view:      # what `gsm8k watch RUN RUN ...` shows
    view.update()
"""

from os.path import commonpath
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from areal_gsm8k.runs.run import Run
from areal_gsm8k.watch.live import STYLES
from areal_gsm8k.watch.progress import RunProgress, clock

COLUMNS = ("step", "reward", "dev", "no signal", "truncated", "tokens/s", "state", "left", "phase")


class Overview:
    """Follows runs; `ended` says whether all have ended."""

    def __init__(self, runs: list[Run], console: Console):
        self.console = console
        self.runs = {name: RunProgress(run) for name, run in zip(_names(runs), runs, strict=True)}
        self._said: dict[str, tuple] = {}
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> "Overview":
        if self._live:
            self._live.start()
        self.update()
        return self

    def __exit__(self, *_) -> None:
        if self._live:
            self.update()
            self._live.stop()

    def update(self) -> None:
        """Take in what the runs have written since the last call, and show it."""
        for name, progress in self.runs.items():
            progress.read()
            said = progress.step, progress.ended()
            if not self._live and said != self._said.get(name):
                cells = zip(COLUMNS, _cells(progress), strict=True)
                line = "  ".join(f"{column} {cell}" for column, cell in cells)
                self.console.print(f"{name}  {line}", markup=False, highlight=False, soft_wrap=True)
            self._said[name] = said
        if self._live:
            self._live.update(self._table())

    def ended(self) -> bool:
        return all(progress.ended() for progress in self.runs.values())

    def _table(self) -> Table:
        table = Table("run", *COLUMNS)
        for name, progress in self.runs.items():
            cells = [escape(cell) for cell in _cells(progress)]
            at = COLUMNS.index("state")
            cells[at] = f"[{STYLES[progress.verdict.state]}]{cells[at]}[/]"
            table.add_row(escape(name), *cells)
        return table


def _cells(progress: RunProgress) -> list[str]:
    row = progress.rows[-1] if progress.rows else {}

    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return [
        f"{progress.step}/{progress.steps or '?'}",
        shown(progress.reward(), ".3f"),
        shown(progress.dev[-1][1] if progress.dev else None, ".1%"),
        shown(row.get("groups_without_signal"), ".0%"),
        shown(row.get("truncated"), ".0%"),
        shown(row.get("tokens_per_second"), ".0f"),
        progress.verdict.state,
        "-" if progress.ended() else clock(progress.seconds_left()),
        progress.ended() or progress.phase,
    ]


def _names(runs: list[Run]) -> list[str]:
    """Each run's folder from where they part."""
    folders = [run.root.absolute() for run in runs]
    shared = Path(commonpath([folder.parent for folder in folders]))
    return [str(folder.relative_to(shared)) for folder in folders]
