"""SGLang's JSON for /generate: a payload into requests, a finished request into an answer.

The shapes are those of the real server, 0.5.10: of its ``GenerateReqInput`` and of its answers.
"""

from __future__ import annotations

import time
import uuid
from typing import cast

from .engine import Engine
from .params import SamplingParams
from .request import Request

# Accepted without effect when false, null or empty (clients such as AReaL send some of them), refused otherwise.
UNSUPPORTED = (
    "image_data",
    "video_data",
    "audio_data",
    "input_embeds",
    "lora_path",
    "return_hidden_states",
    "return_routed_experts",
    "return_text_in_logprobs",
    "token_ids_logprob",
    "session_params",
    "custom_logit_processor",
)


class MalformedBody(ValueError):
    """A body that is not JSON, or a field of the wrong type. SGLang's error for these has a shape of its own."""


def parse(payload: dict, engine: Engine) -> tuple[list[Request], bool]:
    """The requests of one call, sample by sample, and whether the answer is a list. Raises ValueError."""
    for key in UNSUPPORTED:
        if payload.get(key):
            raise ValueError(f"{key} is not supported by this server")
    prompts, batched = _prompts(payload, engine)
    given = payload.get("sampling_params")
    if not isinstance(given, dict | list | None):
        raise MalformedBody(f"sampling_params must be an object or a list of them, got {given!r}")
    shared = None if isinstance(given, list) else SamplingParams.parse(given)
    each = _spread(given, len(prompts), "sampling_params")
    params = [shared or SamplingParams.parse(own) for own in each]
    wants = _spread(payload.get("return_logprob"), len(prompts), "return_logprob")
    starts = _spread(payload.get("logprob_start_len"), len(prompts), "logprob_start_len")
    tops = _spread(payload.get("top_logprobs_num"), len(prompts), "top_logprobs_num")
    rids = _rids(payload.get("rid"), len(prompts))
    requests = []
    for ids, own, want, start, top, rid in zip(prompts, params, wants, starts, tops, rids, strict=True):
        options = _logprob_options(want, start, top, len(ids))
        for sample in range(own.n):
            request = engine.request(ids, own, sample, **options)
            request.rid = f"{rid}_{sample}" if rid and own.n > 1 else rid or request.rid
            requests.append(request)
    return requests, batched or len(requests) > 1


def _prompts(payload: dict, engine: Engine) -> tuple[list[list[int]], bool]:
    ids, text = payload.get("input_ids"), payload.get("text")
    if (ids is None) == (text is None):
        raise ValueError("Either text or input_ids should be provided, and not both.")
    if text is not None:
        texts = [text] if isinstance(text, str) else text
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
            raise MalformedBody("text must be a string or a non-empty list of strings")
        if engine.tokenizer is None:
            raise ValueError(f"text needs a tokenizer, and {engine.path} holds none: send input_ids")
        return [engine.tokenizer.encode(t) for t in texts], not isinstance(text, str)
    batched = isinstance(ids, list) and bool(ids) and isinstance(ids[0], list)
    prompts = cast(list[list[int]], ids if batched else [ids])
    for prompt in prompts:
        if not isinstance(prompt, list) or not all(type(token) is int for token in prompt):
            raise MalformedBody("input_ids must be a list of integers or a list of such lists")
    return prompts, batched


def _spread(value: object, count: int, name: str) -> list:
    """One value for each prompt of the batch."""
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{name} has {len(value)} entries for {count} prompts")
    return value


def _rids(rid: object, count: int) -> list[str | None]:
    if isinstance(rid, str) and count > 1:
        return [f"{rid}_{i}" for i in range(count)]
    rids = _spread(rid, count, "rid")
    if not all(r is None or isinstance(r, str) for r in rids):
        raise MalformedBody("rid must be a string or a list of strings")
    return rids


def _logprob_options(want: object, start: object, top: object, length: int) -> dict:
    if not want:
        return {}
    start = -1 if start is None else start
    top = 0 if top is None else top
    if type(start) is not int or type(top) is not int or top < 0 or start < -1:
        raise ValueError(
            f"logprob_start_len (-1 or more, got {start!r}) and top_logprobs_num ({top!r}) must be integers"
        )
    if start > length:
        raise ValueError(f"logprob_start_len ({start}) is higher than the number of input tokens ({length}).")
    # -1, or the prompt's length: no logprobs of the prompt.
    return {"logprob_start": start if 0 <= start < length else None, "top_logprobs": top, "return_logprob": True}


def answer(request: Request, count: int | None = None) -> dict:
    """The JSON object of a finished request, or, with ``count``, of its first tokens while it still runs."""
    running = count is not None and request.finish_reason is None
    ids = request.output_ids[:count]
    meta = {
        "id": request.rid,
        "finish_reason": None if running else request.finish_reason,
        "prompt_tokens": len(request.prompt_ids),
        "weight_version": request.weight_version,
        "completion_tokens": len(ids),
        "cached_tokens": request.cached_tokens,
        "e2e_latency": (time.monotonic() if running else request.finished) - request.created,
    }
    if request.return_logprob:
        meta["input_token_logprobs"] = []
        if request.logprob_start is not None:
            tokens = request.prompt_ids[request.logprob_start :]
            meta["input_token_logprobs"] = [[p, t, None] for p, t in zip(request.input_logprobs, tokens, strict=True)]
        pairs = zip(request.output_logprobs[: len(ids)], ids, strict=True)
        meta["output_token_logprobs"] = [[p, t, None] for p, t in pairs]
        if request.top_logprobs:
            meta["input_top_logprobs"] = request.input_top
            meta["output_top_logprobs"] = request.output_top[: len(ids)]
    return {"text": request.text(None if not running else count), "output_ids": ids, "meta_info": meta}


def health_request(engine: Engine) -> Request:
    """One greedy token, for /health_generate."""
    request = engine.request([0], SamplingParams(max_new_tokens=1, temperature=0.0))
    request.rid = f"HEALTH_CHECK_{uuid.uuid4().hex}"
    return request
