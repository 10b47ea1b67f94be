"""From what people write to what AReaL reads: compose, check, translate.

`train_grpo.yaml` is the base; every `--config FILE` is laid over it, later ones win, then `key=value`. Our names
(`actor.lr`, `allocation_mode`, the `embedded` back end, `runs_dir`) become AReaL's own keys, and the result is one
plain file, the run's `config.yaml`, the only thing any AReaL process reads. Nothing here imports AReaL.
To see the result without starting anything: `./run train --dry-run`
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from areal_gsm8k.config import allocation, checks, recipes, tracking
from areal_gsm8k.config.allocation import Allocation
from areal_gsm8k.config.schema import ConfigError, check_keys
from areal_gsm8k.dotted_keys import lookup
from areal_gsm8k.paths import BASE, CONFIGS, PROJECT
from areal_gsm8k.runs.files import write_atomically
from areal_gsm8k.settings import Settings
from areal_gsm8k.sft import tiny

ALIASES = {"actor.lr": "actor.optimizer.lr"}
MODELS = CONFIGS / "models"
MEASURE_ONLY = 1e-8  # actor.kl_ctl too small for any effect on the reward
TINY = "tiny"  # actor.path of the model made from scratch
NAMED_SECTIONS = ("rollout", "actor", "ref", "saver", "recover", "evaluator", "stats_logger")
FILEROOT_SECTIONS = ("rollout", "saver", "recover", "evaluator", "stats_logger")
SECRETS = {"stats_logger.wandb.wandb_api_key": "WANDB_API_KEY", "stats_logger.swanlab.api_key": "SWANLAB_API_KEY"}


@dataclass
class Plan:
    """A checked configuration, ready to be written and launched."""

    values: dict
    allocation: Allocation
    run_dir: Path
    start_model: Path | None = None  # set when actor.path was `tiny`: the folder to make before training
    environment: dict[str, str] = field(default_factory=dict)  # secrets and the like: passed to children, never written
    recipe_model: str | None = None  # what an overlay of configs/models names, whatever actor.path became

    def get(self, key: str):
        """The value at a dotted key; None when it is not set."""
        return lookup(self.values, key)

    def to_yaml(self) -> str:
        return OmegaConf.to_yaml(OmegaConf.create(self.values), sort_keys=True)


def make_plan(config_files: list[Path], overrides: list[str], gpus: int) -> Plan:
    """Compose and check a configuration for a machine with so many GPUs (config/devices.py counts them).

    Raises ConfigError with the key, what was found and what to do.
    """
    OmegaConf.register_new_resolver("share", lambda part, whole: int(part * whole), replace=True)
    overlays = [_locate(file) for file in config_files]
    read = {file: _read_yaml(file) for file in overlays if file.resolve() != BASE}
    sources = [_read_yaml(BASE), *read.values()]
    named = [lookup(values, "actor.path") for file, values in read.items() if file.resolve().parent == MODELS]
    sources.append(read_overrides(overrides))
    try:
        _complete_allocations(sources)
        merged = cast(DictConfig, OmegaConf.merge(OmegaConf.create(asdict(Settings())), *sources))
        check_keys(_plain(merged))
        _choose_names(merged)
        alloc = _allocate(merged, gpus)
        runs_dir = Path(merged.runs_dir)
        run_dir = runs_dir / merged.experiment_name / merged.trial_name
        start_model = None
        if merged.actor.path == TINY:
            start_model = tiny.start_model_folder(runs_dir.absolute() / ".start_models", merged.seed)
            merged.actor.path = str(start_model)
        _keep_reference(merged)
        _spread_names(merged, (run_dir / "areal").absolute())
        environment = take_secrets(merged)
        values = _plain(merged)
    except OmegaConfBaseException as broken:
        raise ConfigError(f"{getattr(broken, 'full_key', None) or 'configuration'}: {broken.msg}") from None
    checks.check_values(values, alloc)
    environment |= tracking.prepare(values["stats_logger"], run_dir, environment)
    return Plan(values, alloc, run_dir, start_model, environment, named[-1] if named else None)


def _locate(file: Path) -> Path:
    """The file of an overlay as typed: a file here, or one of the project's by name. Raises ConfigError."""
    if found := recipes.locate(file):
        return found
    near = [path.relative_to(PROJECT).as_posix() for path in recipes.nearest(file.name)[:1]]
    hint = f"Did you mean {near[0]}? " if near else ""
    raise ConfigError(f"--config {file}: no such file. {hint}`gsm8k recipes` lists those of the project.")


def _read_yaml(file: Path) -> DictConfig:
    try:
        loaded = OmegaConf.load(file)
    except Exception as broken:  # yaml.YAMLError, UnicodeDecodeError, OSError: each says where in the file
        raise ConfigError(f"{file} is not readable YAML: {broken}") from None
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{file} must hold `key: value` pairs at its top level.")
    if "defaults" in loaded:
        raise ConfigError(f"{file}: `defaults` is not supported; repeat --config to lay files over one another.")
    return _own_names(loaded, f"{file}: ")


def read_overrides(overrides: list[str]) -> DictConfig:
    """`key=value` arguments as a nested configuration, keys checked. Raises ConfigError."""
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"{override!r} is neither an option nor key=value.")
    try:
        # Hydra's `+key=value` means the same here, where no key needs to exist beforehand.
        loaded = OmegaConf.from_dotlist([override.removeprefix("+") for override in overrides])
    except Exception as broken:  # a value that is not YAML
        raise ConfigError(f"an override cannot be read: {broken}") from None
    return _own_names(loaded, "")


def as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """Settings as arguments of the command line."""
    return [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in settings.items()]


def _own_names(source: DictConfig, where: str) -> DictConfig:
    """Check one source's keys and replace our aliases by AReaL's keys."""
    check_keys(_plain(source, resolve=False), extra=ALIASES, where=where)
    for ours, areals in ALIASES.items():
        section, leaf = ours.rsplit(".", 1)
        if leaf not in (OmegaConf.select(source, section) or {}):
            continue
        value = OmegaConf.select(source, section).pop(leaf)
        if OmegaConf.select(source, areals) not in (None, value):
            raise ConfigError(f"{where}{ours} and {areals} are the same setting with two values; keep one.")
        OmegaConf.update(source, areals, value)
    return source


def _plain(config: DictConfig, resolve: bool = True) -> dict[str, Any]:
    return cast(dict, OmegaConf.to_container(config, resolve=resolve))


def _choose_names(merged: DictConfig) -> None:
    for key in ("experiment_name", "trial_name"):
        merged[key] = name = str(merged[key])
        if not name or not all(letter.isalnum() or letter in "-_." for letter in name) or name.startswith("."):
            raise ConfigError(f"{key}={name!r} becomes a folder: use letters, digits, '-', '_' and '.' only.")
    if merged.trial_name == "auto":
        merged.trial_name = time.strftime("%Y%m%d_%H%M%S")


def _complete_allocations(sources: list[DictConfig]) -> None:
    """Complete each allocation from the one before it."""
    before = ""
    for source in sources:
        if "allocation_mode" in source:
            before = source.allocation_mode = allocation.complete(str(source.allocation_mode), before)


def _allocate(merged: DictConfig, gpus: int) -> Allocation:
    alloc = allocation.parse(str(merged.allocation_mode))
    rollout, train = OmegaConf.select(merged, "rollout.backend"), OmegaConf.select(merged, "actor.backend")
    if rollout:
        side = allocation.parse_side(str(rollout), allocation.ROLLOUT_BACKENDS, key="rollout.backend")
        alloc = Allocation(side, alloc.train)
    if train:
        side = allocation.parse_side(str(train), allocation.TRAIN_BACKENDS, key="actor.backend", default="fsdp")
        alloc = Allocation(alloc.rollout, side)
    checks.check_gpus(alloc, merged, gpus)
    merged.allocation_mode = str(alloc)
    OmegaConf.update(merged, "rollout.backend", alloc.areal_rollout)
    OmegaConf.update(merged, "actor.backend", alloc.areal_train)
    if merged.cluster.n_nodes == 1:  # AReaL takes a server with more GPUs than this for a multi-node one
        merged.cluster.n_gpus_per_node = max(merged.cluster.n_gpus_per_node, alloc.rollout.devices, alloc.train.devices)
    return alloc


def _keep_reference(merged: DictConfig) -> None:
    """Make the start model AReaL's reference policy, when the KL against it is measured or part of the reward."""
    if merged.kl_reference:  # AReaL makes no reference policy at kl_ctl 0
        merged.actor.kl_ctl = merged.actor.kl_ctl or MEASURE_ONLY
    if merged.actor.kl_ctl and OmegaConf.select(merged, "ref") is None:
        beside_actor = {"type": "colocation", "target": "actor"}
        frozen = {"optimizer": None, "use_lora": False, "scheduling_strategy": beside_actor}
        merged.ref = OmegaConf.merge(merged.actor, frozen)


def _spread_names(merged: DictConfig, fileroot: Path) -> None:
    """Repeat the run's names and folder in every section, where AReaL wants them, so that nobody has to write that."""
    if OmegaConf.select(merged, "cluster.fileroot"):
        raise ConfigError("cluster.fileroot is derived: set runs_dir, under which every run gets its own folder.")
    OmegaConf.update(merged, "cluster.fileroot", str(fileroot))
    OmegaConf.update(merged, "cluster.name_resolve.nfs_record_root", str(fileroot / "name_resolve"))
    for section in NAMED_SECTIONS:
        if merged.get(section) is not None:
            merged[section].experiment_name = merged.experiment_name
            merged[section].trial_name = merged.trial_name
    for section in FILEROOT_SECTIONS:
        merged[section].fileroot = str(fileroot)


def take_secrets(merged: DictConfig) -> dict[str, str]:
    """Move keys that must not be written anywhere into the children's environment."""
    environment = {}
    for key, variable in SECRETS.items():
        value = OmegaConf.select(merged, key)
        if value:
            environment[variable] = str(value)
            OmegaConf.update(merged, key, "")
    return environment


def mask_secrets(arguments: list[str]) -> list[str]:
    """Command-line arguments with the values of secret keys replaced, so that they may be written to a file.

    A whole section, as in `stats_logger.wandb={wandb_api_key: ...}`, is replaced when it holds such a key.
    """
    masked = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        name = key.removeprefix("+")
        inside = (secret for secret in SECRETS if secret.startswith(f"{name}."))
        hidden = name in SECRETS or any(secret.rsplit(".", 1)[1] in value for secret in inside)
        masked.append(f"{key}=***" if hidden else argument)
    return masked


def write(plan: Plan, path: Path) -> None:
    """Write the resolved configuration, atomically."""
    write_atomically(path, plan.to_yaml())
