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
    grouped = query.shape[1] != key.shape[1]
    if grouped and query.is_cuda:  # with a mask, CUDA's fast kernels want as many key heads as query heads
        shared, grouped = query.shape[1] // key.shape[1], False
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    query_THD, key_THD, value_THD = (states[0].transpose(0, 1) for states in (query, key, value))
    answers = []
    for rows in pack.rows:
        answers_RHQD = torch.nn.functional.scaled_dot_product_attention(
            _at(query_THD, rows.queries_RQ),
            _at(key_THD, rows.keys_RK),
            _at(value_THD, rows.keys_RK),
            attn_mask=rows.mask(query.dtype),
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=grouped,
        )
        answers.append(answers_RHQD.transpose(1, 2).flatten(0, 1))
    return torch.cat(answers).index_select(0, pack.answers_T)[None], None


def _at(states_THD: torch.Tensor, places_RX: torch.Tensor) -> torch.Tensor:
    """The tokens at these places, (R, H, X, D)."""
    return states_THD.index_select(0, places_RX.flatten()).unflatten(0, places_RX.shape).transpose(1, 2)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)  # a pack brings its own
