import json
import math
import multiprocessing
import signal
import time
from dataclasses import replace

import pytest
import torch

from areal_gsm8k.data import generator
from areal_gsm8k.runs import recovery
from areal_gsm8k.sft import loop, tiny
from areal_gsm8k.sft.command import StepLog
from areal_gsm8k.sft.loop import Example, SFTSettings, batches, collate, encode, learning_rate, loss_sum, save, train

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
    return generator.generate("train", 60, seed=1)


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
        loop.pick_device("tpu")


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


class Killed(BaseException):
    pass


@pytest.mark.parametrize("killed_in", [1, 2, 3, 5])  # before a recovery point, in its making (2, 4), between two
def test_a_resumed_training_repeats_the_uninterrupted_one(tokenizer, examples, tmp_path, monkeypatch, killed_in):
    settings = replace(FAST, max_steps=6, gradient_accumulation_steps=2, checkpoint_steps=2)

    def fresh():
        model = tiny.make_model(SETTINGS, tokenizer, seed=0)
        model.config.attention_dropout = model.model.layers[0].self_attn.attention_dropout = 0.5
        return model

    whole, events = fresh(), []
    summary = train(whole, tokenizer, examples, settings, events.append)

    def die(event):
        if event["step"] == killed_in:
            raise Killed

    def die_halfway(unfinished, point, state):
        assert state["step"] == 2 and (unfinished / "training.pt").exists()
        raise Killed

    with monkeypatch.context() as patch:
        if killed_in == 2:
            patch.setattr(recovery, "finish", die_halfway)
        with pytest.raises(Killed):
            train(fresh(), tokenizer, examples, settings, None if killed_in == 2 else die, tmp_path)
    resumed, again = fresh(), []
    found = train(resumed, tokenizer, examples, settings, again.append, tmp_path)
    begun = {1: 1, 2: 1, 3: 3, 5: 5}[killed_in]
    assert [event["step"] for event in again] == list(range(begun, 7))
    for name in ("loss", "lr", "grad_norm", "tokens"):
        assert [event[name] for event in again] == [event[name] for event in events[begun - 1 :]]
    assert all(torch.equal(*pair) for pair in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert (found["steps"], found["loss"], found["tokens"]) == (6, summary["loss"], summary["tokens"])


def test_a_training_out_of_time_goes_on_with_more(model, tokenizer, examples, tmp_path):
    settings = replace(FAST, max_steps=3, max_time=0.0)
    first = train(model, tokenizer, examples, settings, None, tmp_path)
    assert (first["steps"], first["stop_reason"]) == (1, "max_time of 0 s reached")
    rest = train(model, tokenizer, examples, replace(settings, max_time=None), None, tmp_path)
    assert (rest["steps"], rest["stop_reason"]) == (3, loop.ALL_DONE)
    assert rest["seconds"] > first["seconds"]


def test_products_in_bfloat16_where_asked_for(model, tokenizer, examples):
    """On a CPU too: nearly the losses of float32, and weights that stay float32."""
    losses: dict[str, list[float]] = {}
    for dtype in ("auto", "float32", "bfloat16"):
        begun, events = tiny.make_model(SETTINGS, tokenizer, seed=0), losses.setdefault(dtype, [])
        train(begun, tokenizer, examples, replace(FAST, dtype=dtype), lambda event, to=events: to.append(event["loss"]))
        assert {weight.dtype for weight in begun.parameters()} == {torch.float32}
    assert losses["auto"] == losses["float32"] != losses["bfloat16"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.01)
    with pytest.raises(ValueError, match="dtype is 'fp8'"):
        train(model, tokenizer, examples, replace(FAST, dtype="fp8"))


def test_bf16_by_itself_only_on_a_gpu_with_units_for_it(monkeypatch):
    assert not loop.in_bf16("cpu") and not loop.in_bf16("mps")
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, there=there: there)
        assert loop.in_bf16("cuda") is there


def test_kill_9_and_resume(tokenizer, examples, tmp_path):
    settings = replace(FAST, max_steps=60, checkpoint_steps=10)
    whole, log = [], StepLog(tmp_path / "train_log.jsonl")
    train(tiny.make_model(SETTINGS, tokenizer, seed=0), tokenizer, examples, settings, whole.append)

    def run():
        train(tiny.make_model(SETTINGS, tokenizer, seed=0), tokenizer, examples, settings, log.add, tmp_path)

    child = multiprocessing.get_context("fork").Process(target=run)  # a fork has everything imported
    child.start()
    try:
        while child.is_alive() and not (tmp_path / "recovery" / "step_00020").exists():
            time.sleep(0.002)
    finally:
        child.kill()
        child.join()
    assert child.exitcode == -signal.SIGKILL
    run()
    rows = [json.loads(line) for line in (tmp_path / "train_log.jsonl").open()]
    assert [row["step"] for row in rows] == list(range(1, 61))
    assert [row["loss"] for row in rows] == [event["loss"] for event in whole]
