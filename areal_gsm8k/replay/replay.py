"""One sample of a run drawn again: same prompt, seed and sampling, by the model that drew it, and where the two differ.

A sample is drawn by nothing but its model and its seed (training/workflow.py), so on a CPU the policy version
that drew it gives the same tokens. Another version, or another sampler than the embedded server's, departs somewhere.

replayed = replay.replay(run, config, samples.find(run, 460)[1], "auto")
replayed.departure    # None: token for token the same

gsm8k replay runs/tiny-grpo/demo --sample 460
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

import torch
from transformers.utils import logging

from areal_gsm8k.data import prompts
from areal_gsm8k.replay import kept_models
from areal_gsm8k.replay.kept_models import Policy
from areal_gsm8k.runs import samples
from areal_gsm8k.runs.records import sampling_seed
from areal_gsm8k.runs.run import Run
from areal_gsm8k.serve.engine import Engine
from areal_gsm8k.serve.model import ModelError
from areal_gsm8k.serve.params import SamplingParams
from areal_gsm8k.serve.request import Request
from areal_gsm8k.serve.sampling import probabilities, sample, uniforms
from areal_gsm8k.serve.tokenizer import load_tokenizer

ALTERNATIVES = 5
LONGEST_CONTEXT = 32768  # AReaL's gconfig.max_tokens
# The keys of AReaL's gconfig that its client sends (areal/engine/sglang_remote.py), without n_samples.
SENT = ("top_p", "top_k", "max_new_tokens", "stop_token_ids", "ignore_eos", "frequency_penalty", "stop")


class ReplayError(ValueError):
    """A sample that cannot be generated again; the message says why."""


@dataclass(frozen=True)
class Token:
    """A token that could have come next. probability: under the regenerating model, as the sampler sees it."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True)
class Departure:
    """The first token that differs. recorded and regenerated: the two tokens; None where a completion had ended."""

    index: int  # tokens that are the same before it
    before: str  # their text
    recorded: Token | None
    regenerated: Token | None
    alternatives: list[Token]  # the likeliest, the best first
    missed_by: float | None  # how far the draw, in [0, 1), was from the recorded token's share; None when not drawn so


@dataclass(frozen=True)
class Replayed:
    """A sample and its replay. recorded: its token ids; None when an old record holds none that fit its text."""

    row: dict
    seed: int
    policy: Policy
    engine: str
    recorded: list[int] | None
    regenerated: list[int]
    text: str  # of the regenerated completion
    departure: Departure | None
    reasons: list[str] = field(default_factory=list)  # to expect a departure; [] when there must be none

    @property
    def same(self) -> bool:
        return self.departure is None and self.text == self.row["completion"]


class Regenerator(Protocol):
    """A model in memory, asked token by token or for a whole completion."""

    def request(self, prompt_ids: list[int], params: SamplingParams) -> Request: ...

    def complete(self, request: Request) -> None:
        """Generate until the request has its finish reason."""

    def logits(self, ids: list[int]) -> torch.Tensor:
        """Of the token after `ids`: (vocab,)."""


class Embedded:
    """Our rollout server's engine, in this process."""

    def __init__(self, folder: Path):
        self.engine = Engine.from_pretrained(str(folder), max_running_requests=1)

    def request(self, prompt_ids: list[int], params: SamplingParams) -> Request:
        return self.engine.request(prompt_ids, params)

    def complete(self, request: Request) -> None:
        self.engine.submit(request)
        while self.engine.has_work:
            self.engine.step()

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> torch.Tensor:
        return self.engine.model.prefill([ids], self.engine.slab)[0][0][-1]


class Transformers:
    """Plain transformers, one token at a time, with the embedded server's sampler: for models the server cannot run."""

    def __init__(self, folder: Path):
        from areal_gsm8k.evaluation import transformers_engine

        self.model = transformers_engine.load(folder)
        self.tokenizer = load_tokenizer(str(folder))
        self.stop_ids = prompts.configured_stop_ids(self.model) | (self.tokenizer.eos_ids if self.tokenizer else set())

    def request(self, prompt_ids: list[int], params: SamplingParams) -> Request:
        stop_ids = frozenset() if params.ignore_eos else frozenset([*params.stop_token_ids, *self.stop_ids])
        return Request(prompt_ids, params, params.seed, params.max_new_tokens, stop_ids, tokenizer=self.tokenizer)

    @torch.inference_mode()
    def complete(self, request: Request) -> None:
        fed, cache = request.prompt_ids, None
        while request.finish_reason is None:
            ids = torch.tensor([fed], device=self.model.device)
            output = self.model(input_ids=ids, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            (token,), (logprob,) = sample(output.logits[:, -1], [request])
            request.accept(token, logprob)
            fed = [token]

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> torch.Tensor:
        return self.model(input_ids=torch.tensor([ids], device=self.model.device)).logits[0, -1]


def replay(run: Run, config: dict, row: dict, engine: str) -> Replayed:
    """Generate a sample (a row of samples.read) again. engine: auto, embedded or hf.

    Raises ReplayError, PolicyError, or EvaluationError (no such model or tokenizer).
    """
    if "completion" not in row:
        raise ReplayError(f"sample {row['id']} has no completion to compare with: {row.get('error')}")
    policy = kept_models.nearest(run, config, row["versions"][0] if row["versions"] else 0)
    reasons = departure_reasons(config, row, policy)
    with kept_models.model_folder(policy, config) as folder:
        tokenizer = kept_models.tokenizer(run, config)
        prompt = prompts.prompt_ids(tokenizer, row["question"], config["answer_format"], config.get("system_prompt"))
        if len(prompt) != row["prompt_tokens"]:
            reasons.append(f"the prompt had {row['prompt_tokens']} tokens, and has {len(prompt)} by this tokenizer")
        name, model = load(engine, folder)
        seed = sampling_seed(config["seed"], row["id"])
        params = sampling(config["gconfig"], tokenizer, len(prompt), seed)
        request = model.request(prompt, params)
        model.complete(request)
        if request.finish_reason["type"] == "abort":
            raise ReplayError(f"{policy.folder}: {request.finish_reason['message']}")
        recorded = samples.token_ids(row, tokenizer)
        departure = None if recorded is None else depart(model, request, recorded, tokenizer)
    text = tokenizer.decode(request.output_ids, skip_special_tokens=True)
    return Replayed(row, seed, policy, name, recorded, request.output_ids, text, departure, reasons)


def departure_reasons(config: dict, row: dict, policy: Policy) -> list[str]:
    """Why a replay by this policy may differ from the recorded tokens; [] when it must not."""
    versions, reasons = row["versions"] or [0], []
    sampler = config["allocation_mode"].split(":")[0].split(".")[0]
    if policy.version != versions[0]:
        reasons.append(
            f"policy version {versions[0]} was not kept, and {policy.version} is the nearest that was "
            "(saver.freq_steps=1 keeps every one)"
        )
    if len(versions) > 1:
        reasons.append(
            f"a weight update interrupted it: it begins by policy version {versions[0]} and ends by {versions[-1]}"
        )
    if sampler != "embedded":
        reasons.append(f"it was sampled by {sampler}, which draws from a seed otherwise")
    elif torch.cuda.is_available():
        reasons.append("a GPU computes here, which rounds otherwise than the CPU that sampled")
    return reasons


def load(engine: str, folder: Path) -> tuple[str, Regenerator]:
    """The engine's name and the loaded model. auto is embedded, and hf for a model that it cannot run."""
    logging.disable_progress_bar()
    try:
        if engine != "hf":
            return "embedded", Embedded(folder)
    except ModelError as error:
        if engine == "embedded":
            raise ReplayError(str(error)) from None
    return "hf", Transformers(folder)


def sampling(gconfig: dict, tokenizer, prompt_tokens: int, seed: int) -> SamplingParams:
    """The sampling of the run's rollouts, as the workflow and AReaL's client send it. Raises ReplayError."""
    sent = {key: gconfig[key] for key in SENT if gconfig.get(key) is not None}
    sent["max_new_tokens"] = min(gconfig["max_new_tokens"], gconfig.get("max_tokens", LONGEST_CONTEXT) - prompt_tokens)
    sent["stop_token_ids"] = [*sent.get("stop_token_ids", ()), *prompts.stop_ids(tokenizer)]
    sent["temperature"] = 0.0 if gconfig.get("greedy") else gconfig.get("temperature", 1.0)
    try:
        return SamplingParams.parse(sent | {"sampling_seed": seed})
    except ValueError as error:
        raise ReplayError(f"gconfig: {error}") from None


def depart(model: Regenerator, request: Request, recorded: list[int], tokenizer) -> Departure | None:
    """Where a finished request's tokens part from the recorded ones, and the likeliest tokens of the model there."""
    pairs = zip_longest(recorded, request.output_ids)
    index = next((i for i, (one, other) in enumerate(pairs) if one != other), None)
    if index is None:
        return None
    there = model.request(request.prompt_ids, request.params)
    there.output_ids = request.output_ids[:index]
    logits_V = model.logits(there.prompt_ids + there.output_ids)
    probs_V = probabilities(logits_V[None], [there])[0].double().cpu()

    def token(id_: int) -> Token:
        return Token(id_, tokenizer.decode([id_]), probs_V[id_].item())

    def at(ids: list[int]) -> Token | None:
        return token(ids[index]) if index < len(ids) else None

    drawn = not (request.params.greedy or request.params.truncates) and index < len(recorded)
    return Departure(
        index,
        tokenizer.decode(there.output_ids, skip_special_tokens=True),
        at(recorded),
        at(request.output_ids),
        [token(id_) for id_ in probs_V.topk(min(ALTERNATIVES, len(probs_V))).indices.tolist()],
        _distance(probs_V, recorded[index], uniforms([there.seed], [there.length])[0]) if drawn else None,
    )


def _distance(probs_V: torch.Tensor, token: int, u: float) -> float:
    """How far u in [0, 1) lies from the token's share of the cumulative distribution; 0 inside."""
    above = probs_V.cumsum(0)[token].item()
    return max(above - probs_V[token].item() - u, u - above, 0.0)
