"""Our GRPO beside TRL's GRPOTrainer without vLLM, on this machine: what a step costs and how fast accuracy comes.

    ./run python -m benchmarks.vs_trl --tiny                      # the tiny recipe, three seeds: about half an hour
    ./run python -m benchmarks.vs_trl --real MODEL_FOLDER DATA_FOLDER          # a 0.5B on GSM8K: three steps of each
    ./run python -m benchmarks.vs_trl --tiny --show               # the tables again, of the runs that are there

Both sides get one start model, the same prompts in the same order, one reward and, by benchmarks/trl/task.py, the same
numbers. Runs take turns, never two at once; those that are there are kept. Weights kept after some steps are evaluated
afterwards, both sides' by one evaluator. TRL's environment is made on first use (benchmarks/trl/environment.py).
Results: results.json and accuracy.png in a folder of the section in `--out`.

When the tiny recipe passes .80 hangs on three kinds of problems, a fifth of the rows, of which the start model has none
right: they come after 20 steps or after 80, by the order of the prompts and by luck. So compare within a seed, and give
several.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

from rich.console import Console

from areal_gsm8k.data.problems import GENERATED, load_problems
from areal_gsm8k.evaluation import items
from areal_gsm8k.evaluation.evaluation import evaluate
from areal_gsm8k.evaluation.settings import EvaluationSettings
from areal_gsm8k.paths import PROJECT
from areal_gsm8k.sft import tiny
from benchmarks.trl import environment, report
from benchmarks.trl.sides import TRL, Ours, Outcome
from benchmarks.trl.task import Task

RECIPE = "configs/cpu.yaml"
PROBLEMS = 1  # seed of start model and problems
KEPT = (20, 40, 60, 80, 100, 140, 240)
AHEAD = Ours("ahead", "ours, one step ahead", ("rollout.max_head_offpolicyness=1",))
SYNCHRONOUS = Ours("sync", "ours, synchronous", ("rollout.max_head_offpolicyness=0",))
REAL = "configs/models/qwen2.5-0.5b.yaml configs/scales/cpu.yaml"
REAL_SIZE = "train_dataset.batch_size=4 gconfig.n_samples=4 gconfig.max_new_tokens=256 actor.dtype=bfloat16"


def tiny_task(folder: Path, start: Path | None, seeds: range, steps: int, kept: tuple[int, ...], *more: str) -> Task:
    """The CPU recipe from the start model of PROBLEMS, on its problems, in another order for each seed."""
    model = start or tiny.start_model(folder / "start", seed=PROBLEMS)
    task = Task(folder, model.absolute(), (RECIPE,), more, steps, tuple(step for step in kept if step <= steps))
    train, dev = (
        load_problems(GENERATED, split, task.plan.get(f"data.{split}_rows"), seed=PROBLEMS).to_list()
        for split in ("train", "dev")
    )
    for seed in seeds:
        task.write_rows(train, dev, seed)
    return task


def real_task(folder: Path, model: Path, data: Path, configs: str, overrides: list[str], steps: int) -> Task:
    """The first rows of a data folder, more than the steps need, because rollouts run ahead."""
    sizes = (*REAL_SIZE.split(), *overrides, "data.dev_rows=1", "eval_gconfig.max_new_tokens=16")
    task = Task(folder, model.absolute(), tuple(configs.split()), sizes, steps)
    rows = (steps + 5) * task.plan.get("train_dataset.batch_size")
    train, dev = load_problems(data, "train", rows).to_list(), load_problems(data, "dev", 1).to_list()
    task.write_rows(train, dev, seed=1)
    return task


def make(task: Task, sides: list[TRL | Ours], seeds: range, console: Console) -> list[Outcome]:
    """Every run that is not there yet, side after side for each seed."""
    outcomes = []
    for seed in seeds:
        for side in sides:
            folder = task.folder.absolute() / "runs" / f"{side.name}-{seed}"
            file = folder.with_suffix(".json")
            if not file.exists() or Outcome.read(file).steps[-1]["step"] != task.steps:
                shutil.rmtree(folder, ignore_errors=True)
                outcome = side.run(task, seed, folder)
                outcome.accuracy.update(accuracies(task, outcome, folder.with_suffix(".evaluations")))
                outcome.write(file)
                console.print(f"{time.strftime('%X')} {side.label}, seed {seed}: {outcome.wall_a_step:.3f} s a step")
            outcomes.append(Outcome.read(file))
    return outcomes


def accuracies(task: Task, outcome: Outcome, folder: Path) -> dict[int, float]:
    """Dev accuracy of the start model and of the weights that were kept, by step."""
    if not task.kept:
        return {}
    shutil.rmtree(folder, ignore_errors=True)
    rows = items.load(task.rows(outcome.seed), "dev")
    limit = task.plan.get("eval_gconfig.max_new_tokens")
    form, system = task.plan.get("answer_format"), task.plan.get("system_prompt")
    settings = EvaluationSettings(form, system, max_new_tokens=limit, engine="hf", batch_size=len(rows.rows))
    found = {}
    for step, weights in {0: str(task.model), **outcome.weights}.items():
        found[step] = evaluate(weights, rows, settings, folder / f"step_{step:05d}").accuracy or 0.0
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--tiny", action="store_true", help="the tiny recipe")
    what.add_argument("--real", nargs=2, type=Path, metavar=("MODEL", "DATA"), help="a real model on real rows")
    what.add_argument(
        "--smoke", action="store_true", help="two steps; TRL's too where its environment is there already"
    )
    add = parser.add_argument
    add("--out", type=Path, default=PROJECT / "runs" / "vs-trl", help="folder of runs and results (%(default)s)")
    add("--seeds", type=int, default=3, help="runs of each side with --tiny (%(default)s)")
    add("--steps", type=int, help="stop earlier; schedules stay those of the whole recipe")
    add("--threads", type=int, nargs="+", default=[2], help="TRL's threads; several make a side each (%(default)s)")
    add("--start", type=Path, help="a start model that is there, instead of making one")
    add("--only", choices=("trl", "ours"), help="one side alone")
    add("--show", action="store_true", help="make no run")
    add("--configs", default=REAL, help="with --real: our configuration files (%(default)s)")
    add("--set", nargs="*", default=[], metavar="KEY=VALUE", help="with --real: further settings of ours")
    add("--batch", type=int, default=4, help="with --real: completions in one of TRL's microbatches (%(default)s)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    console = Console(width=150, highlight=False)
    peers: list[TRL | Ours] = [TRL(threads, options.batch if options.real else None) for threads in options.threads]
    folder, seeds, steps = options.out / "tiny", range(1, options.seeds + 1), options.steps or KEPT[-1]
    ours: list[TRL | Ours] = [AHEAD, SYNCHRONOUS]
    if options.real:
        folder, seeds, ours = options.out / "real", range(1, 2), [Ours("ours", "ours")]
        task = real_task(folder, *options.real, options.configs, options.set, options.steps or 3)
    elif options.smoke:
        folder, seeds, ours = options.out / "smoke", range(1, 2), [AHEAD]
        peers = peers if environment.is_there() else []
        task = tiny_task(folder, options.start, seeds, 2, (1, 2), "data.dev_rows=4", "data.train_rows=32")
    else:
        task = tiny_task(folder, options.start, seeds, steps, KEPT)
    sides = {"trl": peers, "ours": ours, None: [*peers, *ours]}[options.only]
    if options.show:
        files = [task.folder / "runs" / f"{side.name}-{seed}.json" for seed in seeds for side in sides]
        outcomes = [Outcome.read(file) for file in files if file.exists()]
        if not outcomes:
            sys.exit(f"{task.folder / 'runs'} holds no results yet: leave --show out to make them.")
    else:
        outcomes = make(task, sides, seeds, console)
    report.show(outcomes, console)
    report.write(outcomes, folder)
    console.print(f"Results: {folder / 'results.json'}")


if __name__ == "__main__":
    main()
