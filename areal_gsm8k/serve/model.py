"""A Hugging Face causal LM as the engine needs it: load a folder, prefill prompts, decode one token for every slab row.

Any decoder whose whole state is keys and values works (full, sliding-window, local attention; rotary, learned or ALiBi
positions). Models with recurrent state (Mamba and hybrids) are refused when loaded.
"""

from __future__ import annotations

import inspect
import os
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from areal_gsm8k.data.prompts import configured_stop_ids
from areal_gsm8k.serve import packed_linear, weights
from areal_gsm8k.serve.kv_slab import Slab, SlabCache

ATTENTION = "grouped_sdpa"
PREFILL_TOKENS = {"cpu": 2048, "cuda": 16384}  # padded tokens in one prefill batch
# Plain rotary decoders that hand a 4-D mask to attention untouched: the slab's own mask goes in as it is, which saves
# transformers building one at every token (a tenth of a tiny model's step).
TAKES_READY_MASK = {"llama", "mistral", "qwen2", "qwen3"}
KV_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


class ModelError(ValueError):
    """The folder holds no model this server can run; the message says which and why."""


def grouped_sdpa(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """SDPA that, when decoding, treats the query heads of one KV head as a query sequence instead of repeating K and V.

    query (rows, heads, 1, dim), key and value (rows, kv_heads, columns, dim), mask (rows, 1, 1, columns) or None.
    """
    rows, heads, length, dim = query.shape
    kv_heads = key.shape[1]
    if length > 1 or heads == kv_heads or (attention_mask is not None and attention_mask.shape[1] != 1):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    query = query.reshape(rows, kv_heads, heads // kv_heads, dim)
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(rows, 1, heads, dim), None


AttentionInterface.register(ATTENTION, grouped_sdpa)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def resolve(path: str) -> str:
    """A local folder as it is; a hub id becomes its snapshot's folder. Raises ModelError with one line."""
    if os.path.isdir(path):
        if not os.path.isfile(os.path.join(path, "config.json")):
            raise ModelError(f"model path {path} has no config.json: it is not a Hugging Face model folder")
        return path
    if path.count("/") != 1 or path.startswith((".", "~", "/")):
        raise ModelError(f"model path {path} does not exist")
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(path, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"])
    except Exception as error:  # the hub raises many kinds; all mean the same here
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"model {path} is neither a folder nor on the Hugging Face hub: {reason}") from error


class LanguageModel:
    """The model with the facts that decoding needs: device, vocabulary, context length, end-of-sequence ids."""

    def __init__(self, path: str, device: str = "auto", dtype: str = "auto", context_length: int | None = None):
        """Load a folder or hub id. dtype auto: the folder's own on CUDA, float32 on CPU. Raises ModelError."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ModelError("device cuda was asked for, but torch sees no CUDA device: use cpu or auto")
        self.device = torch.device(device)
        if dtype == "auto":
            dtype = "float32" if self.device.type == "cpu" else "auto"
        folder = self.folder = resolve(path)
        try:
            config = transformers.AutoConfig.from_pretrained(folder)
            name = (config.architectures or [""])[0]
            cls: Any = getattr(transformers, name, None) or transformers.AutoModelForCausalLM
            grouped = getattr(cls, "_supports_sdpa", False) and getattr(cls, "_supports_attention_backend", False)
            attention = ATTENTION if grouped else None
            self.model, report = cls.from_pretrained(
                folder, dtype=dtype, attn_implementation=attention, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise ModelError(f"cannot load a causal LM from {path}: {' '.join(str(error).split())}") from error
        if missing := sorted(report["missing_keys"]):
            raise ModelError(f"{path} lacks {len(missing)} weights of {type(self.model).__name__}: {missing[:4]}")
        self.model.to(self.device).eval().requires_grad_(False)
        config = self.config = self.model.config
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if not kinds <= KV_LAYERS:
            raise ModelError(f"{path}: {sorted(kinds - KV_LAYERS)} layers keep a state other than keys and values")
        windowed = kinds != {"full_attention"} or getattr(config, "sliding_window", None)
        self.ready_mask = grouped and config.model_type in TAKES_READY_MASK and not windowed
        parameters = inspect.signature(self.model.forward).parameters
        self.takes_positions = "position_ids" in parameters
        self.takes_keep = "logits_to_keep" in parameters
        self.vocab_size = self.model.get_output_embeddings().weight.shape[0]
        longest = getattr(config, "max_position_embeddings", None) or 1 << 30
        self.context_length = min(context_length or longest, longest)
        self.prefill_tokens = PREFILL_TOKENS[self.device.type]
        self.eos_ids = frozenset(configured_stop_ids(self.model))
        self.packed = packed_linear.is_faster_on(self.device, self.model.dtype)
        if self.packed:
            packed_linear.pack(self.model)
        self._slab_template = self._probe(path)

    def update_weights(self, path: str) -> int:
        """Replace the weights by a folder's. Raises weights.WeightsError, and keeps the old ones, on a misfit."""
        count = weights.update(self.model, path)
        if self.packed:
            packed_linear.pack(self.model)
        return count

    def _probe(self, path: str) -> list[torch.Tensor]:
        """Keys and values of one token: their shapes lay out the slab, and the first slow call is out of the way."""
        with torch.inference_mode():
            cache = self._forward([[0]])[1]
        layers = getattr(cache, "layers", [])
        if not layers or any(layer.keys is None or layer.keys.ndim != 4 for layer in layers):
            raise ModelError(f"{path}: {type(self.model).__name__} does not keep its state as keys and values")
        return [t[0] for layer in layers for t in (layer.keys, layer.values)]

    def new_slab(self) -> Slab:
        return Slab(self._slab_template, additive=self.ready_mask)

    def _forward(self, prompts: list[list[int]], keep: int = 1) -> tuple[torch.Tensor, DynamicCache]:
        """Prompts as one left-padded batch: logits of the last positions (prompts, keep, vocab), and the cache."""
        longest = max(len(p) for p in prompts)
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=self.device)
        inputs = {}
        if any(len(p) < longest for p in prompts):
            lengths = torch.tensor([len(p) for p in prompts], device=self.device)
            columns = torch.arange(longest, device=self.device)
            positions = columns[None, :] - (longest - lengths)[:, None]
            inputs["attention_mask"] = (positions >= 0).long()
            if self.takes_positions:
                inputs["position_ids"] = positions.clamp(min=0)
        if self.takes_keep:
            inputs["logits_to_keep"] = keep
        cache = DynamicCache()  # without a config: no layer drops columns that fall out of its window
        logits = self.model(input_ids=ids, past_key_values=cache, use_cache=True, **inputs).logits
        return logits[:, -keep:], cache

    def prefill(
        self, prompts: list[list[int]], slab: Slab, keep: int = 1
    ) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
        """For each prompt: logits of its last ``keep`` positions (keep, vocab), and its packed keys and values.

        Short prompts share a batch of at most prefill_tokens padded tokens. ``keep`` > 1 wants one prompt.
        """
        results: dict[int, tuple[torch.Tensor, list[torch.Tensor]]] = {}
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        while order:
            batch = [order.pop()]  # the longest left: it sets the width
            width = len(prompts[batch[0]])
            while order and (len(batch) + 1) * width <= self.prefill_tokens:
                batch.append(order.pop())
            logits, cache = self._forward([prompts[i] for i in batch], keep)
            packed = slab.pack([t for layer in cache.layers for t in (layer.keys, layer.values) if t is not None])
            for row, i in enumerate(batch):
                own = [p[:, row, :, width - len(prompts[i]) :] for p in packed]
                results[i] = logits[row], own
        return [results[i] for i in range(len(prompts))]

    def decode(self, slab: Slab, tokens: list[int], positions: list[int]) -> torch.Tensor:
        """Feed each slab row its token at its position; writes the slab's cursor column. Logits (rows, vocab)."""
        slab.reserve(0, 0)
        fed = torch.tensor([tokens, positions], device=self.device)[:, :, None]
        mask = slab.mask[: slab.rows, slab.window_start : slab.cursor + 1]
        inputs = {"position_ids": fed[1]} if self.takes_positions else {}
        inputs["attention_mask"] = mask[:, None, None, :] if self.ready_mask else mask.long()
        cache = SlabCache(slab)
        logits = self.model(input_ids=fed[0], past_key_values=cache, use_cache=True, **inputs).logits
        slab.cursor += 1
        return logits[:, -1]
