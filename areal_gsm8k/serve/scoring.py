"""Logprobs of the tokens of a prompt, and the likeliest alternatives to a token, in SGLang's layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .request import Request

POSITIONS = 256  # positions whose float32 logprobs are held at once: 256 x 150,000 tokens are 150 MB


def best(logprobs: torch.Tensor, count: int) -> list[list]:
    """The ``count`` likeliest tokens of logprobs (vocab): [[logprob, id, None], ...], the best first."""
    lowest = torch.finfo(torch.float32).min  # JSON has no -Infinity
    values, ids = logprobs.float().clamp(min=lowest).topk(min(count, logprobs.shape[-1]))
    return [[value, token, None] for value, token in zip(values.tolist(), ids.tolist(), strict=True)]


def prompt_logprobs(request: Request, logits: torch.Tensor) -> None:
    """Fill input_logprobs (and input_top) from the logits (positions, vocab) of prompt_ids[logprob_start:].

    Entry i belongs to prompt_ids[logprob_start + i]; the first is None, as SGLang pads it. Always at temperature 1.
    """
    ids = request.prompt_ids[request.logprob_start :]
    request.input_logprobs, request.input_top = [None], [None]
    for begin in range(0, len(ids) - 1, POSITIONS):
        targets = torch.tensor(ids[begin + 1 : begin + 1 + POSITIONS], device=logits.device)
        logprobs = logits[begin : begin + len(targets)].float().log_softmax(-1)
        request.input_logprobs += logprobs.gather(1, targets[:, None])[:, 0].tolist()
        if request.top_logprobs:
            request.input_top += [best(row, request.top_logprobs) for row in logprobs]
