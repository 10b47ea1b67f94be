"""The memory plan against measured processes: AReaL's training step with random weights, and our rollout server.

    python -m benchmarks.memory                  # CPU: allocations as torch's profiler records them
    python -m benchmarks.memory --device cuda    # GPU: torch.cuda.max_memory_allocated, at the 0.5B and 1.5B shapes

Needs torch and transformers, not AReaL: the step below repeats what its FSDP engine does (areal/engine/fsdp_engine.py,
areal/utils/functional/vocab_parallel.py); tests/plan/test_memory_areal.py holds it against the engine itself. Every
byte counts once, from its allocation to its release, so the peak is exact; nothing is read from the operating system.
"""

import argparse
import gc
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.distributed as dist
import transformers
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.profiler import ProfilerActivity, profile, record_function

from areal_gsm8k.plan.memory import model_config, model_shape
from areal_gsm8k.plan.memory.trainer import BYTES, CHUNK, Trainer

PHASES = ("loading", "logprobs", "forward", "loss", "backward", "optimizer")
STEPS = 2  # the second one has optimiser states and the gradients of the first


@dataclass(frozen=True)
class Setup:
    """One training process to be measured."""

    config: dict  # as in config.json
    tokens: int
    sequences: int = 4
    micro_batches: int = 1
    dtype: str = "float32"
    stored: str = "float32"
    checkpointing: bool = False
    attention: str = "sdpa"
    data: int = 1  # data-parallel ranks; this process is the first of them, the others are pretended
    device: str = "cpu"

    @property
    def trainer(self) -> Trainer:
        """The same for the plan."""
        return Trainer(
            shape=model_shape.from_config(self.config),
            tokens=self.tokens,
            several=self.micro_batches > 1,
            element=BYTES[self.dtype],
            stored=BYTES[self.stored],
            checkpointing=self.checkpointing,
            attention=self.attention,
            data=self.data,
            compiled=self.device != "cpu",
        )


def logprobs(logits, labels):
    """areal/utils/functional/vocab_parallel.py, _gather_logprobs; logits (positions, vocabulary)."""
    return torch.log_softmax(logits.float() / 1.0, dim=-1).gather(dim=-1, index=labels[:, None]).squeeze(-1)


def logprobs_entropy(logits, labels):
    """The same file's _gather_logprobs_entropy."""
    log_probs = torch.log_softmax(logits.float() / 1.0, dim=-1)
    entropy = -torch.sum(log_probs.exp() * log_probs, dim=-1)
    return log_probs.gather(dim=-1, index=labels[:, None]).squeeze(-1), entropy


class Step:
    """A model on this process, and one GRPO update of it."""

    def __init__(self, setup: Setup):
        self.setup = setup
        sizes = dict(setup.config)
        config = transformers.AutoConfig.for_model(sizes.pop("model_type"), **sizes)
        with torch.device(setup.device):
            self.model = transformers.AutoModelForCausalLM.from_config(
                config, dtype=getattr(torch, setup.stored), attn_implementation=setup.attention
            )
            self.ids = torch.randint(0, config.vocab_size, (1, setup.tokens))
            self.positions = (torch.arange(setup.tokens) % -(-setup.tokens // setup.sequences))[None]
        if setup.checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._shard(config.tie_word_embeddings)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        compiled = torch.compile if setup.device != "cpu" else (lambda function: function)
        self.logprobs, self.logprobs_entropy = compiled(logprobs), compiled(logprobs_entropy)

    def _shard(self, tied: bool) -> None:
        """areal/engine/fsdp_utils/__init__.py, apply_fsdp2."""
        precision = MixedPrecisionPolicy(getattr(torch, self.setup.dtype), torch.float32, cast_forward_inputs=True)
        mesh = dist.init_device_mesh(self.setup.device, (self.setup.data,))
        layers = self.model._no_split_modules  # noqa: SLF001 - what FSDP wraps by
        for module in [*self.model.modules()]:
            if type(module).__name__ in layers or (isinstance(module, torch.nn.Embedding) and not tied):
                fully_shard(module, mesh=mesh, mp_policy=precision, reshard_after_forward=True)
        fully_shard(self.model, mesh=mesh, mp_policy=precision, reshard_after_forward=True)

    def logits(self) -> torch.Tensor:
        """Logits (tokens, vocabulary) of the packed sequences."""
        return self.model(
            input_ids=self.ids, position_ids=self.positions, attention_mask=None, use_cache=False
        ).logits.squeeze(0)

    def chunks(self, function, logits):
        labels = self.ids.roll(-1, -1).squeeze(0)
        return [function(logits[i : i + CHUNK], labels[i : i + CHUNK]) for i in range(0, len(logits), CHUNK)]

    def loss(self, logits):
        gathered, entropy = (
            torch.cat(parts) for parts in zip(*self.chunks(self.logprobs_entropy, logits), strict=True)
        )
        entropy.detach()
        logits.detach().min(-1).values.float(), logits.detach().max(-1).values.float()
        return gathered.mean()

    def __call__(self, phase: Callable) -> None:
        """One update; `phase(name)` is a context around each of PHASES but loading."""
        with torch.no_grad(), phase("logprobs"):
            self.model.eval()
            for _ in range(self.setup.micro_batches):
                logits = self.logits()
                self.chunks(self.logprobs, logits)
            del logits
        self.model.train()
        self.optimizer.zero_grad()
        self._micro_batches(phase)
        with phase("optimizer"):
            for parameter in self.model.parameters():  # clipping: fsdp_utils/multi_tensor_apply.py
                parameter.grad.copy_(parameter.grad * 0.5)
            self.optimizer.step()

    def _micro_batches(self, phase: Callable) -> None:
        # forward_backward_batch: `logits` lives on until the next micro-batch has made its own.
        for _ in range(self.setup.micro_batches):
            with phase("forward"):
                logits = self.logits()
            with phase("loss"):
                loss = self.loss(logits)
            with phase("backward"):
                loss.backward()


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
    """What the CPU table is made of: widths, depths and vocabularies larger than the tests', both dtypes."""
    qwen = shaped("qwen2", 512, 8, 8, 2, 1536, 8000, True)
    llama = shaped("llama", 768, 4, 12, 4, 2048, 16000, False)
    setups = [
        Setup(config, tokens // fewer, 4, micro_batches, dtype, checkpointing=checkpointing)
        for config, tokens in ((qwen, 1024), (llama, 512))
        for dtype, micro_batches, fewer in (("float32", 1, 1), ("bfloat16", 2, 4))  # bfloat16 is slow on most CPUs
        for checkpointing in (False, True)
    ]
    return [*setups, replace(setups[-1], data=4)]


def on_gpu() -> list[Setup]:
    """What the GPU table is made of: the shapes of the recipes' smallest models."""
    return [
        Setup(model_config.known()[name], tokens, 8, 2, "bfloat16", checkpointing=checkpointing, device="cuda")
        for name, tokens in (("Qwen/Qwen2.5-0.5B-Instruct", 5120), ("Qwen/Qwen2.5-1.5B-Instruct", 2560))
        for checkpointing in (True, False)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    device = parser.parse_args().device
    columns = "model", "hidden x layers, vocabulary", "tokens", "dtype", "checkpointing", "ranks", "measured", "planned"
    print(f"| {' | '.join(columns)} | | peak in |\n{'|---' * (len(columns) + 2)}|")
    for setup in larger() if device == "cpu" else on_gpu():
        measured, planned, phase, moment = compare(setup)
        shape = setup.trainer.shape
        sizes = f"{shape.family} | {shape.hidden} x {shape.layers}, {shape.vocab:,}"
        sizes += f" | {setup.micro_batches} x {setup.tokens}"
        how = f"{setup.dtype} | {'on' if setup.checkpointing else 'off'} | {setup.data}"
        bytes_ = f"{measured / 1e6:,.0f} MB | {planned / 1e6:,.0f} MB | {planned / measured - 1:+.1%}"
        print(f"| {sizes} | {how} | {bytes_} | {phase}; planned: {moment} |", flush=True)


if __name__ == "__main__":
    main()
