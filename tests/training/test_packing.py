"""Packs: every prompt once, every token in its place, and a model that cannot tell the difference."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("areal", reason="areal is not installed")

from areal.api.cli_args import MicroBatchSpec

from areal_gsm8k.training import attention, packing
from areal_gsm8k.training.logprob_head import LogprobHead

WORDS = 200

groups = st.lists(  # prompt tokens, and tokens of each completion; prompts of one number are the same
    st.tuples(st.integers(1, 5), st.lists(st.integers(0, 7), min_size=1, max_size=4)), min_size=1, max_size=5
)


def batch_of(sizes) -> dict[str, torch.Tensor]:
    """Right-padded tensors as the trainer gets them; logprobs hold every token's number, to be found again."""
    generator = torch.Generator().manual_seed(sum(prompt for prompt, _ in sizes))
    rows = []
    for prompt, completions in sizes:
        prompt_P = torch.randint(10, WORDS, (prompt,), generator=generator)
        rows += [(prompt_P, torch.randint(10, WORDS, (tokens,), generator=generator)) for tokens in completions]
    longest = max(len(prompt_P) + len(answer_C) for prompt_P, answer_C in rows)
    batch = {
        "input_ids": torch.zeros(len(rows), longest, dtype=torch.int32),
        "attention_mask": torch.zeros(len(rows), longest, dtype=torch.bool),
        "versions": torch.full((len(rows), longest), -1),
        "sample": torch.arange(len(rows)),
    }
    for row, (prompt_P, answer_C) in enumerate(rows):
        end = len(prompt_P) + len(answer_C)
        batch["input_ids"][row, :end] = torch.cat([prompt_P, answer_C])
        batch["attention_mask"][row, :end] = True
        batch["versions"][row, len(prompt_P) : end] = 3
    return batch | {"logprobs": torch.arange(float(len(rows) * longest)).view(len(rows), longest)}


def sequences(batch) -> list[torch.Tensor]:
    return [ids_S[real_S] for ids_S, real_S in zip(batch["input_ids"], batch["attention_mask"], strict=True)]


@settings(max_examples=200, deadline=None)
@given(sizes=groups, max_tokens=st.integers(12, 60))
def test_a_pack_holds_each_sequence_once_behind_its_prompt(sizes, max_tokens):
    batch = batch_of(sizes)
    packs = packing.microbatches(batch, MicroBatchSpec(max_tokens_per_mb=max_tokens))
    assert sorted(packs.forward_indices) == list(range(len(batch["sample"])))
    assert [packs.forward_indices[at] for at in packs.backward_indices] == list(range(len(batch["sample"])))
    wanted = iter([sequences(batch)[row] for row in packs.forward_indices])
    for flat, inputs in zip(packs.mbs, packs.padded_mbs, strict=True):
        ids_T, pack = inputs["input_ids"][0], inputs["pack"]
        assert len(ids_T) <= max_tokens and pack.full_tokens == len(flat["input_ids"])
        seen = {}  # by the place of its last token, what a query sees; empty rows, all padding, come last
        for rows in pack.rows:
            for queries_Q, keys_K, prefix in zip(rows.queries_RQ, rows.keys_RK, rows.prefix_R.tolist(), strict=True):
                for query, place in enumerate(queries_Q.tolist()):
                    if place or query == 0:
                        seen.setdefault(place, ids_T[keys_K[: prefix + query + 1]].tolist())
        assert [seen[place][-1] for place in range(len(ids_T))] == ids_T.tolist()
        starts = flat["cu_seqlens"].tolist()
        for start, end in itertools.pairwise(starts):
            ids_L = next(wanted)
            assert flat["input_ids"][start:end].tolist() == ids_L.tolist()
            mine = (pack.places_N >= start) & (pack.places_N < end)
            for predictor, label, place in zip(
                pack.predictors_N[mine].tolist(),
                pack.labels_N[mine].tolist(),
                pack.places_N[mine].tolist(),
                strict=True,
            ):
                assert seen[predictor] == ids_L[: place - start + 1].tolist() and label == ids_L[place - start + 1]
            generated = int((flat["versions"][start:end] >= 0).sum())
            assert int(mine.sum()) == min(generated, len(ids_L) - 1)
    assert sum(inputs["pack"].last for inputs in packs.padded_mbs) == 1


def test_a_group_computes_its_prompt_once_and_is_cut_where_a_pack_is_full():
    batch = batch_of([(5, [2, 3, 4])])
    (whole,) = packing.microbatches(batch, MicroBatchSpec(max_tokens_per_mb=14)).padded_mbs
    assert whole["input_ids"].shape == (1, 14)
    tokens = [
        len(inputs["input_ids"][0])
        for inputs in packing.microbatches(batch, MicroBatchSpec(max_tokens_per_mb=10)).padded_mbs
    ]
    assert sorted(tokens) == [9, 10]
    with pytest.raises(RuntimeError, match="larger than capacity"):
        packing.microbatches(batch, MicroBatchSpec(max_tokens_per_mb=8))


def test_a_rank_makes_as_many_packs_as_the_rank_with_the_most(monkeypatch):
    def gather(wanted, packs, group):
        assert packs == 1
        wanted[:] = [3, packs]

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    packs = packing.microbatches(batch_of([(5, [2, 3, 4, 1])]), MicroBatchSpec(max_tokens_per_mb=60), group="ranks")
    assert sorted(packs.forward_indices) == [0, 1, 2, 3]
    assert [len(flat["cu_seqlens"]) - 1 for flat in packs.mbs] == [1, 1, 2]
    with pytest.raises(RuntimeError, match="2 sequences on this rank cannot make 3"):
        packing.microbatches(batch_of([(5, [2, 3])]), MicroBatchSpec(max_tokens_per_mb=60), group="ranks")


@pytest.mark.parametrize("waste", [0, 2**13])
@pytest.mark.parametrize("max_tokens", [40, 1000])
def test_logprobs_entropies_and_gradients_are_those_of_each_sequence_alone(
    untrained_model, monkeypatch, waste, max_tokens
):
    """Against Hugging Face, one sequence after the other, at temperature 0.7; a loss with a gradient for each token."""
    from transformers import AutoModelForCausalLM

    monkeypatch.setitem(packing.WASTE, "cpu", waste)
    batch = batch_of([(5, [3, 9, 1, 4]), (2, [6, 6]), (7, [12, 2, 8])])
    packed, plain = (AutoModelForCausalLM.from_pretrained(untrained_model, dtype=torch.float32) for _ in range(2))
    packed.set_attn_implementation(attention.NAME)
    head = LogprobHead.in_place_of(packed, temperature=0.7)
    packs = packing.microbatches(batch, MicroBatchSpec(max_tokens_per_mb=max_tokens))
    found = {}
    for flat, inputs in zip(packs.mbs, packs.padded_mbs, strict=True):
        head.pack = inputs["pack"]
        both_F2 = packed(**inputs).logits[0]
        (both_F2[:, 0] * weights_of(flat["input_ids"])).sum().backward()
        found |= dict(enumerate(both_F2.detach().split(flat["cu_seqlens"].diff().tolist()), start=len(found)))
    for row, at in enumerate(packs.backward_indices):
        ids_L = sequences(batch)[row].long()
        prompt = int((batch["versions"][row][: len(ids_L)] < 0).sum())
        scores_LV = (plain(ids_L[None]).logits[0] / 0.7).log_softmax(-1)
        alone_L = scores_LV[:-1].gather(-1, ids_L[1:, None]).squeeze(-1)[prompt - 1 :]
        (alone_L * weights_of(ids_L)[prompt - 1 : -1]).sum().backward()
        entropy_L = -(scores_LV.exp() * scores_LV).sum(-1)[prompt - 1 : -1]
        torch.testing.assert_close(found[at][prompt - 1 : -1, 0], alone_L.detach(), atol=1e-4, rtol=0)
        torch.testing.assert_close(found[at][prompt - 1 : -1, 1], entropy_L.detach(), atol=1e-4, rtol=0)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(packed.get_parameter(name).grad, parameter.grad, atol=1e-4, rtol=1e-3)


def weights_of(ids_L: torch.Tensor) -> torch.Tensor:
    """A weight for every token's logprob, some of them 0, which the head's backward pass leaves out."""
    return (ids_L % 3).float() - 0.5 * (ids_L % 2)
