"""A run's files as a run leaves them, without a run: a configuration and the samples of its steps."""

import json
from pathlib import Path

from areal_gsm8k.config import compose
from areal_gsm8k.paths import CPU_OVERLAY
from areal_gsm8k.runs.files import to_lines, write_atomically
from areal_gsm8k.runs.run import Run


def sample(id_: int, completion: str = "#### 5", group: str = "0-0", **more) -> dict:
    """A sample of the question 2 + 3?, graded and paid by hand."""
    right = completion.endswith("#### 5")
    row = {"id": id_, "row": f"train-{id_ // 4}", "position": id_ // 4, "question": "2 + 3?"}
    row |= {"reference": "total <<2+3=5>>5\n#### 5", "evaluation": False, "completion": completion}
    row |= {"prompt_tokens": 9, "completion_tokens": len(completion), "truncated": False, "versions": [0]}
    row |= {"extracted": completion.rpartition(" ")[2], "rule": "hash", "parts": {"accuracy": float(right)}}
    row |= {"lenient": right, "strict": right, "formatted": True, "reward": float(right)}
    return row | {"group": group, "advantage": 0.5 if right else -0.5} | more


def write_run(folder: Path, steps: dict[int, list[dict]], *overrides: str, rejected: list[dict] = ()) -> Run:
    """The tiny recipe's run in `folder`, with groups of four, and `steps` as the samples of its steps."""
    plan = compose.make_plan([CPU_OVERLAY], [f"runs_dir={folder}", "gconfig.n_samples=4", *overrides], gpus=0)
    run = Run(plan.run_dir)
    run.make_folders()
    compose.write(plan, run.config)
    for step, rows in steps.items():
        write_atomically(run.samples(step), to_lines(rows))
    write_atomically(run.rejected, to_lines(rejected))
    return run


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]
