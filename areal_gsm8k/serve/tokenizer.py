"""Text to ids and back for the server: the folder's own tokenizer.

Where ``tokenizer.json`` is enough, transformers' tokenizer machinery stays out of it: the server starts faster.
"""

from __future__ import annotations

import json
import os
from typing import Any


class Tokenizer:
    """encode and decode of one model folder."""

    def __init__(self, folder: str):
        """Raises OSError or ValueError when the folder holds no tokenizer."""
        self._fast: Any = None
        self._slow: Any = None
        path = os.path.join(folder, "tokenizer.json")
        if os.path.isfile(path):
            from tokenizers import Tokenizer as Fast

            self._fast = Fast.from_file(path)
            self._fast.no_truncation()
            self._fast.no_padding()
            eos = self._fast.token_to_id(_eos_token(folder))
        else:
            from transformers import AutoTokenizer

            self._slow = AutoTokenizer.from_pretrained(folder)
            eos = self._slow.eos_token_id
        self.eos_ids = frozenset() if eos is None else frozenset([eos])  # ends answers too, as in SGLang

    def encode(self, text: str) -> list[int]:
        """With the special tokens the tokenizer adds of itself, as SGLang does for ``text`` prompts."""
        return self._fast.encode(text).ids if self._fast else self._slow.encode(text)

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        decoder = self._fast or self._slow
        return decoder.decode(ids, skip_special_tokens=skip_special_tokens)


def _eos_token(folder: str) -> str:
    """The end-of-sequence token that tokenizer_config.json names, or an empty string."""
    try:
        with open(os.path.join(folder, "tokenizer_config.json"), encoding="utf-8") as file:
            token = json.load(file).get("eos_token") or ""
    except OSError:
        return ""
    return token if isinstance(token, str) else token.get("content", "")


def load_tokenizer(folder: str) -> Tokenizer | None:
    """The folder's tokenizer, or None: then only ids are served."""
    try:
        return Tokenizer(folder)
    except (OSError, ValueError):
        return None
