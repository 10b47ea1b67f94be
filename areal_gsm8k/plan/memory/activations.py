"""Bytes that transformers' decoders keep for the backward pass, from the tensors their operations save.

Korthikanti et al. 2022 (arXiv:2205.05198, section 4.1) counts them for Megatron's GPT: `s b h (34 + 5 a s / h)` bytes a
layer. Here they are counted for the code that really runs: transformers 5.3's Llama, Qwen2, Qwen3 and GPT-Neo, packed
sequences in one row of T tokens, under sdpa, flash or eager attention or, in packs (packs.py), row by row. Element
sizes are the compute dtype's `e` bytes, except where float32 is forced (norms, softmax). The comments below name the
tensors; tests/plan/test_memory_training.py holds the sums against measured steps.
"""

from dataclasses import dataclass

from areal_gsm8k.plan.memory.model_shape import ModelShape
from areal_gsm8k.plan.memory.packs import Pack

MASKED = ("sdpa", "eager")  # attention that takes packed sequences apart by a (T, T) mask; flash attention needs none


@dataclass(frozen=True)
class Activations:
    """The tensors that one pass over T tokens saves, in bytes on one rank.

    `element` is the compute dtype's size; `attention` is actor.attn_impl; `tensor` is the tensor-parallel size: AReaL
    splits heads, MLP and, between them, the sequence (areal/engine/fsdp_utils/parallel.py, apply_non_moe_tp).
    """

    shape: ModelShape
    tokens: int
    element: int
    attention: str = "sdpa"
    tensor: int = 1
    adapter: int = 0  # rank of LoRA; 0: all weights are trained
    pack: Pack | None = None  # none: AReaL's sequences, each whole

    @property
    def hidden(self) -> int:
        """One hidden state (T, hidden)."""
        return self.tokens * self.shape.hidden * self.element

    @property
    def inner(self) -> int:
        """One tensor of the MLP's width (T, intermediate)."""
        return self.tokens * self.shape.intermediate * self.element // self.tensor

    @property
    def scores(self) -> int:
        """Elements of the attention scores (heads, T, T), which only eager attention has."""
        whole = self.attention == "eager" and not self.pack
        return self.shape.heads * self.tokens**2 // self.tensor if whole else 0

    @property
    def norm(self) -> int:
        """One normalisation and the input of the linear layers after it (whole again on every tensor-parallel rank)."""
        if self.shape.gated:  # float32 input, the same in the compute dtype, one number a token
            copy = 0 if self.adapter else self.element  # for the gradient of the norm's weight
            own = self.tokens * (self.shape.hidden * (4 + copy) + 4) // self.tensor
        else:
            own = (self.hidden + 2 * self.tokens * self.element) // self.tensor
        return own + self.hidden

    @property
    def mlp(self) -> int:
        """gate, silu(gate), up, and their product; or the five tensors of GPT-Neo's tanh-approximated GELU."""
        return (4 if self.shape.gated else 5) * self.inner

    @property
    def attention_saved(self) -> int:
        shape, e = self.shape, self.element
        query, key = (self.tokens * width // self.tensor for width in (shape.query, shape.key))
        if self.pack:  # the output once more, by token
            saved = query * e + self._rows + 4 * shape.heads * self.pack.queries
        elif not shape.gated:  # queries and keys in float32
            saved = query * (4 + 4 + e) + self.hidden
        elif self.attention == "sdpa":  # queries, keys and values of every query head, output, log-sum-exp, float mask
            saved = 4 * query * e + 4 * shape.heads * self.tokens // self.tensor + self.tokens**2 * e
        elif self.attention == "eager":
            saved = 4 * query * e
        else:
            saved = 2 * (query + key) * e + 4 * shape.heads * self.tokens // self.tensor
        if shape.qk_norm:
            saved += (query + key) * (4 + e) + 4 * self.tokens * (shape.heads + shape.kv_heads) // self.tensor
        return saved + self.scores * self._softmax

    @property
    def _rows(self) -> int:
        """Queries, keys, values and output of a pack's rows; on a GPU the mask too, padded for the kernel."""
        pack, shape = self.pack, self.shape
        elements = 2 * pack.queries * shape.query + 2 * pack.keys * (shape.query if pack.on_gpu else shape.key)
        return (elements + pack.pairs * pack.on_gpu) * self.element

    @property
    def _softmax(self) -> int:
        """Bytes a score keeps: the float32 softmax, and its copy in the compute dtype."""
        return 4 + (self.element if self.element < 4 else 0)

    @property
    def layer(self) -> int:
        """Everything one decoder layer saves; between the two matrices of each adapter, its few numbers a token."""
        adapters = (7 if self.shape.gated else 6) * self.tokens * self.adapter * self.element
        return 2 * self.norm + self.attention_saved + self.mlp + adapters

    @property
    def mask(self) -> int:
        """The attention mask: booleans, or for eager attention numbers to add."""
        dense = self.attention in MASKED and not self.pack
        return self.tokens**2 * (1 if self.attention == "sdpa" else self.element) if dense else 0

    @property
    def shared(self) -> int:
        """Tensors saved once a pass: token ids, positions, rotary tables; places and masks of a pack."""
        tables = 2 * self.shape.head_dim * self.element if self.shape.gated else 0
        pack = self.tokens * 8 + self.pack.indices + self.pack.pairs * self.element if self.pack else 0
        return self.tokens * (16 + tables) + pack

    @property
    def head(self) -> int:
        """The last norm, and the input of the output layer: of a pack the hidden states that predict, (N, hidden)."""
        predicting = self.pack.predicted * self.shape.hidden * self.element if self.pack else self.hidden
        return self.norm - self.hidden + predicting

    def kept(self, checkpointing: bool) -> int:
        """Bytes alive after the forward pass; with checkpointing each layer's input, and the mask for later."""
        layers = self.shape.layers
        saved = layers * self.hidden // self.tensor + self.mask if checkpointing else layers * self.layer
        return saved + self.head + self.shared

    def layer_backward(self, checkpointing: bool, layers_left: int) -> int:
        """Most bytes alive in the backward pass of one layer; `layers_left` layers, this one included, are still to do.

        In the MLP: the layer's saved tensors less the product, which is used first, and three gradients of its width.
        In eager attention, when the MLP's are gone: softmax, its gradient, and the scores' gradient, all float32.
        In attention by rows: gradients of all that the rows keep.
        """
        inputs = layers_left * self.hidden // self.tensor + self.mask
        below = inputs if checkpointing else (layers_left - 1) * self.layer
        in_mlp = self.layer + 2 * self.inner + self.hidden
        gradients = self._rows if self.pack else self.scores * (12 - self._softmax)
        in_attention = self.layer - self.mlp - self.norm + gradients + 3 * self.hidden
        return below + self.shared + max(in_mlp, in_attention if gradients else 0)

    @property
    def forward_only(self) -> int:
        """The most bytes alive in a pass that keeps nothing: one layer's MLP, or its attention with mask or scores."""
        query = self.tokens * self.shape.query // self.tensor * self.element
        mask = self.tokens**2 * self.element if self.attention == "sdpa" else 0
        attention = self.hidden + query + self._rows if self.pack else 4 * query + mask
        working = max(3 * self.inner, attention, self.scores * 8)
        return self.shared + self.mask + 2 * self.hidden + working
