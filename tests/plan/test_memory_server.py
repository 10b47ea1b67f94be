"""The plan's rollout server against our embedded one, whose every allocation was counted, and against its slab."""

import random

import pytest
import torch

from areal_gsm8k.machine.nvidia import GIB
from areal_gsm8k.plan.memory.model_shape import from_config
from areal_gsm8k.plan.memory.server import COLUMNS, KEPT, ROWS, Server
from areal_gsm8k.plan.memory.trainer import BYTES
from areal_gsm8k.serve import kv_slab, packed_linear, prompt_cache
from areal_gsm8k.serve.engine import Engine
from areal_gsm8k.serve.kv_slab import Slab
from areal_gsm8k.serve.params import SamplingParams
from benchmarks.memory import on_cpu, shaped

WITHIN = 0.1


def folder_of(config: dict, path) -> str:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = dict(config)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(sizes.pop("model_type"), **sizes)).save_pretrained(path)
    return str(path)


@pytest.mark.parametrize(
    ("config", "dtype", "groups", "prompt", "new"),
    [
        (shaped("qwen2", 64, 3, 4, 2, 192, 573, True), "float32", 4, 20, 16),  # mostly keys and values
        (shaped("llama", 128, 3, 8, 2, 512, 2000, False), "bfloat16", 2, 12, 8),  # mostly weights
    ],
)
def test_an_embedded_server_needs_what_is_planned(config, dtype, groups, prompt, new, tmp_path):
    samples, element = 4, BYTES[dtype]
    folder = folder_of(config, tmp_path)
    draw = random.Random(0)

    # Loaded before the profiler starts, which does not see every thread that loads; what it has not seen stays alive.
    engine = Engine.from_pretrained(folder, "cpu", dtype, groups * samples)
    unseen = [engine.slab, *(weight.data for weight in engine.model.model.parameters())]
    unseen += [getattr(module, "packed", None) for module in engine.model.model.modules()]

    def make():
        for weight in engine.model.model.parameters():
            weight.data = weight.data.clone()
        if engine.model.packed:
            packed_linear.pack(engine.model.model)
        engine.slab = engine.model.new_slab()

        def serve(phase):
            engine.flush()
            asked = [[draw.randrange(config["vocab_size"]) for _ in range(prompt)] for _ in range(2 * groups)]
            with phase("serving"):
                while asked or engine.has_work:
                    if asked and len(engine.running) <= (groups - 1) * samples:  # groups come and go
                        ids = asked.pop()
                        for sample in range(samples):
                            params = SamplingParams(max_new_tokens=draw.randrange(new // 2, new + 1), ignore_eos=True)
                            engine.submit(engine.request(ids, params, sample))
                    engine.step()
                    engine.take_done()

        return serve

    measured = on_cpu(make)
    del unseen
    shape, packed = from_config(config), engine.model.packed
    server = Server("embedded", shape, element, groups * samples, 2 * groups, prompt, prompt + new, packed=packed)
    parts = server.parts(card=0, free=0)
    empty = kv_slab.ROWS * kv_slab.COLUMNS * (server.kv_token + element)
    assert parts["weights"] + empty == pytest.approx(measured["loading"].after, rel=WITHIN)
    assert sum(parts.values()) == pytest.approx(measured["serving"].peak, rel=WITHIN)


@pytest.mark.parametrize(("rows", "prompt", "new"), [(16, 30, 48), (64, 40, 200), (96, 100, 512), (24, 320, 512)])
def test_the_slab_grows_to_the_planned_size_through_the_planned_peak(rows, prompt, new):
    heads, dim, layers = 2, 4, 2
    draw = random.Random(0)
    grown = Slab([torch.zeros(heads, 1, dim)] * 2 * layers, additive=True)
    most, allocate = 0, grown._allocate  # noqa: SLF001 - the moment of an allocation

    def size() -> int:
        return sum(plane.nbytes for plane in grown.planes) + grown.mask.nbytes

    def counted(rows: int, columns: int) -> None:
        nonlocal most
        before = size()
        allocate(rows, columns)
        most = max(most, before + size())

    grown._allocate = counted  # noqa: SLF001 - the moment of an allocation
    left: list[int] = []  # tokens each row still generates
    with torch.inference_mode():
        for _ in range(1200):
            while len(left) < rows:
                packed = grown.pack([torch.zeros(heads, prompt, dim)] * 2 * layers)
                joining = min(4, rows - len(left))
                grown.insert([(packed, prompt)] * joining)
                left += [draw.randrange(new // 2, new + 1) for _ in range(joining)]
            grown.reserve(0, 0)
            grown.cursor += 1
            left = [tokens - 1 for tokens in left]
            if done := [row for row, tokens in enumerate(left) if tokens <= 0]:
                left = [left[row] for row in grown.remove(done)]
    shape = from_config(shaped("llama", heads * dim, layers, heads, heads, 8, 1, True))
    parts = Server("embedded", shape, 4, rows, 0, prompt, prompt + new).parts(card=0, free=0)
    assert parts["keys and values"] == pytest.approx(size(), rel=WITHIN)
    assert parts["keys and values"] + parts["working"] == pytest.approx(most, rel=WITHIN)


def test_the_plan_knows_the_servers_constants():
    assert (ROWS, COLUMNS, KEPT) == (kv_slab.ROWS, kv_slab.COLUMNS, prompt_cache.BYTES)


def sglang(share: float, **changed) -> Server:
    shape = from_config(shaped("qwen2", 896, 24, 14, 2, 4864, 151936, True))
    return Server("sglang", shape, 2, 96, 24, 320, 832, share=share, **changed)


def test_sglangs_share_is_of_what_was_free_and_the_rest_stands_beside_it():
    card, free = 24 * GIB, 20 * GIB
    parts = sglang(0.5).parts(card, free)
    assert parts["weights"] + parts["keys and values"] == 10 * GIB
    assert parts["weights"] == 2 * 494_032_768
    assert parts["working"] == sglang(0.5).outside(card) > 512 << 20
    assert sglang(0.5, graphs=0).outside(card) < sglang(0.5).outside(card) < sglang(0.5).outside(80 * GIB)
    assert sglang(0.01).parts(card, free)["keys and values"] < 0  # the model alone is larger


def test_keys_and_values_of_a_token():
    # Llama-3.1-8B: 32 layers x 8 heads x 128 x 2 x 2 bytes = 128 KiB; SGLang: get_cell_size_per_token
    llama = from_config(shaped("llama", 4096, 32, 32, 8, 14336, 128256, False))
    assert llama.kv_bytes_per_token(2) == 131072
    assert llama.kv_bytes_per_token(2, tensor_parallel=4) == 131072 // 4
    assert llama.kv_bytes_per_token(2, tensor_parallel=16) == 131072 // 8  # a head cannot be split


def test_the_smallest_share_holds_the_model_and_the_sequences():
    free = card = 24 * GIB
    for sequences in (1, 16, 96):
        share = sglang(0).smallest_share(free, card, sequences)
        kv = sglang(share).parts(card, free)["keys and values"]
        assert sequences * 832 * sglang(0).kv_token <= kv < sequences * 832 * sglang(0).kv_token + 0.011 * free


def test_vllms_share_is_of_the_whole_card_and_covers_its_work():
    card = 24 * GIB
    parts = Server("vllm", sglang(0).shape, 2, 96, 24, 320, 832, share=0.5, prefill=2048, graphs=0).parts(card, card)
    assert sum(parts.values()) == 12 * GIB
