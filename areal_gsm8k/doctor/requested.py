"""The requested configuration: the same one that `./run train` would start with the same arguments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from areal_gsm8k.config import compose
from areal_gsm8k.config.schema import ConfigError
from areal_gsm8k.data import hub
from areal_gsm8k.dotted_keys import lookup
from areal_gsm8k.paths import CPU_OVERLAY

BY_AREAL = ("sglang", "vllm")  # servers that need an NVIDIA GPU


@dataclass(frozen=True)
class Requested:
    """A resolved configuration and the arguments of `./run train` that lead to it.

    `mistake` says why this is not the requested configuration; `values` is {} where none could be composed.
    """

    files: tuple[Path, ...]
    overrides: tuple[str, ...]
    gpus: int
    values: dict[str, Any]
    mistake: str = ""
    needed: tuple[str, ...] = ()  # settings that `./run train` adds by itself for this machine's GPUs

    def get(self, key: str) -> Any:
        """The value at a dotted key; None when it is not set."""
        return lookup(self.values, key)

    @property
    def backend(self) -> str:
        """The back end of the rollout servers: embedded, sglang or vllm."""
        return str(self.get("allocation_mode") or "embedded").partition(":")[0]

    @property
    def on_gpu(self) -> bool:
        return self.backend in BY_AREAL

    @property
    def model(self) -> str:
        return str(self.get("actor.path") or "")

    @property
    def from_hub(self) -> list[tuple[str, str]]:
        """("models" or "datasets", name) of each path that is no folder or file here but has the form of a hub name."""
        named = [("models", self.model)]
        named += [("datasets", str(self.get(f"{side}_dataset.path") or "")) for side in ("train", "valid")]
        return [pair for pair in dict.fromkeys(named) if hub.is_hub_id(pair[1]) and not Path(pair[1]).exists()]

    def with_settings(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The values with these dotted keys laid over them; None when the result cannot run."""
        try:
            changed = [*self.needed, *self.overrides, *compose.as_overrides(settings)]
            return compose.make_plan(list(self.files), changed, self.gpus).values
        except ConfigError:
            return None


def read(
    files: list[Path], overrides: list[str], gpus: int, recipe: list[Path], needed: Sequence[str] = ()
) -> Requested:
    """Compose the configuration; without files, of `recipe` and `needed`, overlays and settings for this machine.

    A configuration that cannot run becomes a mistake; the values are then those of one that would run here.
    """
    mistake = ""
    own = tuple(needed)
    attempts = [(files or recipe, overrides, () if files else own), (recipe, [], own), ([], [], ())]
    for attempt, settings, added in attempts:
        chosen = attempt or ([] if gpus else [CPU_OVERLAY])  # as `train` itself does
        try:
            values = compose.make_plan(chosen, [*added, *settings], gpus).values
            return Requested(tuple(attempt), tuple(settings), gpus, values, mistake, added)
        except (ConfigError, OSError) as error:
            mistake = mistake or str(error)
    return Requested((), (), gpus, {}, mistake)
