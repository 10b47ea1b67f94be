"""A tiny Qwen2 made from scratch and warmed up on a noisy corpus: the start model of the embedded recipe.

Why: on a machine without network there are no pretrained weights, and reinforcement learning needs a model that is
right now and then. This one learns generated problems for about a minute from worked solutions of which fewer than half
are right, as scraped data is; so it knows the right way but often prefers a wrong one. `./run train` with
configs/cpu.yaml starts from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from areal_gsm8k.data import generator, prompts
from areal_gsm8k.sft import loop

PAD, EOS, USER, ASSISTANT = "<|pad|>", "<|eos|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + '<|eos|>' }}"
    "{% else %}{{ '<|user|>' + message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class TinySettings:
    """Everything the start model depends on besides its seed and the code."""

    answer_format: str = "hash"
    vocab_size: int = 573
    hidden_size: int = 64
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    intermediate_size: int = 192
    initializer_range: float = 0.08  # at the usual 0.02 a model this small hardly learns
    corpus_rows: int = 12_000  # with 4,000 the model memorises: its pass@8 is lower
    prompt_weight: float = 0.1
    sft: loop.SFTSettings = field(
        default_factory=lambda: loop.SFTSettings(
            lr=4e-3,
            max_steps=1000,
            batch_size=32,
            warmup_ratio=0.03,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            device="cpu",
        )
    )


def make_tokenizer(settings: TinySettings, rows: list[dict]):
    """Byte-level BPE trained on the rows' prompts and solutions; digits are split singly, as in Qwen2."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=[PAD, EOS, USER, ASSISTANT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [
        text
        for row in rows
        for text in (
            prompts.messages(row["question"], settings.answer_format)[0]["content"],
            prompts.target(row["answer"], settings.answer_format),
        )
    ]
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(settings: TinySettings, tokenizer, seed: int):
    """A randomly initialised Qwen2 of about 185,000 parameters, float32, on the CPU."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        intermediate_size=settings.intermediate_size,
        initializer_range=settings.initializer_range,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config).float()


def fingerprint(settings: TinySettings, seed: int) -> str:
    """Twelve hex digits of the settings, the seed and the source of every module the start model is made by."""
    digest = hashlib.sha256(json.dumps([asdict(settings), seed], sort_keys=True).encode())
    for module in (generator, prompts, loop):
        digest.update(Path(module.__file__).read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()[:12]


def start_model_folder(cache_dir: str | Path, seed: int = 0, settings: TinySettings | None = None) -> Path:
    """Where `start_model` keeps the model of this seed, whether it exists yet or not. Imports nothing heavy."""
    return Path(cache_dir) / f"tiny-seed{seed}-{fingerprint(settings or TinySettings(), seed)}"


def start_model(
    cache_dir: str | Path,
    seed: int = 0,
    on_progress: Callable[[int, int, float], None] | None = None,
    settings: TinySettings | None = None,
) -> Path:
    """Folder of the warmed-up start model, made on the first call (about a minute of one core) and found again later.

    `on_progress(step, total, loss)` is called after every update. Same seed, same machine: the same weights. The folder
    appears only when complete, so an interrupted call leaves nothing half made.
    """
    settings = settings or TinySettings()
    folder = start_model_folder(cache_dir, seed, settings)
    if (folder / "config.json").exists():
        return folder
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # at this size two threads are slower than one
    try:
        corpus = generator.noisy_corpus(settings.corpus_rows, seed)
        tokenizer = make_tokenizer(settings, corpus)
        model = make_model(settings, tokenizer, seed)
        examples = loop.encode(tokenizer, corpus, settings.answer_format, 512, settings.prompt_weight)
        report = (lambda event: on_progress(event["step"], event["total"], event["loss"])) if on_progress else None
        summary = loop.train(model, tokenizer, examples, replace(settings.sft, seed=seed), report)
        if summary["failed"]:
            raise RuntimeError(f"the warm start failed: {summary['stop_reason']}")
        return loop.save(model, tokenizer, folder)
    finally:
        torch.set_num_threads(threads)
