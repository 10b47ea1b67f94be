"""The engines there are, and the choice among them.

hf        plain transformers, in this process
embedded  our own server (areal_gsm8k/serve), started here
sglang    SGLang, started here or running at a URL; vllm: the same for vLLM
auto      embedded on a CPU, sglang where it is installed and a GPU is there, else hf
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from areal_gsm8k.evaluation.engine import CompletionEngine
from areal_gsm8k.evaluation.model import Model
from areal_gsm8k.evaluation.settings import EvaluationError, EvaluationSettings


def choose(settings: EvaluationSettings) -> str:
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


def dtype(kind: str, settings: EvaluationSettings) -> str:
    """The dtype that "auto" means for the engine here, as far as this process decides it; any other is itself."""
    if settings.dtype != "auto" or kind not in ("hf", "embedded") or settings.url:
        return settings.dtype
    from areal_gsm8k.sft.loop import pick_device

    return "float32" if pick_device("auto") == "cpu" else "auto"


@contextmanager
def opened(kind: str, model: Model, settings: EvaluationSettings, log: Path) -> Iterator[CompletionEngine]:
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
            with started(kind, model, log, settings.batch_size, settings.dtype) as server:
                yield Client(kind, server.url, model, settings, server.check)


def served_model(settings: EvaluationSettings) -> str:
    """The model that the server at the settings' URL says it serves. Raises EvaluationError when nothing answers."""
    from areal_gsm8k.evaluation import client

    return client.served_model(settings.url)


def software(kind: str, settings: EvaluationSettings) -> dict[str, str]:
    """Versions of the generating software, for the card; for a server at a URL the address alone."""
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


def check_installed(kind: str, settings: EvaluationSettings) -> None:
    """Raises EvaluationError when the engine is a server that is to be started and its package is not here."""
    if kind in ("sglang", "vllm") and not settings.url and not find_spec(kind):
        raise EvaluationError(
            f"engine {kind} is not installed here; install it, give --url of a server that runs, or use hf or embedded"
        )
