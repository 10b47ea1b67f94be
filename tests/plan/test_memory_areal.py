"""The plan's trainer against AReaL's own engine: one GRPO update of a tiny model, every allocation counted."""

import json

import pytest
import torch

pytest.importorskip("areal", reason="areal is not installed")

from areal_gsm8k.config.compose import make_plan, write
from areal_gsm8k.paths import CPU_OVERLAY
from areal_gsm8k.plan.memory import run_values
from areal_gsm8k.plan.memory.model_shape import from_config
from benchmarks.memory import on_cpu

G, LENGTH, PROMPT = 4, 96, 16  # completions a prompt; tokens of each with its prompt, and of a prompt
PACK = 2 * (PROMPT + G * (LENGTH - PROMPT))  # tokens of two groups


def group(vocabulary: int, seed: int) -> dict:
    """As the rollout workflow hands it to the trainer; nothing in it is padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, vocabulary, (G, LENGTH), generator=generator)
    ids[:, :PROMPT] = ids[0, :PROMPT]
    logprobs = -torch.rand(G, LENGTH, generator=generator)
    return {
        "input_ids": ids.int(),
        "attention_mask": torch.ones(G, LENGTH, dtype=torch.bool),
        "loss_mask": (torch.arange(LENGTH) >= PROMPT).int().expand(G, -1),
        "logprobs": logprobs,
        "versions": (torch.arange(LENGTH) >= PROMPT).int().expand(G, -1) - 1,
        "rewards": torch.tensor([1.0, 0.0, 0.0, 1.0]),
        "sample_id": torch.arange(G) + G * seed,
    }


@pytest.mark.parametrize(("groups", "checkpointing"), [(4, False), (2, True)], ids=["two packs", "checkpointing"])
def test_areals_update_needs_what_is_planned(groups, checkpointing, spmd, untrained_model, tmp_path, monkeypatch):
    from areal.api import FinetuneSpec
    from areal.api.alloc_mode import ModelAllocation

    from areal_gsm8k.training.actor import PackedActor, skip_needless_pass
    from areal_gsm8k.training.run_config import load_config

    fixed = [f"actor.path={untrained_model}", f"actor.gradient_checkpointing={str(checkpointing).lower()}"]
    fixed += [
        f"gconfig.n_samples={G}",
        f"gconfig.max_new_tokens={LENGTH - PROMPT}",
        f"train_dataset.batch_size={groups}",
    ]
    fixed += [f"actor.mb_spec.max_tokens_per_mb={PACK}", "kl_reference=false"]
    resolved = make_plan([CPU_OVERLAY], fixed, gpus=0)
    write(resolved, tmp_path / "config.yaml")
    config = load_config(tmp_path / "config.yaml")
    skip_needless_pass(config.actor)
    shape = from_config(json.loads((untrained_model / "config.json").read_text()))
    batch = [group(shape.vocab, seed) for seed in range(groups)]

    def make():
        actor = PackedActor(config.actor)
        actor.create_process_group(ModelAllocation.from_str("fsdp:d1", name="actor").parallel)
        actor.initialize(addr=None, ft_spec=FinetuneSpec(total_train_epochs=1, dataset_size=8, train_batch_size=8))

        def step(phase):
            with phase("step"):
                rows = [dict(one) for one in batch]
                actor.ppo_update(actor.compute_advantages(rows))
                actor.export_stats()

        return step

    measured = on_cpu(make)
    monkeypatch.setattr(run_values, "PROMPT", PROMPT)
    planned = run_values.trainer(resolved.values, shape, on_gpu=False)
    assert (planned.tokens, planned.several) == (PACK, groups > 2)
    _, parts = planned.peak()
    assert sum(parts.values()) == pytest.approx(measured["step"].peak, rel=0.1)
