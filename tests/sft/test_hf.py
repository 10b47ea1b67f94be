"""transformers.Trainer trains as the plain loop does; the command line of both is in test_sft.py."""

import math
from dataclasses import replace

import pytest
import torch

from areal_gsm8k.data import generator
from areal_gsm8k.sft import hf, loop, tiny

SETTINGS = tiny.TinySettings(hidden_size=16, layers=1, heads=2, kv_heads=1, intermediate_size=16)
# clipping bites at 0.3, so a gradient of another scale would show
FAST = loop.SFTSettings(lr=3e-3, max_steps=10, batch_size=4, max_grad_norm=0.3, device="cpu")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def rows():
    return generator.generate("train", 22, seed=1)  # 6 batches an epoch, the last one short: updates cross its end


@pytest.fixture(scope="module")
def tokenizer(rows):
    return tiny.make_tokenizer(SETTINGS, rows)


@pytest.fixture(scope="module")
def examples(tokenizer, rows):
    return loop.encode(tokenizer, rows, "hash", 200)


def fresh(tokenizer):
    return tiny.make_model(SETTINGS, tokenizer, seed=0)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_its_losses_are_those_of_the_plain_loop(tokenizer, examples, tmp_path, accumulation):
    settings = replace(FAST, gradient_accumulation_steps=accumulation)
    plain, standard = [], []
    one, other = fresh(tokenizer), fresh(tokenizer)
    first = loop.train(one, tokenizer, examples, settings, plain.append)
    second = hf.train(other, tokenizer, examples, settings, standard.append, tmp_path)
    assert len(plain) == len(standard) == 10
    for name, tolerance in [
        ("step", 0),
        ("total", 0),
        ("tokens", 0),
        ("lr", 1e-9),
        ("loss", 1e-3),
        ("grad_norm", 1e-3),
    ]:
        assert [event[name] for event in standard] == pytest.approx([event[name] for event in plain], abs=tolerance)
    assert plain[-1]["loss"] < plain[0]["loss"]
    assert max(event["grad_norm"] for event in plain) > 2 * FAST.max_grad_norm
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4)
    assert first.keys() == second.keys()
    assert second["loss"] == standard[-1]["loss"]


def test_a_model_that_ignores_the_token_count_gets_the_same_loss(tokenizer, examples, tmp_path):
    settings = replace(FAST, gradient_accumulation_steps=2, max_steps=2)
    plain, standard = [], []
    loop.train(fresh(tokenizer), tokenizer, examples, settings, plain.append)
    model = fresh(tokenizer)
    model.accepts_loss_kwargs = False  # as older architectures of the library
    hf.train(model, tokenizer, examples, settings, standard.append, tmp_path)
    assert [event["loss"] for event in standard] == pytest.approx([event["loss"] for event in plain], abs=1e-5)


def test_it_goes_on_from_the_newest_complete_checkpoint(tokenizer, examples, tmp_path):
    settings = replace(FAST, gradient_accumulation_steps=2, max_steps=7, checkpoint_steps=2)
    whole, again = [], []
    hf.train(fresh(tokenizer), tokenizer, examples, settings, whole.append, tmp_path / "whole")

    def die(event):
        if event["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hf.train(fresh(tokenizer), tokenizer, examples, settings, die, tmp_path)
    (tmp_path / "recovery" / "checkpoint-6").mkdir()  # killed while writing it
    (tmp_path / "recovery" / "checkpoint-6" / "trainer_state.json").write_text('{"epo')
    summary = hf.train(fresh(tokenizer), tokenizer, examples, settings, again.append, tmp_path)
    assert [event["step"] for event in again] == [5, 6, 7]
    for name in ("loss", "lr", "grad_norm", "tokens"):
        assert [event[name] for event in again] == [event[name] for event in whole[4:]]
    assert summary["tokens"] == whole[-1]["tokens"]


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_what_is_no_number_stops_before_the_weights(tokenizer, examples, tmp_path, monkeypatch, broken):
    model = fresh(tokenizer)
    if broken == "loss":
        monkeypatch.setattr(hf, "token_mean", lambda outputs, *_, **__: outputs.logits.sum() * math.inf)
    else:
        model.lm_head.weight.register_hook(lambda gradient: gradient * math.nan)
    before = [parameter.clone() for parameter in model.parameters()]
    summary = hf.train(model, tokenizer, examples, FAST, print, tmp_path)
    assert summary["failed"] and summary["steps"] == 0
    assert broken in summary["stop_reason"] and "at step 1; lower the learning rate" in summary["stop_reason"]
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
