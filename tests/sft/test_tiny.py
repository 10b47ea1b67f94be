from dataclasses import replace

import pytest
import torch

from areal_gsm8k.data import prompts
from areal_gsm8k.data.generator import generate, noisy_corpus
from areal_gsm8k.sft import loop, tiny

SETTINGS = tiny.TinySettings(corpus_rows=90, sft=replace(tiny.TinySettings().sft, max_steps=3, batch_size=4))


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.make_tokenizer(tiny.TinySettings(), noisy_corpus(600, seed=1))


def test_digits_are_split_singly_and_words_are_whole(tokenizer):
    tokens = [tokenizer.decode([token]) for token in tokenizer("total <<12+5=17>>17\n#### 17").input_ids]
    assert tokens == ["total", " <<", *"12+5=17", ">>", *"17", "\n", "####", " ", *"17"]


def test_any_text_survives_the_tokenizer(tokenizer):
    for text in ("h\u00e9llo \U0001f600  x\n\t $12,345.67", "\u65e5\u672c ####", ""):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_prompts_and_solutions_stay_short(tokenizer):
    rows = generate("dev", 150, seed=1)
    prompt_lengths = [len(prompts.prompt_ids(tokenizer, row["question"], "hash")) for row in rows]
    answer_lengths = [len(prompts.completion_ids(tokenizer, row["answer"], "hash")) for row in rows]
    assert max(prompt_lengths) <= 45
    assert max(answer_lengths) <= 48  # the recipe's max_new_tokens


def test_model_has_the_recipes_shape(tokenizer):
    model = tiny.make_model(tiny.TinySettings(), tokenizer, seed=0)
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (64, 3, 192)
    assert (config.num_attention_heads, config.num_key_value_heads) == (4, 2)
    assert 150_000 < sum(parameter.numel() for parameter in model.parameters()) < 200_000
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.get_input_embeddings().weight.std().item() == pytest.approx(0.08, rel=0.05)
    assert config.eos_token_id == tokenizer.eos_token_id


def test_start_model_is_made_once_and_reproducibly(tmp_path):
    threads, steps = torch.get_num_threads(), []
    folder = tiny.start_model(tmp_path / "a", 1, lambda step, total, loss: steps.append((step, total, loss)), SETTINGS)
    assert [step[:2] for step in steps] == [(1, 3), (2, 3), (3, 3)]
    assert torch.get_num_threads() == threads
    assert tiny.start_model(tmp_path / "a", 1, lambda *_: steps.append("again"), SETTINGS) == folder
    assert len(steps) == 3
    twin = tiny.start_model(tmp_path / "b", 1, settings=SETTINGS)
    for name in ("model.safetensors", "tokenizer.json"):
        assert (twin / name).read_bytes() == (folder / name).read_bytes()
    other = tiny.start_model(tmp_path / "a", 2, settings=SETTINGS)
    assert (other / "model.safetensors").read_bytes() != (folder / "model.safetensors").read_bytes()


def test_the_cache_follows_settings_and_seed():
    prints = {
        tiny.fingerprint(settings, seed) for settings in (SETTINGS, replace(SETTINGS, layers=2)) for seed in (0, 1)
    }
    assert len(prints) == 4
    assert tiny.fingerprint(SETTINGS, 0) in prints


def test_an_interrupted_warm_start_leaves_nothing(tmp_path):
    threads = torch.get_num_threads()

    def interrupt(step, *_):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.start_model(tmp_path, 1, interrupt, SETTINGS)
    assert list(tmp_path.iterdir()) == []
    assert torch.get_num_threads() == threads


def test_a_failed_warm_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train", lambda *_: {"failed": True, "stop_reason": "loss nan at step 7"})
    with pytest.raises(RuntimeError, match="the warm start failed: loss nan at step 7"):
        tiny.start_model(tmp_path, 1, settings=SETTINGS)
    assert list(tmp_path.iterdir()) == []
