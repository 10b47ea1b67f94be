"""The memory plan against measured processes: AReaL's training step with random weights, and our rollout server.

    python -m benchmarks.memory                  # CPU: allocations as torch's profiler records them
    python -m benchmarks.memory --device cuda    # GPU: torch.cuda.max_memory_allocated, at the 0.5B and 1.5B shapes

Needs torch and transformers, not AReaL: the step below repeats what its FSDP engine does (areal/engine/fsdp_engine.py,
areal/utils/functional/vocab_parallel.py); tests/test_memory_areal.py holds it against the engine itself. Every byte
counts once, from its allocation to its release, so the peak is exact; nothing is read from the operating system.
"""

import gc
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import transformers
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.profiler import ProfilerActivity, profile, record_function

from areal_gsm8k.memory import model_shape
from areal_gsm8k.memory.trainer import BYTES, CHUNK, Trainer

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
        layers = self.model._no_split_modules
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


def measure(setup: Setup) -> dict[str, int]:
    """Bytes at the peak of each phase of the second step, and while loading."""
    if setup.device == "cpu":
        return cpu_peaks(lambda: Step(setup))
    return cuda_peaks(lambda: Step(setup))


def cpu_peaks(make: Callable[[], Callable]) -> dict[str, int]:
    """Largest sum of live allocations in each phase, from the profiler's record of every allocation and release.

    `make()` gives a step, which is called with `phase`; phases of the last of STEPS calls count, and "loading".
    """
    gc.collect()  # what an earlier process model leaves behind must not be released within
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        with record_function("memory:0:loading"):
            step = make()
        for number in range(1, STEPS + 1):
            step(lambda name, number=number: record_function(f"memory:{number}:{name}"))
    events = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    times = [time for time, _ in changes]
    alive = [0, *itertools.accumulate(change for _, change in changes)]
    peaks = {}
    for event in events:
        if not event.name().startswith("memory:"):
            continue
        _, number, name = event.name().split(":")
        if number in ("0", str(STEPS)):
            first = bisect_left(times, event.start_ns())
            last = bisect_right(times, event.start_ns() + event.duration_ns())
            peaks[name] = max(peaks.get(name, 0), *alive[first : last + 1])
    return peaks


def cuda_peaks(make: Callable[[], Callable]) -> dict[str, int]:
    """The same from torch.cuda.max_memory_allocated."""
    gc.collect()
    torch.cuda.empty_cache()
    start = torch.cuda.memory_allocated()
    peaks: dict[str, int] = {}

    class Phase:
        def __init__(self, name: str):
            self.name = name

        def __enter__(self):
            torch.cuda.reset_peak_memory_stats()

        def __exit__(self, *raised):
            peaks[self.name] = max(peaks.get(self.name, 0), torch.cuda.max_memory_allocated() - start)

    with Phase("loading"):
        step = make()
    for _ in range(STEPS):
        peaks = {"loading": peaks["loading"]}
        step(Phase)
    return peaks


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
    start_group(setup.data, setup.device)
    peaks = measure(setup)
    phase = max(peaks, key=lambda name: peaks[name])
    moment, parts = setup.trainer.peak()
    return peaks[phase], sum(parts.values()), phase, moment
