"""One GRPO update by itself, as AReaL's FSDP engine makes it with our packs or with its own sequences: for memory.py.

`Step` repeats areal/engine/fsdp_engine.py and areal/utils/functional/vocab_parallel.py, or, with `Setup.prompt`, our
training/actor.py; tests/plan/test_memory_areal.py holds the plan against the engine itself.

    Step(Setup(config, tokens=512, prompt=16))    # packs; without prompt AReaL's, which needs no AReaL
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import transformers
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from areal_gsm8k.plan.memory import model_shape
from areal_gsm8k.plan.memory.packs import Pack
from areal_gsm8k.plan.memory.trainer import BYTES, Trainer
from areal_gsm8k.plan.memory.whole_logits import CHUNK

SAMPLES = 4  # completions a prompt, in packs


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
    prompt: int = 0  # tokens of a prompt that SAMPLES completions share in a pack; 0: AReaL's whole sequences

    @property
    def pack(self) -> Pack | None:
        if not self.prompt:
            return None
        made = packed(self)["pack"]
        queries = sum(rows.queries_RQ.numel() for rows in made.rows)
        keys = sum(rows.keys_RK.numel() for rows in made.rows)
        pairs = sum(rows.queries_RQ.numel() * rows.keys_RK.shape[1] for rows in made.rows)
        return Pack(len(made.predictors_N), queries, keys, pairs, self.device != "cpu")

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
            pack=self.pack,
        )


def packed(setup: Setup) -> dict:
    """The model's arguments for one pack."""
    from areal.api.cli_args import MicroBatchSpec

    from areal_gsm8k.training.packing import microbatches

    prompts = setup.sequences // SAMPLES
    length = setup.prompt + (setup.tokens - prompts * setup.prompt) // setup.sequences
    ids = torch.randint(0, setup.config["vocab_size"], (prompts, 1, length))
    ids = ids.repeat(1, SAMPLES, 1).flatten(0, 1)
    generated = torch.arange(length).expand_as(ids) >= setup.prompt
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "versions": generated.int() - 1}
    (inputs,) = microbatches(batch, MicroBatchSpec(max_tokens_per_mb=setup.tokens)).padded_mbs
    return inputs


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
            self.inputs = packed(setup) if setup.prompt else self._as_areal()
        if setup.prompt:
            from areal_gsm8k.training import attention, logprob_head

            self.model.set_attn_implementation(attention.NAME)
            self.model.tie_weights()
            self.head = logprob_head.LogprobHead.in_place_of(self.model, 1.0)
            self.head.pack = self.inputs["pack"]
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

    def _as_areal(self) -> dict:
        setup = self.setup
        positions = torch.arange(setup.tokens) % -(-setup.tokens // setup.sequences)
        ids = torch.randint(0, setup.config["vocab_size"], (1, setup.tokens))
        return {"input_ids": ids, "position_ids": positions[None], "attention_mask": None, "use_cache": False}

    def logits(self) -> torch.Tensor:
        """Logits (tokens, vocabulary) of the packed sequences; of packs their logprobs and entropies, (tokens, 2)."""
        return self.model(**self.inputs).logits.squeeze(0)

    def chunks(self, function, logits):
        labels = self.inputs["input_ids"].roll(-1, -1).squeeze(0)
        return [function(logits[i : i + CHUNK], labels[i : i + CHUNK]) for i in range(0, len(logits), CHUNK)]

    def loss(self, logits):
        if self.setup.prompt:
            return logits.unbind(-1)[0].mean()
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
                if not self.setup.prompt:
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
        for left in reversed(range(self.setup.micro_batches)):
            if self.setup.prompt and self.setup.data == 1:
                self.model.set_requires_gradient_sync(left == 0)
            with phase("forward"):
                logits = self.logits()
            with phase("loss"):
                loss = self.loss(logits)
            with phase("backward"):
                loss.backward()
