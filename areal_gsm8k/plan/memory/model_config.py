"""Find a model's config.json: in a folder, on the hub, in the hub's cache, or in our table of well-known models.

The table (model_configs.json) is for planning without a network: public facts of the models our recipes name, copied
from their config.json files.
"""

import json
from pathlib import Path

from areal_gsm8k.data.hub import HubError, hub_or_cache, is_hub_id
from areal_gsm8k.plan.memory.model_shape import ShapeError

TABLE = Path(__file__).with_name("model_configs.json")


def known() -> dict[str, dict]:
    """config.json contents by hub id; an entry that is a name stands for the model of that name."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    return {name: table[entry] if isinstance(entry, str) else entry for name, entry in table.items()}


def read(path: str) -> tuple[dict, str]:
    """(content, its source). Raises ShapeError with one line when there is no config.json to read."""
    if Path(path).is_dir() or not is_hub_id(path):
        return _from_folder(Path(path)), str(Path(path) / "config.json")
    if path in known():
        return known()[path], "our table"
    try:
        with hub_or_cache(path, "model") as answered:
            from huggingface_hub import hf_hub_download

            file = hf_hub_download(path, "config.json")
    except HubError as error:
        raise ShapeError(f"actor.path={path}: {error}. Check the spelling, or give a folder.") from None
    except OSError as error:  # not cached, no such file, not allowed
        reason = "is in neither the cache nor our table, and the hub does not answer"
        if answered:
            reason = f"has no config.json that can be read ({type(error).__name__})"
        raise ShapeError(
            f"actor.path={path} {reason}. Download config.json into a folder and plan with actor.path=FOLDER."
        ) from None
    return json.loads(Path(file).read_text(encoding="utf-8")), "the hub" if answered else "the hub's cache"


def of_tiny() -> tuple[dict, str]:
    """The same for `actor.path=tiny`, the model made from scratch, which need not exist yet."""
    from areal_gsm8k.sft.tiny import TinySettings

    made = TinySettings()
    sizes = {"hidden_size": made.hidden_size, "num_hidden_layers": made.layers, "num_attention_heads": made.heads}
    sizes |= {"num_key_value_heads": made.kv_heads, "intermediate_size": made.intermediate_size}
    return sizes | {"model_type": "qwen2", "vocab_size": made.vocab_size, "tie_word_embeddings": True}, "made by us"


def _from_folder(folder: Path) -> dict:
    file = folder / "config.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        missing = "has no config.json" if folder.is_dir() else "does not exist"
        raise ShapeError(
            f"actor.path={folder} {missing}: give a model folder or a hub id such as Qwen/Qwen2.5-0.5B."
        ) from None
    except ValueError as broken:
        raise ShapeError(f"{file} is not JSON: {broken}") from None
