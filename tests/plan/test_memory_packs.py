"""The plan's pack against the trainer's packs: constants, which models and settings have packs, and their sizes."""

import random

import pytest
import torch

from areal_gsm8k.config.compose import make_plan
from areal_gsm8k.plan.memory import model_config, packs, run_values
from areal_gsm8k.plan.memory.model_shape import EXACT, from_config
from benchmarks.memory import shaped

pytest.importorskip("areal", reason="areal is not installed")

from areal.api.cli_args import MicroBatchSpec
from transformers import AutoConfig, AutoModelForCausalLM

from areal_gsm8k.training import logprob_head, packing


def test_the_plan_knows_the_trainers_constants():
    assert {"cpu": packing.WASTE["cpu"], "cuda": packing.WASTE_ON_A_CARD} == packs.WASTE
    assert {"cpu": logprob_head.BLOCK["cpu"], "cuda": logprob_head.BLOCK_ON_A_CARD} == packs.BLOCK
    assert packs.LOGITS_AT_ONCE == logprob_head.LOGITS_AT_ONCE


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize(("tokens", "shortest"), [(1280, 40), (2560, 100), (5120, 40), (10240, 200)])
def test_no_pack_is_larger_than_the_planned_one(tokens, shortest, on_gpu, monkeypatch):
    monkeypatch.setitem(packing.WASTE, "cpu", packs.WASTE["cuda" if on_gpu else "cpu"])
    draw, longest, samples = random.Random(tokens), 512, 4
    prompts = [draw.randrange(60, 320) for _ in range(16)]
    lengths = [prompt + draw.randrange(shortest, longest + 1) for prompt in prompts for _ in range(samples)]
    versions = torch.full((len(lengths), 320 + longest), -1)
    mask, ids = torch.zeros_like(versions), torch.zeros_like(versions)
    for row, length in enumerate(lengths):
        prompt = prompts[row // samples]
        ids[row, :prompt] = row // samples + 1
        versions[row, prompt:length], mask[row, :length] = 0, 1
    batch = {"input_ids": ids, "attention_mask": mask, "versions": versions}
    planned = packs.worst(tokens, 320, longest, samples, on_gpu)
    for made in packing.microbatches(batch, MicroBatchSpec(max_tokens_per_mb=tokens)).padded_mbs:
        pack = made["pack"]
        assert len(pack.predictors_N) <= planned.predicted
        assert sum(rows.queries_RQ.numel() for rows in pack.rows) <= planned.queries
        assert sum(rows.keys_RK.numel() for rows in pack.rows) <= planned.keys
        assert sum(rows.mask(torch.float32).numel() for rows in pack.rows) <= planned.pairs


@pytest.mark.parametrize("family", EXACT)
def test_the_plan_packs_the_models_that_the_trainer_packs(family):
    config = shaped(family, 64, 4, 4, 4, 192, 500, False)
    sizes = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes))
    can = model._supports_attention_backend and logprob_head.LogprobHead.fits(model)  # noqa: SLF001 - no public form
    assert from_config(config).packs == can


@pytest.mark.parametrize("override", [{"layer_types": ["full_attention", "sliding_attention"]}, {"logit_scale": 0.5}])
def test_windows_and_scaled_logits_make_no_packs(override):
    assert not from_config(shaped("llama", 64, 4, 4, 4, 192, 500, False) | override).packs


def planned(*overrides: str):
    values = make_plan([], overrides, gpus=4).values
    return run_values.trainer(values, from_config(model_config.known()[values["actor"]["path"]]), on_gpu=True)


def test_flash_attention_and_tensor_parallelism_are_planned_with_whole_logits():
    whole = [planned("actor.attn_impl=flash_attention_2"), planned("allocation_mode=sglang.d1+d1t2")]
    assert not any(trainer.pack for trainer in whole)
    assert all(trainer.moments()["loss"]["logits"] > trainer.logits.size > 10**9 for trainer in whole[:1])
    assert planned().pack.predicted == planned().tokens == 5120 and "loss" not in planned().moments()


def test_a_batch_in_one_pack_keeps_no_gradients_and_a_single_update_needs_no_pass_before():
    several, one = planned(), planned("actor.mb_spec.max_tokens_per_mb=20000")
    assert several.before == 4 * several.trained and one.before == 0
    assert one.tokens == 8 * (run_values.PROMPT + 4 * 512)
    passes = [
        planned(),
        planned("actor.ppo_n_minibatches=2"),
        planned("actor.kl_ctl=0.01"),
        planned("actor.use_decoupled_loss=false"),
    ]
    assert [trainer.passes_before for trainer in passes] == [False, True, True, True]
