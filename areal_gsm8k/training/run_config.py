"""A run's resolved configuration as typed objects: AReaL's dataclass with our settings beside its own.

config/compose.py writes the file without importing AReaL; trainer processes read it here:
config = load_config("runs/tiny-grpo/demo/config.yaml")
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import cast

from areal.api.cli_args import GRPOConfig, to_structured_cfg
from areal.utils import name_resolve
from omegaconf import OmegaConf

from areal_gsm8k.config import devices
from areal_gsm8k.config.checks import SERVERS
from areal_gsm8k.data import prompts
from areal_gsm8k.runs.run import Run
from areal_gsm8k.settings import Settings

STRICT = "sglang.context_length"  # SGLang refuses a request of exactly so many (tokenizer_manager.py)


@dataclass
class RunConfig(Settings, GRPOConfig):
    """AReaL's GRPO configuration with our settings beside it."""

    @property
    def run(self) -> Run:
        """The run's directory; AReaL's own tree is its folder areal/."""
        return Run(Path(self.cluster.fileroot).parent)

    @property
    def takes_turns(self) -> bool:
        """Whether rollout servers and trainer take turns on one GPU (training/colocation.py)."""
        sides = {name: asdict(getattr(self, name)) for name in ("rollout", "actor")}
        return devices.takes_turns(sides)

    @property
    def settings(self) -> Settings:
        """Our settings alone."""
        return Settings(**{field.name: getattr(self, field.name) for field in fields(Settings)})


def load_config(path: Path | str) -> RunConfig:
    """Read a resolved configuration (config/compose.py writes it) into typed objects."""
    config = cast(RunConfig, OmegaConf.to_object(to_structured_cfg(OmegaConf.load(path), RunConfig)))
    name_resolve.reconfigure(config.cluster.name_resolve)
    return config


def check_lengths(config: RunConfig, tokenizer, problems, dev_problems) -> None:
    """Every prompt plus its longest completion must fit the server's context and, in training, one microbatch.

    Exits with the first row that does not.
    """
    served = _context(config)
    trained = {"actor.mb_spec.max_tokens_per_mb": config.actor.mb_spec.max_tokens_per_mb} | served
    for rows, section, limits in ((problems, "gconfig", trained), (dev_problems, "eval_gconfig", served)):
        new = getattr(config, section).max_new_tokens
        for row in rows:
            length = len(prompts.prompt_ids(tokenizer, row["question"], config.answer_format, config.system_prompt))
            for key, limit in limits.items():
                needed = length + new + (key == STRICT)
                if needed > limit:
                    raise SystemExit(
                        f"The prompt of row {row['id']} has {length} tokens; with {section}.max_new_tokens={new} that "
                        f"does not fit {key}={limit}; that key must be {needed}."
                    )


def _context(config: RunConfig) -> dict[str, int]:
    """{key: tokens}: the limit of one request to the rollout server; {} for no limit but the model's own."""
    backend = config.rollout.backend.partition(":")[0]
    if backend not in SERVERS:
        return {}
    key = SERVERS[backend][0]
    limit = getattr(getattr(config, backend), key)
    return {} if limit is None else {f"{backend}.{key}": limit}
