"""The samples of a run: those that a step consumed, those that no step did, and those of its dev evaluations.

run = samples.open_run("runs/tiny-grpo/demo")
rows = samples.select(samples.read(run, samples.steps(run)[-1]), wrong=True)

gsm8k samples runs/tiny-grpo/demo --wrong
"""

from collections.abc import Iterable
from pathlib import Path

from areal_gsm8k.data.prompts import sampled_ids
from areal_gsm8k.runs.files import read_lines
from areal_gsm8k.runs.run import Run, RunError, nearby

CONSUMED = {  # fields that every sample of a step has, and their types; it has more
    "id": int, "group": str, "question": str, "reference": str, "completion": str, "prompt_tokens": int,
    "completion_tokens": int, "truncated": bool, "versions": list, "reward": (int, float), "advantage": (int, float),
}  # fmt: skip
SEARCHED = ("question", "completion", "reference")


class SamplesError(ValueError):
    """Samples that are not there or cannot be read; the message names the run or file and what there is."""


def open_run(folder: Path | str) -> Run:
    """The run in a folder. Raises SamplesError, naming the runs nearby, when there is none."""
    run = Run(folder)
    if run.config.is_file():
        return run
    names = ", ".join(map(str, nearby(run.root)[:5]))
    raise SamplesError(
        f"{folder}: no run there (no config.yaml)." + (f" Runs nearby: {names}." if names else " Give a run's folder.")
    )


def configuration(run: Run) -> dict:
    """The run's resolved config.yaml as nested plain values. Raises SamplesError."""
    try:
        values = run.read_config()
    except RunError as error:
        raise SamplesError(str(error)) from None
    if not isinstance(values, dict) or not {"actor", "gconfig", "reward", "answer_format"} <= values.keys():
        raise SamplesError(f"{run.config}: not the configuration of a GRPO run")
    return values


def steps(run: Run) -> list[int]:
    """The training steps whose samples are on file, ascending."""
    return _numbers(run.samples(0).parent)


def evaluated_steps(run: Run) -> list[int]:
    """The steps after which the dev rows were evaluated, ascending; 0 is the start model."""
    return _numbers(run.evaluation(0).parent)


def read(run: Run, step: int) -> list[dict]:
    """The samples that one training step consumed, in the order of its batch. Raises SamplesError.

    Each holds id, row, position, question, reference, completion, prompt_tokens, completion_tokens, truncated,
    versions, extracted, rule, lenient, strict, formatted, parts, reward, group, advantage (mean over its tokens), and
    completion_ids where the text alone does not lead back to them.
    """
    rows = _at_step(run.samples(step), steps(run), f"{run.root}: no samples of step {step}")
    for number, row in enumerate(rows, 1):
        if wrong := [name for name, kind in CONSUMED.items() if not isinstance(row.get(name), kind)]:
            found = f"is {row[wrong[0]]!r}" if wrong[0] in row else "is missing"
            raise SamplesError(f"{run.samples(step)}:{number}: not a sample of a step, its `{wrong[0]}` {found}")
    return rows


def read_evaluation(run: Run, step: int) -> list[dict]:
    """The graded dev completions of the evaluation after `step`. Raises SamplesError."""
    return _at_step(run.evaluation(step), evaluated_steps(run), f"{run.root}: no evaluation after step {step}")


def read_rejected(run: Run) -> list[dict]:
    """Samples that no step consumed, each with its intended `step` and why it was `rejected`. Raises SamplesError."""
    return _lines(run.rejected)


def find(run: Run, sample: int, step: int | None = None) -> tuple[int, dict]:
    """The step and the sample of that id, consumed or rejected; `step` None looks through all. Raises SamplesError."""
    rejected = read_rejected(run)
    for at in steps(run) if step is None else [step]:
        rows = [*read(run, at), *(row for row in rejected if row.get("step") == at)]
        for row in rows:
            if row["id"] == sample:
                return at, row
    where = "gsm8k samples shows them" if step is None else f"there are {spans(sorted(row['id'] for row in rows))}"
    raise SamplesError(f"{run.root}: no sample {sample}{'' if step is None else f' in step {step}'}; {where}")


def token_ids(row: dict, tokenizer) -> list[int] | None:
    """The ids of a sample's completion; None when an old record holds none and its text gives other ids."""
    if "completion_ids" in row:
        return row["completion_ids"]
    ids = sampled_ids(tokenizer, row["completion"], ended=not row["truncated"])
    return ids if len(ids) == row["completion_tokens"] else None


def select(
    rows: Iterable[dict],
    right: bool = False,
    wrong: bool = False,
    truncated: bool = False,
    error: bool = False,
    text: str | None = None,
) -> list[dict]:
    """The rows for which every given condition holds.

    `right` and `wrong` are the lenient verdict, `error` means without a verdict, `text` stands in the question, the
    completion or the reference, whatever its case.
    """
    return [
        row
        for row in rows
        if (not right or row.get("lenient") is True)
        and (not wrong or row.get("lenient") is False)
        and (not truncated or row.get("truncated"))
        and (not error or row.get("error"))
        and (text is None or any(text.lower() in str(row.get(name) or "").lower() for name in SEARCHED))
    ]


def groups(rows: Iterable[dict]) -> dict[str, list[dict]]:
    """The samples of one step by their group's name, in the order of the batch."""
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(row["group"], []).append(row)
    return found


def has_signal(group: list[dict]) -> bool:
    """Whether a group's rewards differ; where they are all equal, its advantages are 0."""
    return len({row["reward"] for row in group}) > 1


def spans(numbers: Iterable[int]) -> str:
    """Ascending numbers in short: 1 to 9, 12, 20 to 24."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in found)


def _at_step(file: Path, there: list[int], missing: str) -> list[dict]:
    if not file.exists():
        raise SamplesError(f"{missing}; " + (f"there are steps {spans(there)}" if there else "there are none yet"))
    rows = _lines(file)
    if not rows:
        raise SamplesError(f"{file}: holds no samples")
    return rows


def _lines(file: Path) -> list[dict]:
    """The file's rows, without a torn last line; [] where there is no file."""
    try:
        rows, _ = read_lines(file)
    except (OSError, ValueError) as error:
        raise SamplesError(f"{file}: cannot be read ({error})") from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or "id" not in row:
            raise SamplesError(f"{file}:{number}: not a sample")
    return rows


def _numbers(folder: Path) -> list[int]:
    names = (file.stem.removeprefix("step_") for file in folder.glob("step_*.jsonl"))
    return sorted(int(name) for name in names if name.isdigit())
