"""A folder that is not the model it is taken for is refused before anything is started."""

import json
from pathlib import Path

import pytest

from areal_gsm8k.config.compose import make_plan
from areal_gsm8k.config.schema import ConfigError
from areal_gsm8k.launch import model_folder
from areal_gsm8k.paths import CONFIGS
from areal_gsm8k.plan.memory import model_config

RECIPE = CONFIGS / "models" / "qwen2.5-0.5b.yaml"
TEMPLATE = "<|im_start|>user\n{{ messages }}<|im_end|>\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Without weights: nothing here reads them."""
    config = model_config.known()["Qwen/Qwen2.5-0.5B-Instruct"]
    added = [{"content": f"<|im_{name}|>", "id": 10 + place} for place, name in enumerate(("start", "end"))]
    files = {
        "config.json": config, "tokenizer.json": {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": added},
        "tokenizer_config.json": {"chat_template": TEMPLATE},
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def check(folder, *files) -> None:
    model_folder.check(make_plan([*files, Path("scales/cpu")], [f"actor.path={folder}"], 0))


def change(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_the_recipes_model_passes(folder):
    check(folder, RECIPE)
    change(folder / "config.json", num_hidden_layers=2)  # a smaller one of its kind
    check(folder, RECIPE)


@pytest.mark.parametrize("changes", [{"vocab_size": 49152}, {"model_type": "llama"}], ids=["vocabulary", "kind"])
def test_another_model_under_a_recipe(folder, changes):
    change(folder / "config.json", **changes)
    with pytest.raises(ConfigError) as refused:
        check(folder, RECIPE)
    (key, value), told = *changes.items(), str(refused.value)
    assert f"{key} is {value!r}" in told and "Qwen/Qwen2.5-0.5B-Instruct" in told and "gsm8k recipes" in told
    check(folder)  # without a recipe it may be any model


def test_another_models_tokenizer(folder):
    change(folder / "config.json", vocab_size=11)
    check(folder)  # an added token beyond the rows, as Gemma 3's of images
    change(folder / "config.json", vocab_size=1)
    with pytest.raises(ConfigError, match="ids up to 1, and the model's vocab_size is 1: it is another model's"):
        check(folder)


@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.jinja"])
def test_another_models_template(folder, place):
    foreign = "<|start_header_id|>user<|end_header_id|>{{ messages }}"
    if place.endswith(".json"):
        change(folder / place, chat_template=foreign)
    else:
        (folder / place).write_text(foreign)
    with pytest.raises(ConfigError, match=r"writes <\|end_header_id\|>, which the tokenizer does not know"):
        check(folder, RECIPE)


def test_a_broken_file_is_named(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match="a JSON file of it is broken"):
        check(folder, RECIPE)


def test_a_hub_name_is_not_looked_at():
    check("Qwen/Qwen2.5-1.5B-Instruct", RECIPE)
