"""Allocation strings: how many rollout servers and trainer processes, on which back end.

`sglang.d1p1t1+d1p1t1` (AReaL up to 0.5) and `sglang:d1p1t1+fsdp:d1p1t1` (AReaL 1.x) say the same thing: left of the
plus the rollout servers, right of it the trainer; d, p, t are data, pipeline and tensor parallel sizes, each 1 when
left out. A training side without a name means fsdp. `embedded` is our own rollout server.
"""

import re
from dataclasses import dataclass

from areal_gsm8k.config.schema import ConfigError

ROLLOUT_BACKENDS = ("embedded", "sglang", "vllm")
TRAIN_BACKENDS = ("fsdp",)
EXAMPLES = "embedded.d1+fsdp.d1, sglang.d1p1t1+d1p1t1, sglang:d2t2+fsdp:d4"

_SIZES = r"(?:[dpt][1-9]\d*)+"
_SIDE = re.compile(rf"(?:(?P<backend>[a-z0-9_]+)[.:])?(?P<dims>{_SIZES})")


@dataclass(frozen=True)
class Side:
    """One side of an allocation: a back end and its parallel sizes."""

    backend: str
    data: int = 1
    pipeline: int = 1
    tensor: int = 1

    @property
    def devices(self) -> int:
        return self.data * self.pipeline * self.tensor

    @property
    def dimensions(self) -> str:
        return f"d{self.data}p{self.pipeline}t{self.tensor}"


@dataclass(frozen=True)
class Allocation:
    rollout: Side
    train: Side

    @property
    def areal_rollout(self) -> str:
        """AReaL's `rollout.backend`. The embedded server speaks SGLang's interface, so AReaL takes it for SGLang."""
        name = "sglang" if self.rollout.backend == "embedded" else self.rollout.backend
        return f"{name}:{self.rollout.dimensions}"

    @property
    def areal_train(self) -> str:
        """AReaL's `actor.backend`."""
        return f"{self.train.backend}:{self.train.dimensions}"

    def __str__(self) -> str:
        return f"{self.rollout.backend}:{self.rollout.dimensions}+{self.areal_train}"


def parse(text: str) -> Allocation:
    """Read `rollout+train`. Raises ConfigError, which shows three strings that work."""
    sides = text.replace(" ", "").split("+")
    if len(sides) != 2:
        raise _error(text, "it needs a rollout side and a training side joined by one plus")
    rollout = parse_side(sides[0], ROLLOUT_BACKENDS, key="allocation_mode")
    train = parse_side(sides[1], TRAIN_BACKENDS, key="allocation_mode", default="fsdp")
    return Allocation(rollout, train)


def complete(text: str, before: str) -> str:
    """`text`, completed from `before`, the allocation it is laid over.

    `vllm` alone keeps the sizes; a rollout side without a name, as in `d2+d2`, keeps the back end. Thus overlays for
    back ends and for machines combine in any order.
    """
    found = re.match(r"([a-z0-9_]+)([.:].+)", before)
    if found and text in ROLLOUT_BACKENDS:
        return text + found[2]
    if found and re.match(rf"{_SIZES}\s*\+", text):
        return f"{found[1]}.{text}"
    return text


def parse_side(text: str, backends: tuple[str, ...], key: str, default: str | None = None) -> Side:
    """Read one side, e.g. `sglang.d2t2`, `fsdp:d4` or, with a default back end, `d4`."""
    found = _SIDE.fullmatch(text)
    if not found:
        raise _error(text, "a side is a back end and sizes such as d1p1t1", key)
    backend = found["backend"] or default
    if backend not in backends:
        raise _error(text, f"the back end must be one of {', '.join(backends)}", key)
    sizes = re.findall(r"([dpt])(\d+)", found["dims"])
    if len({letter for letter, _ in sizes}) != len(sizes):
        raise _error(text, "a dimension is given twice", key)
    named = {letter: int(size) for letter, size in sizes}
    side = Side(backend, named.get("d", 1), named.get("p", 1), named.get("t", 1))
    if side.backend == "embedded" and side.devices != side.data:
        raise _error(text, "the embedded server holds a whole model: only d may exceed 1", key)
    if side.backend == "fsdp" and side.pipeline != 1:
        raise _error(text, "fsdp has no pipeline parallelism: p must be 1", key)
    return side


def _error(text: str, why: str, key: str = "allocation_mode") -> ConfigError:
    return ConfigError(f"{key}={text!r} cannot be: {why}. These work: {EXAMPLES}.")
