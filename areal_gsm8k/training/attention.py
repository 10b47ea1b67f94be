"""Attention in which each sequence of a pack sees itself only, in time and memory too.

Under sdpa transformers masks packed sequences with one dense (T, T) mask: every token is multiplied with all of the
pack. Here queries, keys and values go from the pack into one row a sequence, through PyTorch's
scaled_dot_product_attention, and back. It serves every card without flash-attn, and CPUs.

    model.set_attn_implementation(attention.NAME)    # then pass pack=Pack(...) to the model (training/packing.py)
"""

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from areal_gsm8k.training.packing import Pack

NAME = "by_sequence"


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    pack: Pack,
    **_,
) -> tuple[torch.Tensor, None]:
    """Attention of a pack: query (1, H, T, D), key and value (1, KV heads, T, D) -> (1, T, H, D)."""
    rows, grouped = pack.queries_RQ.shape[0], query.shape[1] != key.shape[1]
    queries_RHQD = _rows(query, pack.queries_RQ)
    keys_RKKD, values_RKKD = _rows(key, pack.keys_RK), _rows(value, pack.keys_RK)
    if grouped and query.is_cuda:  # with a mask, CUDA's fast kernels want as many key heads as query heads
        shared = query.shape[1] // key.shape[1]
        keys_RKKD, values_RKKD = (x.repeat_interleave(shared, 1) for x in (keys_RKKD, values_RKKD))
        grouped = False
    answers_RHQD = torch.nn.functional.scaled_dot_product_attention(
        queries_RHQD,
        keys_RKKD,
        values_RKKD,
        attn_mask=pack.mask(query.dtype),
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=grouped,
    )
    flat = answers_RHQD.transpose(1, 2).reshape(rows * pack.queries_RQ.shape[1], query.shape[1], -1)
    return flat.index_select(0, pack.answers_T)[None], None


def _rows(states_1HTD: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The tokens at `places`, (R, X), as (R, H, X, D)."""
    picked = states_1HTD[0].transpose(0, 1).index_select(0, places.flatten())
    return picked.unflatten(0, places.shape).transpose(1, 2)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)  # a pack brings its own
