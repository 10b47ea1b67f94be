r"""`gsm8k grade`: the verdict on one completion, on a JSONL file, or the verdicts of other graders on that file.

gsm8k grade 'So the answer is \boxed{18}.' 18
gsm8k grade --file samples.jsonl --out graded.jsonl
gsm8k grade --file runs/tiny-grpo/*/samples/step_00010.jsonl --compare
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from areal_gsm8k.cli import text

SHOWN = 20  # completions that a comparison prints in full


def grade(
    completion: Annotated[str | None, typer.Argument(help="What a model wrote.")] = None,
    reference: Annotated[str | None, typer.Argument(help="The right answer: a number or a gold solution.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="JSON lines with `completion` and `reference` (or `answer`).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the rows with their verdicts here.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Grade the file by other conventions too.")] = False,
    answer_format: Annotated[
        str | None, typer.Option(help="boxed, tags or hash: for `strict` and `formatted`.")
    ] = None,
) -> None:
    """Grade a completion against a reference and say by which rule; or a whole file.

    Exit code 0 when everything could be graded, 1 when something could not: a reference without a number, a bad line.
    Bad lines are named with their number and kept in --out with an `error`, so that no line is lost.
    """
    from rich.console import Console

    console = Console(soft_wrap=True)
    with text.errors_told(ValueError, OSError):
        if file is None:
            if completion is None or reference is None or out or compare:
                raise ValueError("give a COMPLETION and a REFERENCE, or --file (with --out or --compare)")
            failed = show(completion, reference, answer_format, console)
        elif completion is not None:
            raise ValueError("--file takes no COMPLETION beside it")
        else:
            rows = read(file)
            for number, _, error in rows:
                if error:
                    console.print(f"{file}:{number}: {error}", style="red", highlight=False, markup=False)
            failed = False if out is None and compare else grade_rows(rows, answer_format, file, out, console)
            if compare:
                failed |= compare_rows(rows, file, console)
    raise typer.Exit(int(failed))


def show(completion: str, reference: str, answer_format: str | None, console) -> bool:
    from areal_gsm8k.grading import parser
    from areal_gsm8k.grading.explanation import explained

    verdict = parser.grade(completion, reference, answer_format)
    for name, said in (explained(verdict) | {"grader": parser.GRADER_VERSION}).items():
        console.print(f"{name:<10} {said}", highlight=False, markup=False)
    return verdict.error is not None


def read(file: Path) -> list[tuple[int, dict, str | None]]:
    """(line number, row, error) of every line that is not blank; a bad line becomes the row {"line": its text}."""
    rows = []
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            error = None if isinstance(row, dict) else f"not an object but {type(row).__name__}"
        except ValueError as failure:
            row, error = None, f"not JSON: {failure}"
        if error is None:
            row = row if "reference" in row or "answer" not in row else row | {"reference": row["answer"]}
            bad = [name for name in ("completion", "reference") if not isinstance(row.get(name), str)]
            error = f"`{bad[0]}` is {row.get(bad[0])!r}, not a text" if bad else None
        else:
            row = {"line": line.decode("utf-8", "replace")}
        rows.append((number, row, error))
    if not rows:
        raise ValueError(f"{file} holds no rows")
    return rows


def grade_rows(rows, answer_format: str | None, file: Path, out: Path | None, console) -> bool:
    from areal_gsm8k.grading import parser
    from areal_gsm8k.runs.files import write_atomically

    graded, errors = [], 0
    for number, row, unread in rows:
        if unread is None:
            verdict = parser.grade(row["completion"], row["reference"], answer_format)
            graded.append(row | {"verdict": verdict._asdict(), "grader": parser.GRADER_VERSION})
            error = verdict.error
            if error:
                console.print(f"{file}:{number}: {error}", style="red", highlight=False, markup=False)
        else:
            error = unread
            graded.append(row | {"error": error})
        errors += error is not None
    if out:
        write_atomically(out, "".join(json.dumps(row) + "\n" for row in graded))
    verdicts = [row["verdict"] for row in graded if "verdict" in row]
    shares = [f"{name} {sum(v[name] for v in verdicts):,}" for name in ("lenient", "strict", "formatted")]
    console.print(f"{len(graded):,} rows: {', '.join(shares)}, not decided {errors:,}", highlight=False)
    if out:
        console.print(f"written to {out}", highlight=False, markup=False)
    return errors > 0


def compare_rows(rows, file: Path, console) -> bool:
    from rich.table import Table

    from areal_gsm8k.grading.other_graders import CONVENTIONS

    texts = [(number, row["completion"], row["reference"]) for number, row, error in rows if error is None]
    judged = {
        name: [convention(completion, reference) for _, completion, reference in texts]
        for name, convention in CONVENTIONS.items()
    }
    ours = judged["ours"]
    table = Table("convention", "pays", "pays, ours does not", "does not, ours pays", title=f"{len(texts):,} rows")
    for name, paid in judged.items():
        more = sum(p and not o for p, o in zip(paid, ours, strict=True))
        less = sum(o and not p for p, o in zip(paid, ours, strict=True))
        table.add_row(name, f"{sum(paid):,}", f"{more:,}", f"{less:,}")
    console.print(table)
    differing = [i for i in range(len(texts)) if len({paid[i] for paid in judged.values()}) > 1]
    for i in differing[:SHOWN]:
        payers = ", ".join(name for name, paid in judged.items() if paid[i])
        number, completion, reference = texts[i]
        console.print(
            f"{file}:{number}: {completion[-60:]!r} for {reference[-20:]!r}: paid by {payers}",
            highlight=False,
            markup=False,
        )
    if len(differing) > SHOWN:
        console.print(f"... and {len(differing) - SHOWN:,} more rows that differ", highlight=False)
    return len(texts) < len(rows)
