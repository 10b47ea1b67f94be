"""`./run train --resume RUN`: from a run's directory back to a plan that can be launched.

The configuration is the run's own config.yaml; a user may change only keys that do not affect learning. The trainer
does the rest: it starts from the newest recovery point (training/recovery_points.py).
"""

from dataclasses import asdict, fields
from pathlib import Path

from omegaconf import OmegaConf

from areal_gsm8k.config import allocation, checks, compose, tracking
from areal_gsm8k.config.compose import Plan
from areal_gsm8k.config.schema import ConfigError, check_keys
from areal_gsm8k.dotted_keys import leaves
from areal_gsm8k.runs import recovery
from areal_gsm8k.runs.run import Run, nearby
from areal_gsm8k.settings import CollapseSettings, Settings
from areal_gsm8k.sft import tiny

CHANGEABLE = (
    "total_train_steps", "hang_seconds", "max_failures", "expected_band",
    *(f"collapse.{field.name}" for field in fields(CollapseSettings)), "stats_logger.wandb.mode", *compose.SECRETS,
)  # fmt: skip


def reopen(folder: Path, overrides: list[str], gpus: int) -> Plan:
    """The plan of an existing run. Raises ConfigError with what was found and what to do."""
    run = Run(folder)
    if not run.config.exists():
        runs = ", ".join(str(found) for found in nearby(folder)[:5])
        raise ConfigError(
            f"--resume {folder}: no run there (no config.yaml).{f' Runs nearby: {runs}.' if runs else ''}"
        )
    stored = OmegaConf.merge(asdict(Settings()), OmegaConf.load(run.config))  # keys that an old run did not have
    changes = compose.read_overrides(overrides)
    for key in leaves(OmegaConf.to_container(changes)):
        if key not in CHANGEABLE:
            raise ConfigError(
                f"{key}: a resumed run keeps its configuration ({run.config}). Only these may be set: "
                f"{', '.join(CHANGEABLE)}. To train on with other settings, start a run with "
                f"actor.path={run.checkpoints / 'last'}."
            )
    merged = OmegaConf.merge(stored, changes)
    environment = compose.take_secrets(merged)
    values = OmegaConf.to_container(merged)
    check_keys(values)
    values = _moved(values, old=values["cluster"]["fileroot"], new=str(run.areal.absolute()))
    if values["scheduler"]["type"]:
        raise ConfigError(
            f"--resume {folder}: runs of AReaL's single controller (scheduler.type={values['scheduler']['type']}) save "
            f"no recovery points. Start another from actor.path={run.checkpoints / 'last'}."
        )
    alloc = allocation.parse(values["allocation_mode"])
    checks.check_gpus(alloc, values, gpus)
    checks.check_values(values, alloc)
    environment |= tracking.prepare(values["stats_logger"], run.root, environment)
    model = Path(values["actor"]["path"])
    tiny_model = model == tiny.start_model_folder(model.parent, values["seed"])  # made again where its folder is gone
    return Plan(values, alloc, run.root, model if tiny_model else None, environment)


def describe(run: Run) -> tuple[int, list[str]]:
    """The step after which a resumed run goes on, and notes for the user."""
    point, notes = recovery.newest(run)
    step = point.step if point else 0
    if point is None:
        notes.append("No recovery point was saved yet: the run starts again from its first step.")
    again = recovery.rewind(run, step if point else -1)
    if again and point:
        notes.append(f"{again} steps after step {step} were not saved and are done again.")
    return step, notes


def _moved(value, old: str, new: str):
    """The same configuration with every path under the run's old place under its new one."""
    if isinstance(value, dict):
        return {name: _moved(inner, old, new) for name, inner in value.items()}
    old_run, new_run = str(Path(old).parent), str(Path(new).parent)
    inside = isinstance(value, str) and (value == old_run or value.startswith(old_run + "/"))
    return new_run + value[len(old_run) :] if inside else value
