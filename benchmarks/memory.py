"""The memory plan against measured processes: AReaL's training step with random weights, and our rollout server.

    python -m benchmarks.memory                  # CPU: allocations as torch's profiler records them
    python -m benchmarks.memory --device cuda    # GPU: torch.cuda.max_memory_allocated, at the 0.5B and 1.5B shapes

The step is that of benchmarks/training_step.py. Every byte counts once, from its allocation to its release, so the peak
is exact; nothing is read from the operating system.
"""

import argparse
import gc
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile, record_function

from areal_gsm8k.plan.memory import model_config
from benchmarks.training_step import Setup, Step

PHASES = ("loading", "logprobs", "forward", "loss", "backward", "optimizer")
STEPS = 2  # the second one has optimiser states and the gradients of the first


class Alive(NamedTuple):
    """Bytes of one phase."""

    peak: int
    after: int


def measure(setup: Setup) -> dict[str, Alive]:
    """Bytes alive in each phase of the second step, and while loading."""
    start_group(setup.data, setup.device)
    return on_cpu(lambda: Step(setup)) if setup.device == "cpu" else on_cuda(lambda: Step(setup))


def on_cpu(make: Callable[[], Callable]) -> dict[str, Alive]:
    """From the profiler's record of every allocation and release.

    `make()` gives a step, which is called with `phase`; phases of the last of STEPS calls count, and "loading".
    """
    gc.collect()  # what an earlier process model leaves behind must not be released within
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        with record_function("memory:0:loading"):
            step = make()
        for number in range(1, STEPS + 1):
            step(lambda name, number=number: record_function(f"memory:{number}:{name}"))
    events = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    times = [time for time, _ in changes]
    alive = [0, *itertools.accumulate(change for _, change in changes)]
    phases: dict[str, Alive] = {}
    for event in sorted(events, key=lambda event: event.start_ns()):
        if not event.name().startswith("memory:"):
            continue
        _, number, name = event.name().split(":")
        if number in ("0", str(STEPS)):
            first = bisect_left(times, event.start_ns())
            last = bisect_right(times, event.start_ns() + event.duration_ns())
            phases[name] = _joined(phases.get(name), Alive(max(alive[first : last + 1]), alive[last]))
    return phases


def on_cuda(make: Callable[[], Callable]) -> dict[str, Alive]:
    """The same from torch.cuda.max_memory_allocated."""
    gc.collect()
    torch.cuda.empty_cache()
    start = torch.cuda.memory_allocated()
    phases: dict[str, Alive] = {}

    @contextmanager
    def phase(name: str):
        torch.cuda.reset_peak_memory_stats()
        yield
        seen = Alive(torch.cuda.max_memory_allocated() - start, torch.cuda.memory_allocated() - start)
        phases[name] = _joined(phases.get(name), seen)

    with phase("loading"):
        step = make()
    loading = phases["loading"]
    for _ in range(STEPS):
        phases.clear()
        step(phase)
    return {"loading": loading} | phases


def _joined(earlier: Alive | None, later: Alive) -> Alive:
    """A phase that comes once a micro-batch."""
    return Alive(max(earlier.peak, later.peak), later.after) if earlier else later


def start_group(ranks: int = 1, device: str = "cpu") -> None:
    """A process group of which this process is the first rank; others are pretended (collectives move nothing)."""
    if dist.is_initialized():
        dist.destroy_process_group()
    if ranks > 1:
        from torch.testing._internal.distributed.fake_pg import FakeStore

        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    else:
        dist.init_process_group("gloo" if device == "cpu" else "nccl", store=dist.HashStore(), rank=0, world_size=1)


def compare(setup: Setup) -> tuple[int, int, str, str]:
    """(measured peak, planned peak, phase of the measured one, moment of the planned one)."""
    phases = measure(setup)
    phase = max(phases, key=lambda name: phases[name].peak)
    moment, parts = setup.trainer.peak()
    return phases[phase].peak, sum(parts.values()), phase, moment


def shaped(kind: str, hidden: int, layers: int, heads: int, kv_heads: int, inner: int, vocab: int, tied: bool) -> dict:
    """A config.json of these sizes."""
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "vocab_size": vocab, "tie_word_embeddings": tied}
    if kind == "gpt_neo":
        quiet = dict.fromkeys(("attention_dropout", "embed_dropout", "resid_dropout"), 0.0)
        kinds = {"attention_types": [[["global", "local"], layers // 2]], "max_position_embeddings": 512}
        return {"model_type": kind, "num_layers": layers, "num_heads": heads} | sizes | quiet | kinds
    own = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": hidden // heads}
    return {"model_type": kind, "num_hidden_layers": layers} | sizes | own


def larger() -> list[Setup]:
    """What the CPU table is made of: widths, depths and vocabularies larger than the tests', both dtypes.

    Packs, and at the end two with AReaL's whole sequences.
    """
    qwen = shaped("qwen2", 512, 8, 8, 2, 1536, 8000, True)
    llama = shaped("llama", 768, 4, 12, 4, 2048, 16000, False)
    setups = [
        Setup(config, tokens // fewer, 4, micro_batches, dtype, checkpointing=checkpointing, prompt=64)
        for config, tokens in ((qwen, 1024), (llama, 512))
        for dtype, micro_batches, fewer in (("float32", 1, 1), ("bfloat16", 2, 4))  # bfloat16 is slow on most CPUs
        for checkpointing in (False, True)
    ]
    return [*setups, replace(setups[-1], data=4), replace(setups[1], prompt=0), replace(setups[-1], prompt=0)]


def on_gpu() -> list[Setup]:
    """What the GPU table is made of: the shapes of the recipes' smallest models."""
    return [
        Setup(
            model_config.known()[name], tokens, 8, 2, "bfloat16", checkpointing=checkpointing, device="cuda", prompt=128
        )
        for name, tokens in (("Qwen/Qwen2.5-0.5B-Instruct", 5120), ("Qwen/Qwen2.5-1.5B-Instruct", 2560))
        for checkpointing in (True, False)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    device = parser.parse_args().device
    columns = (
        "model",
        "hidden x layers, vocabulary",
        "tokens",
        "packs",
        "dtype",
        "checkpointing",
        "ranks",
        "measured",
        "planned",
    )
    print(f"| {' | '.join(columns)} | | peak in |\n{'|---' * (len(columns) + 2)}|")
    for setup in larger() if device == "cpu" else on_gpu():
        measured, planned, phase, moment = compare(setup)
        shape = setup.trainer.shape
        sizes = f"{shape.family} | {shape.hidden} x {shape.layers}, {shape.vocab:,}"
        sizes += f" | {setup.micro_batches} x {setup.tokens} | {'yes' if setup.prompt else 'no'}"
        how = f"{setup.dtype} | {'on' if setup.checkpointing else 'off'} | {setup.data}"
        bytes_ = f"{measured / 1e6:,.0f} MB | {planned / 1e6:,.0f} MB | {planned / measured - 1:+.1%}"
        print(f"| {sizes} | {how} | {bytes_} | {phase}; planned: {moment} |", flush=True)


if __name__ == "__main__":
    main()
