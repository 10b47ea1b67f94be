"""The engine in-process: architectures, the slab's moves, shared prefills, failures, weights."""

import random

import pytest
import torch
import transformers
from hf_reference import Reference, save_model

from areal_gsm8k.serve.engine import Engine
from areal_gsm8k.serve.kv_slab import Slab
from areal_gsm8k.serve.model import ModelError
from areal_gsm8k.serve.params import SamplingParams
from areal_gsm8k.serve.weights import WeightsError

COMMON = {"vocab_size": 150, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0, "initializer_range": 0.3}
SMALL = COMMON | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
ARCHITECTURES = {
    "gpt2": ("GPT2", COMMON | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "gpt_neo_local_attention": (
        "GPTNeo",
        COMMON
        | {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 128, "window_size": 7}
        | {"attention_types": [[["global", "local"], 1]]},
    ),
    "llama": ("Llama", SMALL | {"num_key_value_heads": 2}),
    "mistral_sliding_window": ("Mistral", SMALL | {"num_key_value_heads": 2, "sliding_window": 9}),
    "gemma3_mixed_windows": (
        "Gemma3",
        SMALL | {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}
        | {"layer_types": ["sliding_attention", "full_attention"]},
    ),
    "bloom_alibi": ("Bloom", COMMON | {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "opt_learned_positions": (
        "OPT",
        COMMON | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48}
        | {"max_position_embeddings": 128, "word_embed_proj_dim": 32, "init_std": 0.3},
    ),
}  # fmt: skip


def build(name: str, folder) -> str:
    family, settings = ARCHITECTURES[name]
    config_class = "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config"
    torch.manual_seed(5)
    config = getattr(transformers, config_class)(**settings)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def greedy(count: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_new_tokens=count, ignore_eos=True)


def mixed(count: int, seed: int, longest: int) -> list[tuple[list[int], SamplingParams]]:
    rng = random.Random(seed)
    prompts = [[rng.randrange(2, 150) for _ in range(rng.randint(1, longest))] for _ in range(count)]
    return [(prompt, greedy(rng.randint(1, 40))) for prompt in prompts]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_any_architecture_batched_as_one_by_one(name, tmp_path):
    """Eight rows for thirty requests, so that rows join and leave all the time: every answer is Hugging Face's."""
    path = build(name, tmp_path / name)
    engine, reference = Engine.from_pretrained(path, device="cpu", max_running_requests=8), Reference(path)
    work = mixed(30, seed=1, longest=50)
    answers = engine.generate([p for p, _ in work], [s for _, s in work])
    for (prompt, params), answer in zip(work, answers, strict=True):
        assert answer.token_ids == reference.greedy(prompt, params.max_new_tokens)
        assert answer.logprobs == pytest.approx(reference.logprobs(prompt, answer.token_ids), abs=1e-4)


@pytest.fixture(scope="module")
def engine(folder) -> Engine:
    return Engine.from_pretrained(folder, device="cpu", max_running_requests=16)


def test_a_long_mixed_load_moves_and_grows_the_slab(engine):
    """Short, then long requests through sixteen rows: the same tokens as each alone, with every kind of move seen."""
    work = [*mixed(150, seed=2, longest=30), ([8] * 3, greedy(300)), ([7] * 250, greedy(300))]
    seen = {"left": 0, "right": 0, "grown": 0}
    engine.flush()  # back to the smallest slab
    reserve = engine.slab.reserve

    def watched(joining, length):
        before, width = engine.slab.cursor, engine.slab.mask.shape
        reserve(joining, length)
        if engine.slab.rows:
            seen["left"] += engine.slab.cursor < before
            seen["right"] += engine.slab.cursor > before
        seen["grown"] += engine.slab.mask.shape != width

    engine.slab.reserve = watched
    together = engine.generate([p for p, _ in work], [s for _, s in work])
    del engine.slab.reserve
    assert all(seen.values()), seen
    alone = [engine.generate([prompt], params)[0] for prompt, params in work]
    assert [a.token_ids for a in together] == [a.token_ids for a in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_slab_rows_keep_their_columns():
    """Every row's content is its own after joins, removals, moves and growth."""
    shape = [torch.zeros(2, 1, 3)] * 4
    slab = Slab(shape, additive=False)
    rng = random.Random(1)
    rows: list[list[float]] = []
    for _ in range(400):
        if rows and rng.random() < 0.4:
            dead = rng.sample(range(len(rows)), rng.randint(1, min(3, len(rows))))
            rows = [rows[r] for r in slab.remove(dead)]
        if rng.random() < 0.5:
            content = [rng.random() for _ in range(rng.randint(1, 60))]
            one = torch.tensor(content)[None, None, :, None].expand(4, 2, -1, 3)
            slab.insert([([one], len(content))])
            rows.append(content)
        elif rows:
            slab.reserve(0, 0)
            for row, content in enumerate(rows):
                content.append(rng.random())
                slab.planes[0][:, row, :, slab.cursor] = content[-1]
            slab.cursor += 1
        for row, content in enumerate(rows):
            begin = slab.starts[row]
            assert torch.equal(slab.planes[0][3, row, 1, begin : slab.cursor, 2], torch.tensor(content))
            assert slab.mask[row].tolist() == [c >= begin for c in range(slab.mask.shape[1])]


def test_samples_of_one_prompt_share_one_prefill(engine, monkeypatch):
    calls = []
    prefill = engine.model.prefill
    monkeypatch.setattr(engine.model, "prefill", lambda p, *a, **k: calls.append(p) or prefill(p, *a, **k))
    engine.flush()
    engine.generate([[3, 4, 5]] * 6 + [[6, 7]], SamplingParams(max_new_tokens=4, n=2))
    assert sorted(p for call in calls for p in call) == [[3, 4, 5], [6, 7]]
    engine.generate([[3, 4, 5]], greedy(3))
    assert len(calls) == 1
    engine.flush()
    engine.generate([[3, 4, 5]], greedy(3))
    assert len(calls) == 2


def test_seeds_do_not_depend_on_the_batch(engine):
    params = SamplingParams(temperature=1.0, max_new_tokens=20, ignore_eos=True, seed=5)
    alone = engine.generate([[9, 10]], params)[0]
    crowd = engine.generate([[9, 10], [11], [12, 13, 14]], params)
    assert crowd[0].token_ids == alone.token_ids
    assert engine.generate([[11]] * 8, params)[0].token_ids != engine.generate([[11]] * 8, params)[1].token_ids


def test_more_waiting_than_one_prefill_holds(engine, reference, monkeypatch):
    """Long prompts join over several steps, so that no step (and no pause) takes longer than one prefill."""
    monkeypatch.setattr(engine.model, "prefill_tokens", 100)
    batches = []
    prefill = engine.model.prefill
    monkeypatch.setattr(engine.model, "prefill", lambda p, *a, **k: batches.append(len(p)) or prefill(p, *a, **k))
    prompts = [[i + 3] * 40 for i in range(6)]
    answers = engine.generate(prompts, greedy(8))
    assert batches == [2, 2, 2]
    assert [a.token_ids for a in answers] == [reference.greedy(p, 8) for p in prompts]


def test_bfloat16(folder, reference):
    engine = Engine.from_pretrained(folder, device="cpu", dtype="bfloat16")
    answer = engine.generate([[5, 6, 7]], greedy(12))[0]
    assert answer.logprobs == pytest.approx(reference.logprobs([5, 6, 7], answer.token_ids), abs=0.2)


def test_a_step_that_fails_ends_its_requests_and_not_the_engine(engine, reference, monkeypatch):
    def broken(*args):
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(engine.model, "decode", broken)
        requests = [engine.request([5, 6], greedy(9)), engine.request([7], greedy(9))]
        for request in requests:
            engine.submit(request)
        engine.step()
        with pytest.raises(RuntimeError, match="out of luck") as failure:
            engine.step()
        engine.fail(failure.value)
    assert [r.finish_reason["status_code"] for r in engine.take_done()] == [500, 500]
    assert engine.generate([[5, 6]], greedy(9))[0].token_ids == reference.greedy([5, 6], 9)


def test_broken_weights_are_an_error_and_leave_no_trace(folder, reference):
    engine = Engine.from_pretrained(folder, device="cpu")
    with torch.no_grad():
        engine.model.model.get_input_embeddings().weight[5] = float("nan")
    with pytest.raises(RuntimeError, match="not finite"):
        engine.generate([[5, 6]], greedy(4))
    engine.update_weights(folder)
    assert engine.generate([[5, 6]], greedy(9))[0].token_ids == reference.greedy([5, 6], 9)


def test_retracted_requests_go_on_with_the_new_weights(folder, other_folder, reference, other_reference):
    engine = Engine.from_pretrained(folder, device="cpu")
    request = engine.request([40, 41, 42], greedy(20))
    engine.submit(request)
    for _ in range(8):
        engine.step()
    engine.pause("retract")
    assert not engine.has_work
    engine.update_weights(other_folder)
    engine.resume()
    while engine.has_work:
        engine.step()
    old = reference.greedy([40, 41, 42], 8)
    assert request.output_ids == old + other_reference.greedy([40, 41, 42, *old], 12)


def update_error(engine: Engine, path) -> str:
    before = {k: v.clone() for k, v in engine.model.model.state_dict().items()}
    with pytest.raises(WeightsError) as failure:
        engine.update_weights(str(path))
    assert all(torch.equal(v, before[k]) for k, v in engine.model.model.state_dict().items())
    return str(failure.value)


def test_weights_that_do_not_fit_are_refused_whole(engine, tmp_path):
    wider = save_model(tmp_path / "wider", seed=0, intermediate_size=80)
    assert "shape" in update_error(engine, wider)
    deeper = save_model(tmp_path / "deeper", seed=0, num_hidden_layers=3)
    assert "unknown" in update_error(engine, deeper)
    shallower = save_model(tmp_path / "shallower", seed=0, num_hidden_layers=1)
    assert "missing" in update_error(engine, shallower)
    (tmp_path / "empty").mkdir()
    assert "model.safetensors" in update_error(engine, tmp_path / "empty")


@pytest.mark.parametrize("tied", [True, False])
def test_sharded_weights(tmp_path, tied):
    """Shards with an index, tied and untied embeddings, and a tied head saved all the same (as FSDP does)."""
    first = save_model(tmp_path / "first", seed=0, tie_word_embeddings=tied)
    second = save_model(tmp_path / "second", seed=1, tie_word_embeddings=tied)
    model = transformers.AutoModelForCausalLM.from_pretrained(second, dtype=torch.float32)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    expected = Reference(second).greedy([3, 4], 12)
    engine = Engine.from_pretrained(first, device="cpu")
    engine.update_weights(str(tmp_path / "shards"))
    assert engine.generate([[3, 4]], greedy(12))[0].token_ids == expected
    engine.update_weights(first)

    from safetensors.torch import save_file

    both = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (tmp_path / "both").mkdir()
    save_file(both, tmp_path / "both" / "model.safetensors")
    engine.update_weights(str(tmp_path / "both"))
    assert engine.generate([[3, 4]], greedy(12))[0].token_ids == expected


def test_models_that_cannot_be_served_are_named(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        Engine.from_pretrained(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"config\.json"):
        Engine.from_pretrained(str(tmp_path / "empty"))
    bare = transformers.Qwen2Config(hidden_size=16, num_attention_heads=2, num_key_value_heads=2, vocab_size=50)
    bare.architectures = ["Qwen2ForCausalLM"]
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(ModelError, match="cannot load"):
        Engine.from_pretrained(str(tmp_path / "bare"), device="cpu")
    partial = transformers.Qwen2ForCausalLM(bare)
    weights = {name: tensor for name, tensor in partial.state_dict().items() if "norm" not in name}
    partial.save_pretrained(tmp_path / "bare", state_dict=weights)
    with pytest.raises(ModelError, match=r"lacks .* weights"):  # never serve random ones in their place
        Engine.from_pretrained(str(tmp_path / "bare"), device="cpu")
    (tmp_path / "bare" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="cannot load"):
        Engine.from_pretrained(str(tmp_path / "bare"), device="cpu")
    config = transformers.MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4)
    transformers.MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    with pytest.raises(ModelError, match="Mamba"):
        Engine.from_pretrained(str(tmp_path / "mamba"), device="cpu")
