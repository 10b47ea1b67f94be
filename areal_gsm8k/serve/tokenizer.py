"""Text to ids and back for the server: the folder's own tokenizer, without transformers' tokenizer machinery where
``tokenizer.json`` is enough (it starts a second faster)."""

from __future__ import annotations

import os


class Tokenizer:
    """encode and decode of one model folder."""

    def __init__(self, folder: str):
        """Raises OSError or ValueError when the folder holds no tokenizer."""
        path = os.path.join(folder, "tokenizer.json")
        if os.path.isfile(path):
            from tokenizers import Tokenizer as Fast

            self._fast, self._slow = Fast.from_file(path), None
            self._fast.no_truncation()
            self._fast.no_padding()
        else:
            from transformers import AutoTokenizer

            self._fast, self._slow = None, AutoTokenizer.from_pretrained(folder)

    def encode(self, text: str) -> list[int]:
        """With the special tokens the tokenizer adds of itself, as SGLang does for ``text`` prompts."""
        return self._fast.encode(text).ids if self._fast else self._slow.encode(text)

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        decoder = self._fast or self._slow
        return decoder.decode(ids, skip_special_tokens=skip_special_tokens)


def load_tokenizer(folder: str) -> Tokenizer | None:
    """The folder's tokenizer, or None: then only ids are served."""
    try:
        return Tokenizer(folder)
    except (OSError, ValueError):
        return None
