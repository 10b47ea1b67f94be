"""`gsm8k doctor`: what this machine has, what would go wrong, and a command that runs on it.

./run doctor
./run doctor --config configs/scales/24gb.yaml actor.path=Qwen/Qwen2.5-1.5B-Instruct
./run doctor --json
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As for `train`: what the run would be.")
    ] = None,
    config: Annotated[list[Path] | None, typer.Option(help="As for `train`; may be repeated, later wins.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Check driver, CUDA, packages, memory, disks and network before a run; exit code 1 when something failed."""
    import json

    from rich.console import Console

    from areal_gsm8k.doctor import advice, examination, gpu, requested, table
    from areal_gsm8k.machine.facts import Machine

    machine = Machine()
    asked = requested.read(
        config or [], overrides or [], len(gpu.known(machine)), advice.recipe(machine), advice.needed(machine)
    )
    lines = examination.examine(machine, asked)
    runs = advice.advise(lines, machine, asked)
    failed, warned = examination.failed(lines), examination.warned(lines)
    if as_json:
        counts = {"failed": len(failed), "warned": len(warned)}
        found = {"lines": [line.to_json() for line in lines], **counts, "command": runs.command, "remark": runs.remark}
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        table.show(lines, runs, Console())
    raise typer.Exit(1 if failed else 0)
