"""The repair that makes logprobs right: packed sequences must not see one another under sdpa."""

import pytest
import torch

pytest.importorskip("areal", reason="areal is not installed")

SEQUENCES, LENGTHS = 32, (5, 90)


def actor_of(kind, model_path):
    from areal.api import FinetuneSpec
    from areal.api.alloc_mode import ModelAllocation
    from areal.api.cli_args import MicroBatchSpec, OptimizerConfig, PPOActorConfig

    config = PPOActorConfig(
        experiment_name="t", trial_name="t", path=str(model_path), backend="fsdp:d1", dtype="float32", attn_impl="sdpa",
        optimizer=OptimizerConfig(), mb_spec=MicroBatchSpec(max_tokens_per_mb=4096), disable_dropout=True,
    )  # fmt: skip
    actor = kind(config)
    actor.create_process_group(ModelAllocation.from_str("fsdp:d1", name="actor").parallel)
    actor.initialize(addr=None, ft_spec=FinetuneSpec(total_train_epochs=1, dataset_size=8, train_batch_size=8))
    return actor


@torch.no_grad()
def largest_gap(actor, model_path) -> float:
    """Over 32 random sequences packed into one microbatch: the actor's logprobs against Hugging Face one by one."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(*LENGTHS, (SEQUENCES,), generator=generator).tolist()
    rows = [torch.randint(10, model.config.vocab_size, (n,), generator=generator) for n in lengths]
    groups = [
        {
            "input_ids": row[None].int(),
            "attention_mask": torch.ones(1, len(row), dtype=torch.bool),
            "loss_mask": torch.ones(1, len(row), dtype=torch.int32),
        }
        for row in rows
    ]
    gaps = []
    for row, packed in zip(rows, actor.compute_logp(groups), strict=True):
        alone_TV = model(row[None]).logits[0].log_softmax(-1)
        alone_T = alone_TV[:-1].gather(-1, row[1:, None]).squeeze(-1)
        gaps.append((packed[0, : len(row) - 1] - alone_T).abs().max().item())
    return max(gaps)


def test_ours_agrees_with_hugging_face_and_areals_own_does_not(spmd, untrained_model):
    from areal.engine import FSDPPPOActor

    from areal_gsm8k.training.actor import PackedActor

    assert largest_gap(actor_of(PackedActor, untrained_model), untrained_model) < 1e-4
    # If this fails AReaL has been repaired and PackedActor._prepare_mb_list can go.
    assert largest_gap(actor_of(FSDPPPOActor, untrained_model), untrained_model) > 1e-2
