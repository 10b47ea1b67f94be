"""The plan's pack against the trainer's packs: their constants, and no pack of random lengths is larger."""

import random

import pytest
import torch

from areal_gsm8k.plan.memory import packs

pytest.importorskip("areal", reason="areal is not installed")

from areal.api.cli_args import MicroBatchSpec

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
