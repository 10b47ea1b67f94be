"""The findings for a person: one table a group, each fix under its line, and the command at the end."""

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from areal_gsm8k.doctor.advice import Advice
from areal_gsm8k.doctor.examination import GROUPS, Line, failed, warned
from areal_gsm8k.doctor.finding import FAIL, OK, WARN

COLOURS = {OK: "green", WARN: "yellow", FAIL: "bold red"}


def table(lines: list[Line]) -> Group:
    tables = []
    for group in GROUPS:
        rows = Table(title=group, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
        rows.add_column(width=4)
        rows.add_column(min_width=max(len(line.name) for line in lines))
        rows.add_column(overflow="fold")
        for line in (line for line in lines if line.group == group):
            colour = COLOURS[line.finding.level]
            fix = f"\n[{colour}]->[/] {escape(line.finding.fix)}" if line.finding.fix else ""
            rows.add_row(f"[{colour}]{line.finding.level}[/]", line.name, escape(line.finding.found) + fix)
        if rows.row_count:
            tables.append(rows)
    return Group(*tables)


def show(lines: list[Line], advice: Advice, console: Console) -> None:
    console.print(table(lines), highlight=False)
    counted = f"{len(lines)} checks: {len(failed(lines))} failed, {len(warned(lines))} warnings."
    console.print(
        f"\n{counted} What runs here{f' ({escape(advice.remark)})' if advice.remark else ''}:", highlight=False
    )
    console.print(f"  [bold]{escape(advice.command)}[/]", highlight=False, soft_wrap=True)
