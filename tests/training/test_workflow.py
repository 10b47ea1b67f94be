import asyncio

import pytest
import torch

pytest.importorskip("areal", reason="areal is not installed")

from areal.api import ModelResponse
from areal.api.cli_args import GenerationHyperparameters
from areal.infra import workflow_context

from areal_gsm8k.runs import samples
from areal_gsm8k.runs.records import RecordReader, given_up
from areal_gsm8k.settings import RewardSettings, Settings
from areal_gsm8k.training import workflow
from areal_gsm8k.training.workflow import GSM8KWorkflow, accept_group

ROW = {"id": "row-1", "question": "2 + 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"}


class FakeEngine:
    """Answers every request with one fixed completion, half of it by version 3, half by version 4."""

    def __init__(self, tokenizer, completion: str, stop_reason="stop"):
        self.output = tokenizer.encode(completion)
        self.stop_reason = stop_reason
        self.requests = []

    async def agenerate(self, request):
        self.requests.append(request)
        n = len(self.output)
        return ModelResponse(
            input_tokens=request.input_ids,
            output_tokens=self.output,
            output_logprobs=[-0.5] * n,
            output_versions=[3] * (n // 2) + [4] * (n - n // 2),
            stop_reason=self.stop_reason,
        )


@pytest.fixture(scope="module")
def tokenizer(untrained_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(untrained_model)


def flow(tokenizer, folder, group_size=1, **settings):
    gconfig = GenerationHyperparameters(max_new_tokens=8)
    return GSM8KWorkflow(tokenizer, gconfig, Settings(answer_format="hash", **settings), folder, group_size)


def episode(tokenizer, folder, completion, reward=None, **engine):
    fake = FakeEngine(tokenizer, completion, **engine)
    made = flow(tokenizer, folder, reward=reward or RewardSettings())
    return asyncio.run(made.arun_episode(fake, ROW)), fake


def test_tensors_are_areals_rlvr_tensors_plus_the_id(tokenizer, tmp_path):
    sample, fake = episode(tokenizer, tmp_path, "total 5\n#### 5")
    prompt, n = len(fake.requests[0].input_ids), len(fake.output)
    shapes = {name: tuple(tensor.shape) for name, tensor in sample.items()}
    sequence = (1, prompt + n)
    assert shapes == {
        "input_ids": sequence, "loss_mask": sequence, "logprobs": sequence, "versions": sequence,
        "attention_mask": sequence, "rewards": (1,), "sample_id": (1,),
    }  # fmt: skip
    assert sample["loss_mask"][0].tolist() == [0] * prompt + [1] * n
    assert sample["versions"][0, :prompt].eq(-1).all()
    assert sample["rewards"].item() == 1.0
    assert tokenizer.eos_token_id in fake.requests[0].gconfig.stop_token_ids


def test_the_record_joins_by_id_and_tells_the_whole_story(tokenizer, tmp_path):
    sample, _ = episode(tokenizer, tmp_path, "total 6\n#### 6", stop_reason="length")
    (record,) = RecordReader(tmp_path).take([sample["sample_id"].item()])
    assert record["question"] == ROW["question"] and record["reference"] == ROW["answer"]
    assert record["completion"] == "total 6\n#### 6" and record["extracted"] == "6"
    assert (record["lenient"], record["strict"], record["formatted"]) == (False, False, True)
    assert record["truncated"] and record["versions"] == [3, 4] and record["reward"] == 0.0


def test_the_tokens_are_kept_where_the_text_does_not_give_them_back(tokenizer, tmp_path):
    usual = [*tokenizer.encode("#### 6"), tokenizer.eos_token_id]
    pieces = [tokenizer.encode(letter)[0] for letter in "#### 6"] + [tokenizer.eos_token_id]
    cut = usual[:-1]
    made, flow_of = [], flow(tokenizer, tmp_path)
    for tokens, reason in ((usual, "stop"), (pieces, "stop"), (cut, "length")):
        engine = FakeEngine(tokenizer, "", stop_reason=reason)
        engine.output = tokens
        made.append(asyncio.run(flow_of.arun_episode(engine, ROW))["sample_id"].item())
    records = RecordReader(tmp_path).take(made)
    assert [record["completion"] for record in records] == ["#### 6"] * 3 and pieces != usual
    assert [record.get("completion_ids") for record in records] == [None, pieces, None]
    assert [samples.token_ids(record, tokenizer) for record in records] == [usual, pieces, cut]


def test_format_is_paid_apart_from_accuracy(tokenizer, tmp_path):
    weights = RewardSettings(accuracy=1.0, format=0.25)
    assert episode(tokenizer, tmp_path, "#### 6", weights)[0]["rewards"].item() == 0.25
    assert episode(tokenizer, tmp_path, "#### 5", weights)[0]["rewards"].item() == 1.25
    assert episode(tokenizer, tmp_path, "it is 5", weights)[0]["rewards"].item() == 1.0


OWN_REWARD = """
import time

def length(prompt, completion, prompt_ids, completion_ids, **row):
    assert "2 + 3?" in prompt and len(completion_ids) > 0 and row["answer"]
    if "raise" in completion:
        raise ValueError("no")
    if "hang" in completion:
        time.sleep(60)
    return len(completion)
"""


def test_a_users_own_function_is_a_part_and_its_failure_an_error(tokenizer, tmp_path, monkeypatch):
    (tmp_path / "own_reward.py").write_text(OWN_REWARD)
    monkeypatch.syspath_prepend(tmp_path)
    settings = RewardSettings(accuracy=1.0, custom="own_reward:length", custom_weight=0.5, custom_seconds=1.0)
    sample, _ = episode(tokenizer, tmp_path / "r", "#### 5", settings)
    assert sample["rewards"].item() == 1.0 + 0.5 * 6
    (record,) = RecordReader(tmp_path / "r").take([sample["sample_id"].item()])
    assert record["parts"] == {"accuracy": 1.0, "custom": 6.0}
    assert episode(tokenizer, tmp_path / "r", "raise", settings)[0] is None
    assert episode(tokenizer, tmp_path / "r", "hang", settings)[0] is None
    raised, late = (row["rejected"] for row in RecordReader(tmp_path / "r").take_rejected())
    assert "ValueError: no" in raised and "did not return within 1 s" in late
    flow(tokenizer, tmp_path / "r").shared.reward.close()


def test_a_reward_that_raises_is_an_error_and_not_a_wrong_answer(tokenizer, tmp_path, monkeypatch):
    def broken(*_):
        raise OverflowError("boom")

    monkeypatch.setattr(workflow, "grade", broken)
    sample, _ = episode(tokenizer, tmp_path, "#### 5")
    assert sample is None
    (record,) = RecordReader(tmp_path).take_rejected()
    assert record["rejected"] == "OverflowError: boom" and "reward" not in record


class DeadServer:
    """Every request fails."""

    async def agenerate(self, request):
        raise ConnectionError("refused")


def test_too_many_failures_without_a_complete_group_between_stop_the_run(tokenizer, tmp_path):
    """A single good sample does not count: its group may have lost another, so that no step ever gets its batch."""
    engine, made = DeadServer(), flow(tokenizer, tmp_path, max_failures=3)
    for _ in range(2):
        assert asyncio.run(made.arun_episode(engine, ROW)) is None
    assert accept_group(group([1.0]))
    for _ in range(2):
        asyncio.run(made.arun_episode(engine, ROW))
    assert asyncio.run(made.arun_episode(FakeEngine(tokenizer, "#### 5"), ROW)) and given_up(tmp_path) is None
    asyncio.run(made.arun_episode(engine, ROW))
    assert "3 samples failed" in given_up(tmp_path) and "refused" in given_up(tmp_path)
    asyncio.run(made.arun_episode(engine, ROW))
    assert "3 samples failed" in given_up(tmp_path)  # the first reason stays
    assert len(RecordReader(tmp_path).take_rejected()) == 6


def group(rewards):
    return {"rewards": torch.tensor(rewards), "sample_id": torch.arange(100, 100 + len(rewards))}


def test_a_partial_group_never_reaches_the_trainer(tokenizer, tmp_path):
    flow(tokenizer, tmp_path, group_size=4)
    assert accept_group(group([1.0, 0.0, 0.0, 1.0]))
    assert accept_group(group([0.0, 0.0, 0.0, 0.0]))  # no signal, kept at advantage 0
    assert not accept_group(group([1.0, 0.0, 1.0]))
    assert "partial group: 3 of 4" in next(tmp_path.glob("*.jsonl")).read_text()


def test_groups_without_signal_are_dropped_on_request(tokenizer, tmp_path):
    flow(tokenizer, tmp_path, group_size=2, drop_groups_without_signal=True)
    assert accept_group(group([1.0, 0.0]))
    assert not accept_group(group([1.0, 1.0])) and not accept_group(group([0.0, 0.0]))


def test_evaluations_leave_the_size_of_training_groups_alone(tokenizer, tmp_path):
    training, evaluation = flow(tokenizer, tmp_path, group_size=3), flow(tokenizer, tmp_path, group_size=3)
    asyncio.run(training.arun_episode(FakeEngine(tokenizer, "#### 5"), ROW))
    workflow_context.set(workflow_context.WorkflowContext(is_eval=True))
    try:
        asyncio.run(evaluation.arun_episode(FakeEngine(tokenizer, "#### 5"), ROW))
    finally:
        workflow_context.set(workflow_context.WorkflowContext())
    assert accept_group(group([1.0, 0.0, 0.0])) and not accept_group(group([1.0]))


def test_workflows_of_one_process_write_one_shard_of_records(tokenizer, tmp_path):
    """By import string AReaL makes a workflow for every prompt."""
    for _ in range(3):
        episode(tokenizer, tmp_path, "#### 5")
    assert len(list(tmp_path.glob("*.jsonl"))) == 1


def test_areal_really_hands_over_partial_groups(tokenizer, tmp_path, monkeypatch):
    """The reason for accept_group: AReaL's grouping keeps what is left of a group."""
    from areal.infra.remote_inf_engine import GroupedRolloutWorkflow
    from areal.utils import logging

    calls = iter([True, False, True])
    real = workflow.grade

    def sometimes(*args):
        if next(calls):
            return real(*args)
        raise ValueError("no")

    monkeypatch.setattr(workflow, "grade", sometimes)
    grouped = GroupedRolloutWorkflow(flow(tokenizer, tmp_path, group_size=3), 3, logging.getLogger("test"))
    kept = asyncio.run(grouped.arun_episode(FakeEngine(tokenizer, "#### 5"), ROW))
    assert len(kept["rewards"]) == 2
    assert not accept_group(kept)
    reasons = [row["rejected"] for row in RecordReader(tmp_path).take_rejected()]
    assert sorted(reasons) == ["ValueError: no", "partial group: 2 of 3 samples", "partial group: 2 of 3 samples"]


def test_a_training_sample_has_its_id_and_seed_from_its_place_in_the_data_order(tokenizer, tmp_path):
    made = GSM8KWorkflow(tokenizer, GenerationHyperparameters(), Settings(), tmp_path, group_size=3, seed=5)
    fake = FakeEngine(tokenizer, "#### 5")

    async def groups():
        return [
            await asyncio.gather(*(made.arun_episode(fake, ROW | {"position": position}) for _ in range(3)))
            for position in (4, 9)
        ]

    ids = [[sample["sample_id"].item() for sample in group] for group in asyncio.run(groups())]
    assert ids == [[12, 13, 14], [27, 28, 29]]
    seeds = [request.metadata["sampling_seed"] for request in fake.requests]
    assert seeds == [5 * 2**32 + sample for group in ids for sample in group]
    assert {row["position"] for row in RecordReader(tmp_path).take([12, 29])} == {4, 9}
    evaluation = asyncio.run(made.arun_episode(fake, ROW))["sample_id"].item()
    assert evaluation >= 2**32 and made.begun == {}
