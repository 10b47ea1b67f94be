"""`gsm8k data prepare`: write GSM8K or generated problems as files for training, checked and complete or not at all.

gsm8k data prepare --source openai/gsm8k --out data/gsm8k --layout parquet
gsm8k data prepare --source generated --out data/generated --layout jsonl
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from areal_gsm8k.cli import text

app = typer.Typer(help="Prepare data sets.", no_args_is_help=True)
SUBSET = 500


class Layout(StrEnum):
    parquet = "parquet"
    jsonl = "jsonl"


@app.callback()
def data() -> None:
    """Prepare data sets."""


@app.command()
def prepare(
    source: Annotated[str, typer.Option(help="openai/gsm8k, a folder, a .jsonl or .parquet file, or generated.")],
    out: Annotated[Path, typer.Option(help="Folder to write to; made if missing.")],
    layout: Annotated[
        Layout,
        typer.Option(
            help="parquet: train.parquet, validation.parquet. jsonl: train.jsonl, test.jsonl, test_500.jsonl."
        ),
    ] = Layout.parquet,
    rows: Annotated[int | None, typer.Option(min=1, help="Train rows, for generated only.")] = None,
    seed: Annotated[int, typer.Option(help="For generated only.")] = 0,
) -> None:
    """Write a data set with the columns id, question and answer.

    parquet: train without dev, and dev as validation. jsonl: all of train (dev is carved from it on reading), the test
    split, and its first 500 questions, the subset that published tables often use. GSM8K's counts and checksums are
    verified. Files that are already there are replaced; the other layout's files in the same folder are an error.
    """
    from rich.console import Console
    from rich.table import Table

    from areal_gsm8k.data.problems import DataError

    console = Console()
    with text.errors_told(DataError, OSError):
        files, verified = collect(source, layout.value, rows, seed)
        other = sorted(
            file.name for file in out.glob("*") if file.suffix in {".jsonl", ".parquet"} - {f".{layout.value}"}
        )
        if other:
            raise DataError(
                f"{out} already holds {', '.join(other)}; choose another --out so that reading stays unambiguous"
            )
        for name, content in files.items():
            write(content, out / name)
    table = Table("file", "rows")
    table.columns[1].justify = "right"
    for name, content in files.items():
        table.add_row(str(out / name), f"{len(content):,}")
    console.print(table)
    console.print(verified, highlight=False)


def collect(source: str, layout: str, rows: int | None, seed: int) -> tuple[dict[str, list[dict]], str]:
    """Rows of each file to write, and one line on what was verified. Raises DataError."""
    from areal_gsm8k.data.problems import GENERATED, DataError, load_problems, read_split, verify_gsm8k

    if source == GENERATED:
        train = load_problems(GENERATED, "train", rows=rows, seed=seed).to_list()
        if layout == "parquet":
            held_out = {"validation.parquet": load_problems(GENERATED, "dev", seed=seed).to_list()}
        else:
            test = load_problems(GENERATED, "test", seed=seed).to_list()
            held_out = {"test.jsonl": test, f"test_{SUBSET}.jsonl": test[:SUBSET]}
        return {f"train.{layout}": train, **held_out}, f"generated with seed {seed}; the splits share no question"
    if rows is not None:
        raise DataError("--rows applies to --source generated only")
    if layout == "jsonl" and Path(source).is_file():
        raise DataError(f"{source}: one file has no test split of its own; use --layout parquet, or give a folder")
    everything = read_split(source, "all-train")
    verified = [f"train ({len(everything):,})"] if verify_gsm8k(everything, "train", source) else []
    if layout == "parquet":
        files = {"train.parquet": read_split(source, "train"), "validation.parquet": read_split(source, "dev")}
    else:
        test = read_split(source, "test")
        verified += [f"test ({len(test):,})"] if verify_gsm8k(test, "test", source) else []
        files = {"train.jsonl": everything, "test.jsonl": test, f"test_{SUBSET}.jsonl": test[:SUBSET]}
    if not verified:
        return files, "not GSM8K: only the form of the rows was checked"
    return files, f"GSM8K, rows and sha256 as released: {', '.join(verified)}"


def write(rows: list[dict], path: Path) -> None:
    """Write rows as .jsonl or .parquet under a temporary name, sync and rename."""
    import pyarrow
    import pyarrow.parquet

    from areal_gsm8k.runs.files import replacing, to_lines, write_atomically

    if path.suffix == ".jsonl":
        write_atomically(path, to_lines(rows))
    else:
        with replacing(path) as file:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
