"""A language model's output matrix that returns logprobs and entropies of the sampled tokens instead of logits.

The logits of a pack are its largest tensor by far: 5,120 tokens of a 152,000-word vocabulary take 3.1 GB in float32,
and a loss on them needs several such tensors. This head computes them a few rows at a time, for tokens of completions
only, and computes them again in the backward pass: one more product with the output matrix for all that memory.

    head = LogprobHead.in_place_of(model)    # then head.pack = the pack that goes through the model next
"""

import torch
from torch.nn.functional import linear
from typing_extensions import override

from areal_gsm8k.training.packing import Pack

LOGITS_AT_ONCE = 2**25  # elements: 128 MB in float32
SCALED_AFTERWARDS = ("final_logit_softcapping", "logit_scale", "logits_scaling")  # configs of models that change logits


class LogprobHead(torch.nn.Linear):
    """Maps hidden states (1, T, H) to (1, F, 2): logprob of the next token under `temperature`, and entropy, float32.

    Places of AReaL's F tokens that predict no token of a completion hold 0. Gradients flow through logprobs only:
    AReaL's losses take entropies as statistics.
    """

    pack: Pack
    temperature: float

    @classmethod
    def in_place_of(cls, model: torch.nn.Module, temperature: float) -> "LogprobHead":
        """Replace `model`'s output matrix, with the same (perhaps tied) parameters under the same names."""
        old = model.get_output_embeddings()
        head = cls(old.in_features, old.out_features, bias=old.bias is not None, device="meta")
        head.weight, head.bias, head.temperature = old.weight, old.bias, temperature
        model.set_output_embeddings(head)
        return head

    @staticmethod
    def fits(model: torch.nn.Module) -> bool:
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
        return both_N2.new_zeros(pack.full_tokens, 2).index_copy(0, pack.places_N, both_N2)[None]


class _Logprobs(torch.autograd.Function):
    """log softmax(h W^T + b) at one label a row, and its entropy, in chunks of rows, forward and backward."""

    @staticmethod
    def forward(ctx, hidden_NH, weight_VH, bias_V, labels_N, temperature: float):
        logprobs_N, entropies_N, sums_N = hidden_NH.new_empty(3, len(hidden_NH), dtype=torch.float32)
        for rows in _chunks(len(hidden_NH), len(weight_VH)):
            logits_CV = _logits(hidden_NH[rows], weight_VH, bias_V, temperature)
            label_C = logits_CV.gather(1, labels_N[rows, None]).squeeze(1)
            highest_C1 = logits_CV.amax(-1, keepdim=True)
            logits_CV -= highest_C1
            weights_CV = logits_CV.exp()
            total_C = weights_CV.sum(-1)
            mean_C = (weights_CV.mul_(logits_CV)).sum(-1) / total_C
            sums_N[rows] = total_C.log() + highest_C1.squeeze(1)
            logprobs_N[rows] = label_C - sums_N[rows]
            entropies_N[rows] = total_C.log() - mean_C
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, labels_N, sums_N)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropies_N)
        return logprobs_N, entropies_N

    @staticmethod
    def backward(ctx, *gradients):
        """d logprob / d logit = (label - p) / temperature. Rows whose gradient is 0 are not computed again."""
        hidden_NH, weight_VH, bias_V, labels_N, sums_N = ctx.saved_tensors
        gradient_N = gradients[0]
        matter = gradient_N.nonzero().squeeze(-1)
        wants_weight, wants_bias = ctx.needs_input_grad[1:3]
        to_hidden_NH = torch.zeros_like(hidden_NH)
        to_weight_VH = torch.zeros_like(weight_VH) if wants_weight else None
        to_bias_V = torch.zeros_like(bias_V) if wants_bias else None
        for chunk in _chunks(len(matter), len(weight_VH)):
            rows = matter[chunk]
            gradient_C1, hidden_CH = gradient_N[rows, None], hidden_NH[rows]
            to_logits_CV = _logits(hidden_CH, weight_VH, bias_V, ctx.temperature)
            to_logits_CV.sub_(sums_N[rows, None]).exp_().mul_(-gradient_C1)
            to_logits_CV.scatter_add_(1, labels_N[rows, None], gradient_C1)
            if ctx.temperature != 1.0:
                to_logits_CV /= ctx.temperature
            to_logits_CV = to_logits_CV.to(hidden_NH.dtype)
            to_hidden_NH[rows] = to_logits_CV @ weight_VH
            if to_weight_VH is not None:
                to_weight_VH.addmm_(to_logits_CV.T, hidden_CH)
            if to_bias_V is not None:
                to_bias_V += to_logits_CV.sum(0)
        return to_hidden_NH, to_weight_VH, to_bias_V, None, None


def _chunks(rows: int, words: int) -> list[slice]:
    size = max(1, LOGITS_AT_ONCE // words)
    return [slice(start, start + size) for start in range(0, rows, size)]


def _logits(hidden_CH, weight_VH, bias_V, temperature: float) -> torch.Tensor:
    """A new float32 tensor, (C, V)."""
    product_CV = linear(hidden_CH, weight_VH, bias_V)
    logits_CV = product_CV.float()
    return logits_CV if temperature == 1.0 else logits_CV.div_(temperature)
