"""Graded completions of a model, from an evaluation or a run: the input of `gsm8k compare`.

read("runs/evaluations/base")            # a folder that `gsm8k eval` wrote: evaluation.json, completions.jsonl
read("runs/tiny-grpo/20261121_101500")   # a GRPO run: its dev evaluations before the first and after the last step
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from areal_gsm8k.data.prompts import prompt_hash
from areal_gsm8k.report.gain_split import by_step
from areal_gsm8k.runs import samples
from areal_gsm8k.runs.files import read_lines
from areal_gsm8k.runs.run import Run

# What must agree between two evaluations, as named on the card of `gsm8k eval`.
CONDITIONS = ("split", "data_checksum", "prompt_hash", "grader_version", "k", "temperature", "max_new_tokens")
VERDICTS = ("strict", "lenient", "formatted")


class GradedError(ValueError):
    """An argument of `gsm8k compare` that cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Graded:
    """One model's completions with their verdicts. A fact that was not recorded is missing in `conditions`, or None."""

    name: str  # in the table
    model: str
    folder: Path
    rows: list[dict]  # row (id), sample, strict, lenient, formatted, truncated, completion_tokens, error, ...
    conditions: dict[str, object]
    training_seconds: float | None
    test_openings: int | None = None
    gain_by_step: list[dict] | None = None


def read(argument: str) -> list[Graded]:
    """The evaluations of one argument, `[NAME=]FOLDER`. Raises GradedError."""
    name, _, folder = ("", "", argument) if Path(argument).exists() else argument.rpartition("=")
    path = Path(folder)
    name = name or path.resolve().name
    if (path / "evaluation.json").is_file():
        return [_evaluation(path, name)]
    if (path / "evaluations").is_dir():
        return _run(Run(path), name)
    there = "" if path.exists() else "no such folder; "
    raise GradedError(
        f"{folder}: {there}it takes a folder with evaluation.json and completions.jsonl, or a GRPO run with "
        f"evaluations. For a model that was not evaluated yet: gsm8k eval MODEL"
    )


def _evaluation(folder: Path, name: str) -> Graded:
    card = _json(folder / "evaluation.json")
    model = Path(str(card["model"]))
    return Graded(
        name=name,
        model=str(card["model"]),
        folder=folder,
        rows=_rows(folder / "completions.jsonl"),
        conditions={key: card[key] for key in CONDITIONS if card.get(key) is not None},
        # card["model"] is the training's folder, its model/, or a checkpoint of a GRPO run
        training_seconds=next(filter(None, map(_training_seconds, (model, *model.parents[:2]))), None),
        test_openings=card.get("test_openings"),
    )


def _run(run: Run, name: str) -> list[Graded]:
    """Start and end of a GRPO run; the start alone when there is nothing else yet."""
    try:
        config = samples.configuration(run)
    except samples.SamplesError as error:
        raise GradedError(str(error)) from None
    decoding, summary = config["eval_gconfig"], run.read_summary() or {}
    conditions = {
        "split": config["valid_dataset"].get("split"),
        "prompt_hash": prompt_hash(config["answer_format"], config.get("system_prompt")),
        "data_checksum": summary.get("data_checksum"),
        "grader_version": summary.get("grader"),
        "k": decoding["n_samples"],
        "temperature": 0.0 if decoding["greedy"] else decoding["temperature"],
        "max_new_tokens": decoding["max_new_tokens"],
    }
    conditions = {key: value for key, value in conditions.items() if value is not None}
    steps = samples.evaluated_steps(run)
    if not steps:
        raise GradedError(f"{run.root}: holds no evaluation yet; wait for its first")
    model = config["actor"]["path"]
    found = [Graded(f"{name}, start", model, run.root, _rows(run.evaluation(steps[0])), conditions, None)]
    if len(steps) > 1:
        end, metrics = steps[-1], run.read_metrics()
        rows, seconds = _rows(run.evaluation(end)), _seconds_in_steps(metrics, end)
        at_end = Graded(
            f"{name}, step {end}", model, run.root, rows, conditions, seconds, gain_by_step=by_step(metrics)
        )
        found.append(at_end)
    return found


def _rows(file: Path) -> list[dict]:
    """The file's completions, each item's in the order of their samples, with sample numbers where it has none."""
    if not file.is_file():
        raise GradedError(f"{file}: is missing; run `gsm8k eval` again")
    try:
        rows, _ = read_lines(file)
    except ValueError as error:
        raise GradedError(f"{file}: is damaged ({error}); run the evaluation again") from None
    seen: dict[str, int] = {}
    numbered = []
    for row in rows:
        seen[row["row"]] = seen.get(row["row"], -1) + 1
        numbered.append({"sample": seen[row["row"]]} | row)
    if not any(verdict in row for row in rows for verdict in VERDICTS):
        raise GradedError(f"{file}: holds no verdicts; grade it with `gsm8k eval`")
    if len(set(seen.values())) > 1 or len({(row["row"], row["sample"]) for row in numbered}) < len(numbered):
        raise GradedError(f"{file}: not every item has the same samples, each once; run the evaluation again")
    return sorted(numbered, key=lambda row: row["sample"])


def _training_seconds(folder: Path) -> float | None:
    """Seconds of the training that wrote a folder: ours, SFT or GRPO; None for any other."""
    if (folder / "train_log.jsonl").is_file():
        return _json(folder / "summary.json")["seconds"]
    return _seconds_in_steps(Run(folder).read_metrics())


def _seconds_in_steps(metrics: list[dict], last: int | None = None) -> float | None:
    """Seconds a GRPO run spent in its steps; start-up and evaluations left out, as in SFT's summary."""
    rows = [row for row in metrics if "time/step" in row and (last is None or row["step"] <= last)]
    return sum(row["time/step"] - (row.get("time/eval") or 0.0) for row in rows) if rows else None


def _json(file: Path) -> dict:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GradedError(f"{file}: cannot be read ({error})") from None
