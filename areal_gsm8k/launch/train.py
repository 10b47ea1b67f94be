"""`./run train`: check the configuration, start the processes, show the run, sum it up.

    ./run train [--config FILE]... [key=value]... [--dry-run]
    ./run train --resume RUN

Ctrl-C in training finishes the step and saves; a second one stops at once.
Exit codes: 0 done, 1 the run failed or was stopped as collapsing, 2 the run could not start, 130 Ctrl-C.
"""

import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from areal_gsm8k.children import ChildDied
from areal_gsm8k.config import compose, defaults
from areal_gsm8k.config.compose import Plan
from areal_gsm8k.config.schema import ConfigError
from areal_gsm8k.data import problems
from areal_gsm8k.launch import model_folder, readiness, resume
from areal_gsm8k.launch.processes import processes
from areal_gsm8k.machine import nvidia
from areal_gsm8k.report import plots, summary
from areal_gsm8k.runs import environment
from areal_gsm8k.runs.run import COLLAPSED, REFUSED, STOPPED, Run, RunError
from areal_gsm8k.sft import tiny
from areal_gsm8k.watch import verdict
from areal_gsm8k.watch.live import LiveView

POLL_SECONDS = 0.25
# Durations of the tiny recipe, measured on 2 cores: see docs/verification.md.
WARM_START_SECONDS, START_SECONDS, SAMPLE_SECONDS = 70, 15, 0.004
# A real model's step on 2 cores, for each token of a full batch and each billion parameters: 65 to 85 s with the 0.5B
# of configs/scales/cpu.yaml, by the machine (docs/performance.md).
REAL_SECONDS = 0.037


def train(config_files: list[Path], overrides: list[str], dry_run: bool, resumed: Path | None = None) -> int:
    """The verb `train`; returns the exit code."""
    console = Console()
    for ending in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, ending):
            signal.signal(getattr(signal, ending), lambda number, _: sys.exit(128 + number))
    try:
        plan = _plan(config_files, overrides, resumed, console)
        readiness.choose_gpus(plan)
        readiness.find_cuda_runtime(plan)
        readiness.check_model(plan, ask_hub=not dry_run)
        model_folder.check(plan)
        readiness.check_memory(plan, ask_hub=not dry_run)
        if dry_run:
            file = plan.run_dir.with_name(f"{plan.run_dir.name}.dry-run.yaml")
            compose.write(plan, file)
            _say(console, f"Resolved configuration written to {file}; nothing was started.")
            return 0
        readiness.check_reward(plan)
        steps = readiness.count_steps(plan)
        run, step = _open(plan, resumed, console)
        compose.write(plan, run.config)
        run.add_launch(_typed_command(), step, steps)
        environment.record(run)
    except (ConfigError, RunError, problems.DataError, OSError) as mistake:
        _say(console, f"[red]Cannot start:[/red] {escape(str(mistake))}")
        return 2
    except KeyboardInterrupt:
        _say(console, "\nStopped by Ctrl-C before anything was started.")
        return 130
    try:
        _say(console, _announcement(plan, run, steps, step))
        _train(plan, run, console)
        if run.status().get("phase") == REFUSED:
            _say(console, f"[red]Not trained:[/red] {escape(run.read_preflight()['refusal'])}")
            return 2
        if run.status().get("phase") == STOPPED:
            _say(console, f"Stopped by Ctrl-C after step {run.status()['step']}, saved. {_go_on(run)}")
            return 130
        if run.status().get("phase") == COLLAPSED:
            _say(console, _collapse(run))
            return 1
        _finish(plan, run, console)
        return 0
    except KeyboardInterrupt:
        _say(console, f"\nStopped by Ctrl-C. Everything written so far is in {run.root}. {_go_on(run)}")
        return 130
    except (ChildDied, OSError, RuntimeError, ValueError) as failure:
        _say(console, f"[red]The run failed:[/red] {escape(str(failure))}")
        _say(console, f"Everything written so far is in {run.root}. {_go_on(run)}")
        _say(console, "What may be wrong with the machine: ./run doctor. By symptom: docs/troubleshooting.md")
        return 1


def _go_on(run: Run) -> str:
    return f"To go on: ./run train --resume {run.root}"


def _collapse(run: Run) -> str:
    """Why `collapse.stop` ended the run, what to try, and from which checkpoint."""
    found, best = verdict.of_run(run), run.checkpoints / "best"
    causes = "".join(f"\n  {number}. {verdict.cause_line(cause)}" for number, cause in enumerate(found.causes, 1))
    return (
        f"[red]Stopped after step {run.status()['step']}, {escape(found.line())}[/red]{escape(causes)}\n"
        f"The best model by dev accuracy is {best}, the last {run.checkpoints / 'last'}. To start from the best with "
        f"other settings: actor.path={best}. To go on all the same: ./run train --resume {run.root} collapse.stop=false"
    )


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)


def _plan(config_files: list[Path], overrides: list[str], run: Path | None, console: Console) -> Plan:
    gpus = len(nvidia.ours())
    if run:
        if config_files:
            raise ConfigError(f"--resume and --config: a resumed run keeps its configuration, {run / 'config.yaml'}.")
        return resume.reopen(run, overrides, gpus)
    if not config_files:
        config_files, needed, why = defaults.of_this_machine()
        overrides = [*needed, *overrides]
    else:
        config_files, why = defaults.with_scale(config_files, overrides)
    if why:
        _say(console, why)
    return compose.make_plan(config_files, overrides, gpus)


def _open(plan: Plan, resumed: Path | None, console: Console) -> tuple[Run, int]:
    """The run's directory, claimed for this process, and the step after which the run goes on."""
    if not resumed:
        return Run.create(plan.run_dir), 0
    run = Run(plan.run_dir)
    run.claim()
    step, notes = resume.describe(run)
    for note in notes:
        _say(console, escape(note))
    return run, step


def _announcement(plan: Plan, run: Run, steps: int, done: int) -> str:
    """One line that announces the run and its duration, as far as one was measured: on a CPU."""
    batch, group = plan.get("train_dataset.batch_size"), plan.get("gconfig.n_samples")
    model, takes = plan.get("actor.path"), "the time left is shown from the first step on"
    if plan.start_model:
        to_make = 0 if plan.start_model.exists() else WARM_START_SECONDS
        model = "a tiny model from scratch" + (", made first" if to_make else "")
        seconds = to_make + START_SECONDS + (steps - done) * batch * group * SAMPLE_SECONDS
        takes = f"about {max(1, round(seconds / 60))} minutes on 2 cores"
    elif billions := readiness.parameters_on_cpu(plan) / 1e9:
        seconds = REAL_SECONDS * billions * batch * group * plan.get("gconfig.max_new_tokens")
        takes = f"a step takes about {max(1, round(seconds / 10)) * 10} s on 2 cores; {takes}"
    return (
        f"{f'Going on after step {done}: ' if done else ''}"
        f"GRPO on {plan.get('train_dataset.path')} with {model}: {steps} steps of {batch} problems x {group} "
        f"completions, {plan.allocation}; {takes}. Files go to {run.root}"
    )


def _train(plan: Plan, run: Run, console: Console) -> None:
    """Start everything and follow it to its end. Raises ChildDied."""
    with processes(plan, run) as group:
        run.set_status("starting")
        if not group.by_areal:
            group.start_trainers()  # they import AReaL while the start model is made
        if plan.start_model:
            _make_start_model(plan, run, group.running, console)
        if group.by_areal:
            group.start_trainers()
        group.start_servers()
        with LiveView(run, console) as view:
            while True:
                try:
                    if not group.running():
                        break
                    view.update()
                    time.sleep(POLL_SECONDS)
                except KeyboardInterrupt:
                    if run.stop_request.exists() or not run.in_a_step():
                        raise
                    run.stop_request.touch()
                    _say(console, "Ctrl-C: finishing this step, then saving. Ctrl-C again stops at once.")
            view.update()


def _make_start_model(plan: Plan, run: Run, still_running: Callable[[], bool], console: Console) -> None:
    phase = "making the start model"
    run.set_status(phase)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("warm start: SFT on a noisy corpus", total=None)

        def show(step: int, total: int, loss: float) -> None:
            progress.update(task, completed=step, total=total, description=f"warm start (SFT), loss {loss:.3f}")
            if step % 50 == 0:
                run.set_status(phase, step=step)
                still_running()  # a trainer that cannot import is reported now, not after the warm start

        tiny.start_model(plan.start_model.parent, plan.get("seed"), on_progress=show)


def _typed_command() -> str:
    """The command line as the user typed it, without secrets."""
    program, *arguments = sys.argv
    started_as = {"train_grpo.py": ["python", program], "local.py": ["python", "-m", "areal.launcher.local"]}
    return shlex.join([*started_as.get(Path(program).name, ["./run"]), *compose.mask_secrets(arguments)])


def _finish(plan: Plan, run: Run, console: Console) -> None:
    """Write summary.json and the plot, print the table and what to do next."""
    launches = run.read_launches()
    seconds = launches[-1]["spent"] + time.time() - launches[-1]["time"]
    facts = {
        "format": plan.get("answer_format"),
        "model": plan.get("actor.path"),
        "data": plan.get("valid_dataset.path"),
        "split": plan.get("valid_dataset.split"),
        "data_checksum": problems.checksum(readiness.dev_rows(plan)),
        "seed": plan.get("seed"),
        "reward": plan.get("reward"),
        "wall_seconds": round(seconds, 1),
        "decoding": "greedy" if plan.get("eval_gconfig.greedy") else f"T={plan.get('eval_gconfig.temperature')}",
        "command": launches[0]["command"],
        "resumed_after": [launch["step"] for launch in launches[1:]],
    }
    evaluated = plan.get("evaluator.freq_steps") != 0
    result = summary.build(run, facts) if evaluated else summary.without_evaluations(run, facts)
    summary.write(run, result)
    picture = plots.draw(run)
    if evaluated:
        console.print(summary.table(result))
    if plan.start_model:
        _say(
            console,
            "What this shows: nothing here was pretrained. The start model learned generated problems from a corpus "
            "that is wrong more often than right, and GRPO saw only whether final answers were right. Other problems "
            "than generated ones are far beyond a model this small.",
        )
    report = f"Report: {_report(run)}  " if plan.get("report") else ""
    _say(console, f"{seconds:.0f} s. {report}Curves: {picture}  Checkpoint: {run.checkpoints / 'last'}")
    _say(
        console,
        f"Next: look at {run.samples(result['steps'])}, or run ./run train seed={facts['seed'] + 1}",
    )


def _report(run: Run) -> str:
    """Write report.html and return its path; or return one line with the reason why not: the run itself is done."""
    try:
        from areal_gsm8k.report import page

        return str(page.write([run.root], run.report))
    except Exception as failure:
        return escape(f"none ({type(failure).__name__}: {' '.join(str(failure).split())})")
