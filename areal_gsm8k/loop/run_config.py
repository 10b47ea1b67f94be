"""A run's resolved configuration as typed objects: AReaL's dataclass with our settings beside its own.

areal_gsm8k/loop/config.py writes the file without importing AReaL; trainer processes read it here:
config = load_config("runs/tiny-grpo/demo/config.yaml")
"""

from dataclasses import dataclass, fields
from pathlib import Path

from areal.api.cli_args import GRPOConfig, to_structured_cfg
from areal.utils import name_resolve
from omegaconf import OmegaConf

from areal_gsm8k import prompts
from areal_gsm8k.loop.settings import Settings
from areal_gsm8k.runs import Run


@dataclass
class RunConfig(Settings, GRPOConfig):
    """AReaL's GRPO configuration with our settings beside it."""

    @property
    def run(self) -> Run:
        """The run's directory; AReaL's own tree is its folder areal/."""
        return Run(Path(self.cluster.fileroot).parent)

    @property
    def settings(self) -> Settings:
        """Our settings alone."""
        return Settings(**{field.name: getattr(self, field.name) for field in fields(Settings)})


def load_config(path: Path | str) -> RunConfig:
    """Read a resolved configuration (areal_gsm8k/loop/config.py writes it) into typed objects."""
    config = OmegaConf.to_object(to_structured_cfg(OmegaConf.load(path), RunConfig))
    name_resolve.reconfigure(config.cluster.name_resolve)
    return config


def check_lengths(config: RunConfig, tokenizer, problems) -> None:
    """Every prompt plus its longest completion must fit one microbatch. Exits with the row that does not."""
    room = config.actor.mb_spec.max_tokens_per_mb - config.gconfig.max_new_tokens
    for row in problems:
        length = len(prompts.prompt_ids(tokenizer, row["question"], config.answer_format, config.system_prompt))
        if length > room:
            raise SystemExit(
                f"The prompt of row {row['id']} has {length} tokens; with gconfig.max_new_tokens="
                f"{config.gconfig.max_new_tokens} that does not fit actor.mb_spec.max_tokens_per_mb="
                f"{config.actor.mb_spec.max_tokens_per_mb}; that key must be {length + config.gconfig.max_new_tokens}."
            )
