"""A language model's output matrix that returns logprobs and entropies of the sampled tokens instead of logits.

The logits of a pack are its largest tensor by far: 5,120 tokens of a 152,000-word vocabulary take 3.1 GB in float32,
and a loss on them needs several such tensors. This head computes them a few rows at a time, for tokens of completions
only, and computes them again in the backward pass: one more product with the output matrix for all that memory.

    head = LogprobHead.in_place_of(model)    # then head.pack = the pack that goes through the model next
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import linear
from transformers import PreTrainedModel
from typing_extensions import override

from areal_gsm8k.training.packing import Pack

LOGITS_AT_ONCE = 2**26  # elements: 128 MB in bfloat16
BLOCK = {"cpu": 2**17}  # elements: 0.5 MB in float32, which stay in the cache
BLOCK_ON_A_CARD = 2**24  # 64 MB in float32, of which there are up to four
SCALED_AFTERWARDS = ("final_logit_softcapping", "logit_scale", "logits_scaling")  # configs of models that change logits


class LogprobHead(torch.nn.Linear):
    """Maps hidden states (1, T, H) to (1, F, 2): logprob of the next token under `temperature`, and entropy, float32.

    Places of AReaL's F tokens that predict no token of a completion hold 0. Gradients flow through logprobs only:
    AReaL's losses take entropies as statistics.
    """

    pack: Pack
    temperature: float

    @classmethod
    def in_place_of(cls, model: PreTrainedModel, temperature: float) -> "LogprobHead":
        """Replace `model`'s output matrix, with the same (perhaps tied) parameters under the same names."""
        old: Any = model.get_output_embeddings()
        head = cls(old.in_features, old.out_features, bias=old.bias is not None, device="meta")
        head.weight, head.bias, head.temperature = old.weight, old.bias, temperature
        model.set_output_embeddings(head)
        return head

    @staticmethod
    def fits(model: PreTrainedModel) -> bool:
        """Whether the model's logits are its output matrix's product, and nothing is done to them."""
        text = model.config.get_text_config()
        return type(model.get_output_embeddings()) is torch.nn.Linear and not any(
            getattr(text, name, None) not in (None, 1.0) for name in SCALED_AFTERWARDS
        )

    @override
    def forward(self, hidden_1TH: torch.Tensor) -> torch.Tensor:
        pack = self.pack
        hidden_NH = hidden_1TH[0].index_select(0, pack.predictors_N)
        logprobs_N, entropies_N = _Logprobs.apply(hidden_NH, self.weight, self.bias, pack.labels_N, self.temperature)
        both_N2 = torch.stack([logprobs_N, entropies_N], dim=-1)
        return both_N2.new_zeros(1, pack.full_tokens, 2).index_copy(1, pack.places_N, both_N2[None])


class _Logprobs(torch.autograd.Function):
    """log softmax(h W^T + b) at one label a row, and its entropy, a chunk of rows at a time, forward and backward."""

    @staticmethod
    def forward(ctx, hidden_NH, weight_VH, bias_V, labels_N, temperature: float):
        logprobs_N, entropies_N, sums_N = hidden_NH.new_empty(3, len(hidden_NH), dtype=torch.float32)
        for chunk, logits_CV in _products(hidden_NH, weight_VH, bias_V):
            for rows, logits_XV in _blocks(chunk, logits_CV):
                scaled_XV = logits_XV.float() / temperature
                highest_X1 = scaled_XV.amax(-1, keepdim=True)
                label_X1 = scaled_XV.gather(1, labels_N[rows, None]) - highest_X1
                scaled_XV -= highest_X1
                weights_XV = scaled_XV.exp()
                total_X1 = weights_XV.sum(-1, keepdim=True)
                mean_X1 = weights_XV.mul_(scaled_XV).sum(-1, keepdim=True) / total_X1
                log_total_X1 = total_X1.log()
                sums_N[rows] = (log_total_X1 + highest_X1).squeeze(1)
                logprobs_N[rows] = (label_X1 - log_total_X1).squeeze(1)
                entropies_N[rows] = (log_total_X1 - mean_X1).squeeze(1)
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, labels_N, sums_N)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropies_N)
        return logprobs_N, entropies_N

    @staticmethod
    def backward(ctx, *gradients):
        """d logprob / d logit = (label - p) / temperature. Rows whose gradient is 0 are not computed again."""
        hidden_NH, weight_VH, bias_V, labels_N, sums_N = ctx.saved_tensors
        matter = gradients[0].nonzero().squeeze(-1)
        gradient_M, hidden_MH, labels_M, sums_M = (
            gradients[0][matter],
            hidden_NH[matter],
            labels_N[matter],
            sums_N[matter],
        )
        wants_weight, wants_bias = ctx.needs_input_grad[1:3]
        to_hidden_NH = torch.zeros_like(hidden_NH)
        to_weight_VH = torch.zeros_like(weight_VH) if wants_weight else None
        to_bias_V = torch.zeros_like(bias_V) if wants_bias else None
        for chunk, logits_CV in _products(hidden_MH, weight_VH, bias_V):
            for rows, logits_XV in _blocks(chunk, logits_CV):
                gradient_X1 = gradient_M[rows, None] / ctx.temperature
                to_logits_XV = (logits_XV.float() / ctx.temperature).sub_(sums_M[rows, None]).exp_().mul_(-gradient_X1)
                to_logits_XV.scatter_add_(1, labels_M[rows, None], gradient_X1)
                logits_XV.copy_(to_logits_XV)
            to_hidden_NH[matter[chunk]] = logits_CV @ weight_VH
            if to_weight_VH is not None:
                to_weight_VH.addmm_(logits_CV.T, hidden_MH[chunk])
            if to_bias_V is not None:
                to_bias_V += logits_CV.sum(0)
        return to_hidden_NH, to_weight_VH, to_bias_V, None, None


def _products(hidden_NH, weight_VH, bias_V) -> Iterator[tuple[slice, torch.Tensor]]:
    """The logits (C, V) of some rows after the other, and which rows."""
    size = max(1, LOGITS_AT_ONCE // len(weight_VH))
    for start in range(0, len(hidden_NH), size):
        chunk = slice(start, min(start + size, len(hidden_NH)))
        yield chunk, linear(hidden_NH[chunk], weight_VH, bias_V)


def _blocks(chunk: slice, logits_CV: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Parts (X, V) of the logits for arithmetic in float32, which a CPU does several times faster in its cache."""
    size = max(1, BLOCK.get(logits_CV.device.type, BLOCK_ON_A_CARD) // logits_CV.shape[1])
    for start in range(0, len(logits_CV), size):
        part = logits_CV[start : start + size]
        yield slice(chunk.start + start, chunk.start + start + len(part)), part
