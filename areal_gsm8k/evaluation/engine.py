"""What turns prompts into completions: the interface of the engines, and the choice among them.

hf        plain transformers, in this process
embedded  our own server (areal_gsm8k/serve), started here
sglang    SGLang, started here or running at a URL; vllm: the same for vLLM
auto      embedded on a CPU, sglang where it is installed and a GPU is there, else hf
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from areal_gsm8k.evaluation.model import Model
from areal_gsm8k.evaluation.settings import EvaluationError, Settings


@dataclass(frozen=True)
class Request:
    """One completion to be had. prompt_ids: token ids. seed: of its sampling, where the engine can use it."""

    row: int  # index into the items
    sample: int  # 0 to k - 1
    prompt_ids: list[int]
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class Answer:
    """What came of a request: text and its tokens (the end-of-sequence one included), or the reason why not."""

    text: str | None = None
    tokens: int = 0
    truncated: bool = False
    error: str | None = None


Deliver = Callable[[list[tuple[Request, Answer]]], None]


class Engine(Protocol):
    settings: Settings  # those of sampling may be replaced between calls

    def answer(self, requests: list[Request], deliver: Deliver) -> None:
        """Answer every request, delivering answers as they come, in any order.

        Raises EvaluationError or ChildDied when it cannot go on; what was delivered stays.
        """

    async def stream(self, request: Request, tell: Callable[[str], None]) -> Answer:
        """Answer one request and tell the whole text so far, from any thread, whenever there is more of it.

        Cancelled, it makes the model stop. Raises ChildDied when a server that was started here has died.
        """


def choose(settings: Settings) -> str:
    """The engine that "auto" means on this machine; any other name is itself."""
    if settings.engine != "auto":
        return settings.engine
    if settings.url:
        from areal_gsm8k.evaluation.client import dialect_of

        return dialect_of(settings.url)
    from areal_gsm8k.sft.loop import pick_device

    device = pick_device("auto")
    if device == "cpu":
        return "embedded"
    return "sglang" if device == "cuda" and find_spec("sglang") else "hf"


@contextmanager
def opened(kind: str, model: Model, settings: Settings, log: Path) -> Iterator[Engine]:
    """The engine, ready to answer; a server that is started ends with the block. Raises EvaluationError, ChildDied."""
    if kind == "hf":
        from areal_gsm8k.evaluation.transformers_engine import TransformersEngine

        yield TransformersEngine(model, settings)
    else:
        from areal_gsm8k.evaluation.client import Client
        from areal_gsm8k.evaluation.server import started

        if settings.url:
            yield Client(kind, settings.url, model, settings)
        else:
            with started(kind, model, log, settings.batch_size) as server:
                yield Client(kind, server.url, model, settings, server.check)


def served_model(settings: Settings) -> str:
    """What the server at the settings' URL says it serves. Raises EvaluationError when nothing answers."""
    from areal_gsm8k.evaluation.client import served_model

    return served_model(settings.url)


def software(kind: str, settings: Settings) -> dict[str, str]:
    """Versions of what generates, for the card; a server at a URL is named by that alone."""
    if settings.url:
        return {"url": settings.url}
    from importlib.metadata import PackageNotFoundError, version

    packages = {"hf": ("transformers", "torch"), "embedded": ("areal-gsm8k", "transformers", "torch")}
    found = {}
    for package in packages.get(kind, (kind,)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def check_installed(kind: str, settings: Settings) -> None:
    """Raises EvaluationError when the engine is a server that is to be started and its package is not here."""
    if kind in ("sglang", "vllm") and not settings.url and not find_spec(kind):
        raise EvaluationError(
            f"engine {kind} is not installed here; install it, give --url of a server that runs, or use hf or embedded"
        )
