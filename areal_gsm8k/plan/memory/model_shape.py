"""The sizes of a model that memory depends on, read from its config.json. No weights are read and nothing is imported.

Exact for the dense decoders transformers calls llama, mistral, qwen2, qwen3 and gpt_neo (tests count the parameters of
the real classes); any other architecture gets Llama's formulae with its own sizes, and `exact` says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

GATED = ("llama", "mistral", "qwen2", "qwen3")  # RMSNorm, rotary positions, gated MLP
EXACT = (*GATED, "gpt_neo")
# The names under which config.json files give one size, as transformers' attribute_map of each architecture has them.
ALIASES = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "vocab": ("vocab_size",),
    "intermediate": ("intermediate_size", "n_inner", "ffn_dim", "d_ff"),
    "kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "context": ("max_position_embeddings", "n_positions"),
}
TIED_BY_DEFAULT = ("gpt_neo", "gpt2", "opt", "gemma", "gemma2", "gemma3_text")  # when config.json does not say
SCALED_AFTERWARDS = ("final_logit_softcapping", "logit_scale", "logits_scaling")  # as in training/logprob_head.py
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


class ShapeError(ValueError):
    """A config.json that gives no plan; the message says what the file lacks."""


@dataclass(frozen=True)
class ModelShape:
    """A dense decoder. Sizes in elements; `context` in tokens; parameter counts include biases and norms."""

    family: str  # config.json's model_type
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool  # the output layer is the embedding
    context: int = 0
    attention_bias: int = 0  # bias elements of one layer's attention
    exact: bool = True
    packs: bool = True  # the trainer computes it in packs (training/actor.py, _can_pack)

    @property
    def query(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Width of all key heads; the values have the same."""
        return self.kv_heads * self.head_dim

    @property
    def gated(self) -> bool:
        return self.family != "gpt_neo"

    @property
    def qk_norm(self) -> bool:
        """Queries and keys are normalised per head (Qwen3)."""
        return self.family == "qwen3"

    @property
    def norm_parameters(self) -> int:
        return self.hidden if self.gated else 2 * self.hidden

    @property
    def layer_parameters(self) -> int:
        attention = 2 * self.hidden * (self.query + self.key) + self.attention_bias
        mlp = 3 * self.hidden * self.intermediate
        if not self.gated:
            mlp = 2 * self.hidden * self.intermediate + self.intermediate + self.hidden
        return attention + mlp + 2 * self.norm_parameters + (2 * self.head_dim if self.qk_norm else 0)

    @property
    def embedding_parameters(self) -> int:
        return self.vocab * self.hidden

    @property
    def position_parameters(self) -> int:
        return 0 if self.gated else self.context * self.hidden

    @property
    def parameters(self) -> int:
        tables = self.embedding_parameters * (1 if self.tied else 2) + self.position_parameters
        return tables + self.layers * self.layer_parameters + self.norm_parameters

    @property
    def root_parameters(self) -> int:
        """What AReaL's FSDP keeps in the root group: everything but the layers and, if untied, the embedding tables
        (areal/engine/fsdp_utils/__init__.py, apply_fsdp2).
        """
        tables = self.position_parameters if self.tied else 0
        return self.embedding_parameters + tables + self.norm_parameters

    def adapter_parameters(self, rank: int) -> int:
        """LoRA of this rank on every linear layer of one decoder layer (PEFT's all-linear), biases apart."""
        hidden, inner = self.hidden, self.intermediate
        widths = 2 * (hidden + self.query) + 2 * (hidden + self.key)
        return rank * (widths + (3 if self.gated else 2) * (hidden + inner))

    @property
    def buffers(self) -> int:
        """Bytes of tensors that are neither weights nor activations: GPT-Neo's causal masks, one a layer."""
        return 0 if self.gated else self.layers * self.context**2

    def kv_bytes_per_token(self, element: int, tensor_parallel: int = 1) -> int:
        """Bytes of keys and values of one token on one of `tensor_parallel` ranks; `element` bytes a number."""
        return 2 * self.layers * max(1, self.kv_heads // tensor_parallel) * self.head_dim * element


def from_config(config: Mapping) -> ModelShape:
    """Read a config.json's content. Raises ShapeError naming the key that is missing or that is no size."""
    config = config.get("text_config") or config if isinstance(config, Mapping) else config
    if not isinstance(config, Mapping):
        raise ShapeError(f"config.json must hold one JSON object of the model's sizes; found {str(config)[:80]}")
    family = config.get("model_type", "")
    if any(config.get(key) not in (None, 0, 1) for key in EXPERTS):
        raise ShapeError(f"model_type {family!r} is a mixture of experts, and plans are made for dense models only")
    found = {size: next((config[k] for k in keys if config.get(k)), None) for size, keys in ALIASES.items()}
    for size in ("layers", "hidden", "heads", "vocab"):
        if found[size] is None:
            raise ShapeError(f"config.json has none of {', '.join(ALIASES[size])}; it holds {', '.join(config)[:200]}")
    for size, value in found.items():
        if value is not None and (type(value) is not int or value < 1):
            key = next(key for key in ALIASES[size] if config.get(key) == value)
            raise ShapeError(f"config.json: {key} is {value!r}; it must be a whole number above 0")
    hidden, heads = found["hidden"], found["heads"]
    shape = ModelShape(
        family=family,
        layers=found["layers"],
        hidden=hidden,
        heads=heads,
        kv_heads=found["kv_heads"] or heads,
        head_dim=found["head_dim"] or hidden // heads,
        intermediate=found["intermediate"] or 4 * hidden,
        vocab=found["vocab"],
        tied=config.get("tie_word_embeddings", family in TIED_BY_DEFAULT),
        context=found["context"] or 0,
        exact=family in EXACT,
        packs=family != "gpt_neo"  # has no attention interface
        and "sliding_attention" not in (config.get("layer_types") or ())
        and all(config.get(key) in (None, 1.0) for key in SCALED_AFTERWARDS),
    )
    return replace(shape, attention_bias=_attention_bias(shape, config))


def _attention_bias(shape: ModelShape, config: Mapping) -> int:
    if shape.family == "qwen2":
        return shape.query + 2 * shape.key
    if shape.family == "gpt_neo":
        return shape.hidden
    return shape.query + 2 * shape.key + shape.hidden if config.get("attention_bias") else 0
