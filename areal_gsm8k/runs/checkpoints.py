"""Model folders in Hugging Face format: complete or absent, and loadable by old versions of transformers.

partial = checkpoints.partial(folder)
model.save_pretrained(partial); tokenizer.save_pretrained(partial)
checkpoints.note_version(partial, 120)  # GRPO: a replay finds the model of a sample by it (replay/kept_models.py)
checkpoints.finish(partial, folder)
"""

import json
import os
import shutil
from pathlib import Path

VERSION = "policy_version.json"  # loaders of models pass over it


def partial(folder: Path) -> Path:
    """The sibling folder to write into; an older one of the same name is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    return unfinished


def finish(unfinished: Path, folder: Path) -> Path:
    """Sync the written folder and put it in the place of `folder`, which is removed only afterwards."""
    _for_old_transformers(unfinished)
    for file in unfinished.rglob("*"):
        if file.is_file():
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
    replaced = folder.with_name(f".{folder.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    unfinished.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)
    return folder


def note_version(folder: Path, version: int) -> None:
    """Write down the policy version of the folder's model: how many updates made it."""
    (folder / VERSION).write_text(json.dumps({"policy_version": version}) + "\n", encoding="utf-8")


def version(folder: Path) -> int | None:
    """The policy version of the folder's model; None where that was not noted."""
    try:
        return json.loads((folder / VERSION).read_text(encoding="utf-8"))["policy_version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _for_old_transformers(folder: Path) -> None:
    """transformers 5 renamed two fields of tokenizer_config.json; older versions know only the old names."""
    file = folder / "tokenizer_config.json"
    if not file.exists():
        return
    config = json.loads(file.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        config["additional_special_tokens"] = config.pop("extra_special_tokens", [])
        file.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
