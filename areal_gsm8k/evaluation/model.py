"""The model of an evaluation: from a name as typed to a folder, a tokenizer, a context length and a checksum.

find("runs/tiny-grpo/1")                 # a run of ours: checkpoints/best, else checkpoints/last
find("Qwen/Qwen2.5-0.5B-Instruct")       # the hub, or its copy in the local cache
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from areal_gsm8k.data.hub import HubError, hub_or_cache, is_hub_id
from areal_gsm8k.evaluation.settings import EvaluationError

IN_A_RUN = ("checkpoints/best", "checkpoints/last", "model")  # GRPO's two, then what the SFT baselines write
WEIGHTS = ("*.safetensors", "*.bin")
TINY_BYTES = 50_000_000
TOKENIZER = ("tokenizer*", "vocab*", "*.model")
FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
CONTEXT_LEFT_FREE = 2  # SGLang's and the embedded server's: a completion ends so many tokens before the context does
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length")


@dataclass(frozen=True)
class Model:
    """name: as typed. folder: in Hugging Face format. checkpoint: which one of a run, None for any other folder."""

    name: str
    folder: Path
    checkpoint: str | None = None

    @property
    def slug(self) -> str:
        """A folder name: the last two parts of the name."""
        return re.sub(r"[^\w.-]+", "-", "-".join(Path(self.name).expanduser().absolute().parts[-2:])).strip("-.")

    @cached_property
    def tokenizer(self):
        """The folder's tokenizer. Raises EvaluationError when there is none that can be read."""
        from transformers import AutoTokenizer

        if not any(file for pattern in TOKENIZER for file in self.folder.glob(pattern)):
            # transformers would make an empty one of the model's kind
            raise EvaluationError(f"{self.folder}: holds no tokenizer; save the model's with it")
        try:
            return AutoTokenizer.from_pretrained(self.folder)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise EvaluationError(f"{self.folder}: its tokenizer cannot be read ({_line(error)})") from None

    @cached_property
    def config(self) -> dict:
        return json.loads((self.folder / "config.json").read_text(encoding="utf-8"))

    @cached_property
    def context_length(self) -> int | None:
        """Longest prompt and completion, in tokens; None where the configuration sets no bound."""
        text = self.config.get("text_config", self.config)
        return next((text[key] for key in CONTEXT_KEYS if text.get(key)), None)

    def room(self, prompt_tokens: int, wanted: int) -> int:
        """Tokens a completion may have behind such a prompt, at most `wanted`; below 1 when there is no room."""
        context = self.context_length
        return min(wanted, context - CONTEXT_LEFT_FREE - prompt_tokens) if context else wanted

    @property
    def weight_files(self) -> list[Path]:
        return sorted(file for pattern in WEIGHTS for file in self.folder.glob(pattern))

    @property
    def cpu_threads(self) -> int:
        """Torch threads to run it with on a CPU: one a core, or one where the matrices are too small to be shared."""
        tiny = sum(file.stat().st_size for file in self.weight_files) < TINY_BYTES
        return 1 if tiny else os.cpu_count() or 1

    @cached_property
    def checksum(self) -> str:
        """sha256 over config.json and the weight files, so that a changed checkpoint is another model."""
        digest = hashlib.sha256()
        for file in [self.folder / "config.json", *self.weight_files]:
            with file.open("rb") as content:
                digest.update(file.name.encode() + hashlib.file_digest(content, "sha256").digest())
        return digest.hexdigest()


def find(name: str) -> Model:
    """The model of a run directory, a Hugging Face folder or a hub id. Raises EvaluationError."""
    local = Path(name).expanduser()
    if (local / "config.json").is_file():
        return Model(name, local)
    for inside in IN_A_RUN:
        if (local / inside / "config.json").is_file():
            return Model(name, local / inside, inside)
    if local.is_dir():
        raise EvaluationError(
            f"{name}: holds neither a model (config.json) nor a run of ours with one ({', '.join(IN_A_RUN)}); "
            "give a folder with a model, or a run that has saved one"
        )
    if local.exists() or not is_hub_id(name):
        raise EvaluationError(
            f"{name}: no such folder, and not a hub id either (those look like Qwen/Qwen2.5-0.5B-Instruct)"
        )
    return Model(name, _download(name))


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        with hub_or_cache(name, "model") as answered:
            folder = Path(snapshot_download(name, allow_patterns=FILES))
            if not any(folder.glob("*.safetensors")):  # an old model
                folder = Path(snapshot_download(name, allow_patterns=[*FILES, "*.bin"]))
            return folder
    except HubError as error:
        raise EvaluationError(f"{name}: no such folder here, and {error}") from None
    except (OSError, ValueError) as error:
        reason = _line(error) if answered else "the hub does not answer and there is no copy in the cache"
        raise EvaluationError(f"{name}: no such folder here, and {reason}") from None


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
