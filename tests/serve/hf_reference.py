"""Tiny random models in Hugging Face folders, and Hugging Face's own answers to hold a server's against."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
import transformers

TEXT = ["Tom has 3 apples and buys 14 more. How many apples has he now?", "total <<3+14=17>>17\n#### 17", "ok stop now"]
EOS = 1


def save_model(folder: Path, seed: int, **config) -> str:
    """A random Qwen2 (2 layers, hidden 32) whose greedy answers do not loop at once; its eos id is EOS."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    settings = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": 0.3,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "pad_token_id": 0,
        "eos_token_id": EOS,
    }
    Qwen2ForCausalLM(Qwen2Config(**(settings | config))).save_pretrained(folder)
    return str(folder)


def save_tokenizer(folder: str) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<eos>"}
    Path(folder, "tokenizer_config.json").write_text(json.dumps(settings))


class Reference:
    """Hugging Face itself, one sequence at a time."""

    def __init__(self, path: str):
        self.model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    @torch.no_grad()
    def greedy(self, prompt: list[int], count: int, eos: bool = False) -> list[int]:
        out = self.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=EOS if eos else None,
        )
        return out[0, len(prompt) :].tolist()

    @torch.no_grad()
    def logprobs(self, prompt: list[int], answer: list[int], temperature: float = 1.0) -> list[float]:
        """Of each answer token, teacher-forced."""
        logits = self.model(torch.tensor([prompt + answer])).logits[0].float()
        table = torch.log_softmax(logits / temperature, -1)
        return [table[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer)]
