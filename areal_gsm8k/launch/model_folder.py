"""Checks a folder given as `actor.path` before anything is started: is it the recipe's model, and whole in itself?

    ./run train --config configs/models/qwen2.5-0.5b.yaml actor.path=FOLDER --dry-run

A tokenizer or a chat template of another model loads without a word and then trains on nonsense.
"""

import json
import re
from pathlib import Path

from areal_gsm8k.config.compose import Plan
from areal_gsm8k.config.schema import ConfigError
from areal_gsm8k.plan.memory import model_config

CONTROL_TOKEN = re.compile(r"<\|\w+\|>|<(?:start|end)_of_turn>")
TEMPLATE_FILE = "chat_template.jinja"


def check(plan: Plan) -> None:
    """Raises ConfigError. A hub name is not looked at: what the hub has under it belongs together."""
    folder = Path(plan.get("actor.path"))
    if not (folder / "config.json").exists():
        return
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = _read(folder / "tokenizer_config.json")
        vocabulary, added = _vocabulary(_read(folder / "tokenizer.json"))
    except ValueError as broken:
        raise ConfigError(f"actor.path={str(folder)!r}: a JSON file of it is broken ({broken}).") from None
    _check_recipe(plan, folder, config)
    size = config.get("text_config", config).get("vocab_size")
    if vocabulary and size and max(vocabulary.values()) >= size:
        raise ConfigError(
            f"actor.path={str(folder)!r}: tokenizer.json has ids up to {max(vocabulary.values())}, and the model's "
            f"vocab_size is {size}: it is another model's tokenizer. Put the model's own there."
        )
    file = folder / TEMPLATE_FILE
    template = file.read_text(encoding="utf-8") if file.exists() else str(settings.get("chat_template", ""))
    if vocabulary and (missing := sorted(set(CONTROL_TOKEN.findall(template)) - vocabulary.keys() - added.keys())):
        raise ConfigError(
            f"actor.path={str(folder)!r}: the chat template writes {missing[0]}, which the tokenizer does not know: it "
            "is another model's template. Put the model's own there."
        )


def _check_recipe(plan: Plan, folder: Path, config: dict) -> None:
    """The folder must hold a model of the recipe's kind and vocabulary, where we know these."""
    named = plan.recipe_model
    if not named or named not in model_config.known():
        return
    wanted = model_config.known()[named]
    for key in ("model_type", "vocab_size"):
        if config.get(key) != wanted[key]:
            raise ConfigError(
                f"actor.path={str(folder)!r} is not the recipe's model: {key} is {config.get(key)!r}, that of {named} "
                f"{wanted[key]!r}. Give a folder of {named}, or the recipe of that model: `gsm8k recipes` lists them."
            )


def _read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _vocabulary(tokenizer: dict) -> tuple[dict[str, int], dict[str, int]]:
    """Ids by token of a tokenizer.json: its vocabulary, {} for kinds that list it otherwise, and the added tokens.

    Added ones may lie beyond the model's rows without being another model's: Gemma 3's small models lack the image's.
    """
    listed = tokenizer.get("model", {}).get("vocab", {})
    added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}
    return (listed if isinstance(listed, dict) else {}), added
