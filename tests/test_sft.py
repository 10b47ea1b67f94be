import importlib
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from areal_gsm8k import problems, sft, tiny
from areal_gsm8k.sft import Example, SFTSettings, batches, collate, encode, learning_rate, loss_sum, save, train

ROOT = Path(__file__).parents[1]
SETTINGS = tiny.TinySettings(hidden_size=16, layers=1, heads=2, kv_heads=1, intermediate_size=16)
FAST = SFTSettings(lr=3e-3, max_steps=4, batch_size=4, device="cpu")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def rows():
    return problems.generate("train", 60, seed=1)


@pytest.fixture(scope="module")
def tokenizer(rows):
    return tiny.make_tokenizer(SETTINGS, rows)


@pytest.fixture(scope="module")
def examples(tokenizer, rows):
    return encode(tokenizer, rows, "hash", 200)


@pytest.fixture
def model(tokenizer):
    return tiny.make_model(SETTINGS, tokenizer, seed=0)


def test_only_the_completion_is_learnt(tokenizer, rows):
    for weight in (0.0, 0.1):
        example = encode(tokenizer, rows[:1], "hash", 200, prompt_weight=weight)[0]
        learnt = [token for token, w in zip(*example, strict=True) if w == 1.0]
        assert tokenizer.decode(learnt) == rows[0]["answer"] + "<|eos|>"
        assert set(example.weights) == {weight, 1.0}
        assert len(example.input_ids) == len(example.weights)


def test_long_examples_are_left_out_not_cut(tokenizer, rows):
    lengths = sorted(len(example.input_ids) for example in encode(tokenizer, rows, "hash", 200))
    kept = encode(tokenizer, rows, "hash", lengths[10])
    assert max(len(example.input_ids) for example in kept) == lengths[10]
    assert len(kept) == sum(length <= lengths[10] for length in lengths)
    with pytest.raises(ValueError, match=f"longest has {lengths[-1]} tokens"):
        encode(tokenizer, rows, "hash", 5)


def test_loss_is_the_weighted_mean_of_unpadded_token_losses(model):
    pair = [Example([5, 6, 7, 8, 9], [0, 0, 1, 1, 0.5]), Example([5, 9, 4], [0, 1, 1])]
    expected = 0.0
    for ids, weights in pair:
        logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected -= sum(w * logprobs[t - 1, token] for t, (token, w) in enumerate(zip(ids, weights, strict=True)) if t)
    found = loss_sum(model, *collate(pair, 0, "cpu"))
    assert torch.allclose(found, expected, atol=1e-4)


def test_accumulated_batches_take_the_step_of_one_big_batch(model, tokenizer, examples):
    twin = tiny.make_model(SETTINGS, tokenizer, seed=0)
    settings = replace(FAST, max_steps=1, schedule="constant", warmup_ratio=0.0)
    few = examples[:8]  # all of them in the one update, in whatever order
    whole = train(model, tokenizer, few, replace(settings, batch_size=8))
    parts = train(twin, tokenizer, few, replace(settings, batch_size=2, gradient_accumulation_steps=4))
    assert whole["loss"] == pytest.approx(parts["loss"], abs=1e-5)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(one, other, atol=2e-4)


def test_it_learns_and_reports_every_step(model, tokenizer, examples):
    events = []
    summary = train(model, tokenizer, examples, replace(FAST, max_steps=30, lr=1e-2), events.append)
    assert [event["step"] for event in events] == list(range(1, 31))
    assert events[-1]["loss"] < 0.7 * events[0]["loss"]
    assert summary["steps"] == 30
    assert summary["loss"] == events[-1]["loss"]
    assert not summary["failed"]
    assert events[-1].keys() == {"step", "total", "loss", "lr", "grad_norm", "tokens", "seconds"}


def test_same_seed_same_weights(tokenizer, examples):
    def weights(seed):
        model = tiny.make_model(SETTINGS, tokenizer, seed=0)
        train(model, tokenizer, examples, replace(FAST, seed=seed))
        return torch.cat([parameter.flatten() for parameter in model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_every_example_comes_once_an_epoch():
    lengths = [5, 9, 5, 7, 1, 3, 8, 2, 6, 4]
    order = batches(lengths, 3, seed=1)
    for _ in range(3):
        epoch = [index for _ in range(4) for index in next(order)]
        assert sorted(epoch) == list(range(10))


def test_neighbours_in_a_batch_have_similar_lengths():
    lengths = [index % 100 for index in range(1600)]
    order = batches(lengths, 10, seed=1)
    spread = [max(found) - min(found) for found in ([lengths[i] for i in next(order)] for _ in range(100))]
    assert sum(spread) / len(spread) < 20


def test_epochs_set_the_number_of_steps(model, tokenizer, examples):
    summary = train(model, tokenizer, examples[:10], replace(FAST, max_steps=None, epochs=2.0))
    assert summary["total_steps"] == summary["steps"] == 5


def test_schedules_warm_up_and_end_at_the_floor():
    for schedule in ("cosine", "linear"):
        settings = SFTSettings(lr=1.0, schedule=schedule, warmup_ratio=0.1)
        rates = [learning_rate(settings, step, 101) for step in range(101)]
        assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
        assert max(rates) == 1.0
        assert rates[-1] == pytest.approx(0.1, abs=0.02)
        assert rates[10:] == sorted(rates[10:], reverse=True)
    with pytest.raises(ValueError, match="'cos'; it must be one of cosine"):
        learning_rate(SFTSettings(schedule="cos"), 50, 100)


def test_a_loss_that_is_no_number_stops_before_the_weights(model, tokenizer, examples):
    before = [parameter.clone() for parameter in model.parameters()]
    broken = [Example(example.input_ids, [math.inf] * len(example.weights)) for example in examples]
    summary = train(model, tokenizer, broken, FAST)
    assert summary["failed"]
    assert summary["steps"] == 0
    assert "at step 1; lower the learning rate" in summary["stop_reason"]
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_max_time_ends_after_the_step_under_way(model, tokenizer, examples):
    summary = train(model, tokenizer, examples, replace(FAST, max_steps=1000, max_time=0.0))
    assert summary["steps"] == 1
    assert summary["stop_reason"] == "max_time of 0 s reached"
    assert not summary["failed"]


def test_a_device_that_is_not_there():
    with pytest.raises(ValueError, match="device is 'tpu', which is not available here"):
        sft.pick_device("tpu")


def test_saved_model_loads_again_and_replaces_the_old_one(model, tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = save(model, tokenizer, tmp_path / "model")
    (folder / "stale").touch()
    assert save(model, tokenizer, folder) == folder
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    assert not (folder / "stale").exists()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "assistant" in config["chat_template"]
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)
    assert AutoTokenizer.from_pretrained(folder)("Ana has 12.").input_ids == tokenizer("Ana has 12.").input_ids


def test_a_failed_save_leaves_the_old_model(model, tokenizer, tmp_path, monkeypatch):
    folder = save(model, tokenizer, tmp_path / "model")
    before = (folder / "model.safetensors").read_bytes()

    def full_disk(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(tokenizer, "save_pretrained", full_disk)
    with pytest.raises(OSError, match="no space"):
        save(model, tokenizer, folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert (folder / "tokenizer.json").exists()


def script(*arguments):
    import typer

    app = typer.Typer()
    app.command()(importlib.import_module("train_local_simple").main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_script_trains_and_writes_everything(model, tokenizer, tmp_path):
    start = save(model, tokenizer, tmp_path / "start")
    arguments = ["--model", start, "--data", "generated", "--output-dir", tmp_path / "out", "--answer-format", "hash"]
    arguments += [
        "--limit",
        20,
        "--max-steps",
        3,
        "--batch-size",
        2,
        "--gradient-accumulation-steps",
        2,
        "--device",
        "cpu",
    ]
    result = script(*arguments)
    assert result.exit_code == 0, result.output
    log = [json.loads(line) for line in (tmp_path / "out" / "train_log.jsonl").open()]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [event["step"] for event in log] == [1, 2, 3]
    assert (summary["examples"], summary["format"], summary["stop_reason"]) == (20, "hash", "all steps done")
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()
    again = script(*arguments)
    assert "is not empty; choose another, or add --overwrite" in str(again.exit_code) + again.output
    assert script(*arguments, "--overwrite").exit_code == 0
    assert len((tmp_path / "out" / "train_log.jsonl").read_text().splitlines()) == 3


def test_the_script_names_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    for arguments, message in [
        (["--model", tmp_path / "none"], "no such folder, and not a hub id"),
        (["--model", tmp_path, "--data", tmp_path / "none"], "no such file or folder"),
        (["--model", tmp_path], "cannot be loaded as a causal language model"),
        (["--model", tmp_path, "--wandb"], "pip install wandb"),
    ]:
        data = [] if "--data" in arguments else ["--data", "generated", "--limit", 5]
        result = script(*arguments, *data, "--output-dir", tmp_path / "out")
        assert result.exit_code != 0
        assert message in str(result.exit_code) + result.output


def test_neither_areal_nor_sglang_is_imported_and_torch_only_when_used():
    code = "import sys, train_local_simple, areal_gsm8k.tiny; print({'areal', 'sglang', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
