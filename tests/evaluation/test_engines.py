"""The engines that run here, hf and embedded, on real little models: the same greedy completions."""

import json
import shutil

import pytest
import torch

from areal_gsm8k.children import ChildDied
from areal_gsm8k.evaluation import EvaluationError, EvaluationSettings, engines, evaluate, items
from areal_gsm8k.evaluation.engine import CompletionRequest
from areal_gsm8k.evaluation.model import find
from areal_gsm8k.evaluation.server import started
from areal_gsm8k.evaluation.transformers_engine import TransformersEngine
from areal_gsm8k.runs.files import read_lines
from areal_gsm8k.serve.process import ServerProcess

ROWS = items.load("generated", "dev", n=24)


def completions(folder):
    columns = ("completion", "completion_tokens", "truncated", "lenient")
    lines = read_lines(folder / "completions.jsonl")[0]
    return {(line["row"], line["sample"]): [line[column] for column in columns] for line in lines}


@pytest.mark.slow
def test_greedy_completions_are_the_same_from_hf_and_embedded(start_model, tmp_path):
    """hf in two batches, one of them of another size; embedded started here, then the same server at a URL."""
    asked = {"answer_format": "hash", "max_new_tokens": 30}
    plain = evaluate(start_model, ROWS, EvaluationSettings(engine="hf", batch_size=17, **asked), tmp_path / "hf")
    assert 0 < plain.accuracy < 1 and plain.accuracy_strict <= plain.accuracy
    assert 0 < plain.truncated < 1  # some solutions are longer than 30 tokens
    embedded = evaluate(start_model, ROWS, EvaluationSettings(engine="embedded", **asked), tmp_path / "embedded")
    assert completions(tmp_path / "hf") == completions(tmp_path / "embedded")
    assert embedded.accuracy == plain.accuracy and embedded.prompt_ids_hash == plain.prompt_ids_hash
    with ServerProcess(start_model, tmp_path / "server.log") as server:
        server.wait_healthy(60)
        at_url = evaluate(start_model, ROWS, EvaluationSettings(url=server.url, **asked), tmp_path / "url")
    assert at_url.engine == "sglang" and at_url.served_model == str(start_model)
    assert completions(tmp_path / "url") == completions(tmp_path / "hf")


@pytest.mark.slow
def test_samples_differ_and_repeat(start_model, tmp_path):
    settings = EvaluationSettings(engine="hf", answer_format="hash", k=4, temperature=1.0, max_new_tokens=30)
    rows = items.load("generated", "dev", n=4)
    for name in ("first", "again"):
        evaluate(start_model, rows, settings, tmp_path / name)
    first = completions(tmp_path / "first")
    assert len(first) == 16 and first == completions(tmp_path / "again")
    assert any(first[row, 0] != first[row, 1] for row, _ in first)


def test_the_dtype_is_the_one_asked_for_and_on_the_card(untrained_model, tmp_path):
    """By both engines; and completions of another dtype are not gone on with."""
    model, asked = find(str(untrained_model)), {"answer_format": "hash", "max_new_tokens": 4}
    for dtype, meant in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        settings = EvaluationSettings(engine="hf", dtype=dtype, **asked)
        assert TransformersEngine(model, settings).model.dtype == meant
        for kind in ("hf", "embedded"):
            settings = EvaluationSettings(engine=kind, dtype=dtype, **asked)
            card = evaluate(untrained_model, items.load("generated", "dev", n=2), settings, tmp_path / kind / dtype)
            assert card.dtype == str(meant).removeprefix("torch.") and card.errors == 0
    with started("embedded", model, tmp_path / "log", 4, "bfloat16") as server:
        assert "--dtype bfloat16" in " ".join(server.command)
    settings = EvaluationSettings(engine="hf", **asked)
    with pytest.raises(EvaluationError, match="dtype"):
        evaluate(untrained_model, items.load("generated", "dev", n=2), settings, tmp_path / "hf" / "bfloat16")
    for wrong in ({"dtype": "bf16"}, {"dtype": "bfloat16", "url": "http://127.0.0.1:1"}):
        with pytest.raises(EvaluationError, match="dtype"):
            EvaluationSettings(**wrong)


def requests(lengths, limit=6):
    return [CompletionRequest(row, 0, [5 + row] * length, limit, seed=row) for row, length in enumerate(lengths)]


def answers(model, settings, asked):
    found = []
    TransformersEngine(model, settings).answer(asked, found.extend)
    return {request.row: answer for request, answer in found}


@pytest.fixture
def old_model(untrained_model, tmp_path):
    """A GPT-2: learned positions, 64 of them, and a tokenizer with neither chat template nor pad token."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(untrained_model)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "gpt2", save_jinja_files=False)
    config = json.loads((tmp_path / "gpt2" / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (tmp_path / "gpt2" / "tokenizer_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}
    config = GPT2Config(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, bos_token_id=None, **shape)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    return find(str(tmp_path / "gpt2"))


def test_an_old_model_without_template_and_pad_token(old_model, tmp_path):
    assert old_model.tokenizer.pad_token_id is None and not old_model.tokenizer.chat_template
    assert old_model.context_length == 64
    alone = {}
    settings = EvaluationSettings(engine="hf")
    for request in requests([3, 9, 14]):
        alone |= answers(old_model, settings, [request])
    assert answers(old_model, settings, requests([3, 9, 14])) == alone  # the padding changes nothing
    assert len({answer.text for answer in alone.values()}) > 1
    (tmp_path / "dev.jsonl").write_text('{"question": "6*7?", "answer": "42"}\n{"question": "1?", "answer": "1"}\n')
    cards = [
        evaluate(
            old_model.folder,
            items.load(tmp_path),
            EvaluationSettings(engine=kind, answer_format="hash"),
            tmp_path / kind,
        )
        for kind in ("hf", "embedded")
    ]
    assert [card.errors for card in cards] == [0, 0] and cards[0].truncated > 0  # by the context, not by 512 tokens
    assert completions(tmp_path / "hf") == completions(tmp_path / "embedded")


def test_the_models_own_generation_defaults_do_not_apply(untrained_model, tmp_path):
    settings = EvaluationSettings(engine="hf")
    before = answers(find(str(untrained_model)), settings, requests([4, 5], limit=12))
    model = shutil.copytree(untrained_model, tmp_path / "model")
    file = model / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"repetition_penalty": 9.0, "min_new_tokens": 12}))
    assert answers(find(str(model)), settings, requests([4, 5], limit=12)) == before


def test_logits_that_are_not_finite_are_errors(untrained_model, tmp_path):
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(untrained_model, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    for temperature in (0.0, 1.0):
        found = answers(find(str(model)), EvaluationSettings(engine="hf", temperature=temperature), requests([4]))
        assert found[0].error == "the model's logits are not finite" and found[0].text is None


def test_a_folder_that_transformers_cannot_load(untrained_model, tmp_path):
    model = shutil.copytree(untrained_model, tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(EvaluationError, match="cannot be loaded as a causal language model"):
        TransformersEngine(find(str(model)), EvaluationSettings(engine="hf"))
    with pytest.raises(ChildDied, match="embedded server exited"):
        evaluate(model, ROWS, EvaluationSettings(engine="embedded"), tmp_path / "out")


def test_auto_on_this_machine(monkeypatch):
    expected = {"cpu": "embedded", "mps": "hf", "cuda": "hf"}
    for device, kind in expected.items():
        monkeypatch.setattr("areal_gsm8k.sft.loop.pick_device", lambda _, device=device: device)
        monkeypatch.setattr(engines, "find_spec", lambda _: None)
        assert engines.choose(EvaluationSettings()) == kind
    monkeypatch.setattr(engines, "find_spec", lambda name: name == "sglang")
    assert engines.choose(EvaluationSettings()) == "sglang"
    assert engines.choose(EvaluationSettings(engine="vllm")) == "vllm"
    with pytest.raises(EvaluationError, match="engine vllm is not installed"):
        engines.check_installed("vllm", EvaluationSettings(engine="vllm"))
