"""The rollout workflow: prompt, generate, grade, and return what AReaL trains on.

Like AReaL's RLVRWorkflow (areal/workflow/rlvr.py) one call is one sample; AReaL calls it `gconfig.n_samples` times a
prompt and concatenates. Beyond that our workflow grades through math_parser, counts a failed reward computation as
an error instead of a wrong answer, and writes a sample record whose integer id travels with the tensors.
"""

import asyncio
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from areal.api import InferenceEngine, ModelRequest, ModelResponse, RolloutWorkflow
from areal.api.cli_args import GenerationHyperparameters
from areal.infra import workflow_context
from areal.utils import stats_tracker

from areal_gsm8k.data import prompts
from areal_gsm8k.grading import rewards
from areal_gsm8k.grading.parser import grade
from areal_gsm8k.runs.records import RecordWriter, sampling_seed
from areal_gsm8k.settings import Settings


@dataclass
class Shared:
    """State that the workflows of one process share: AReaL makes a new workflow, by import string, for every prompt."""

    writer: RecordWriter
    group_size: int  # of a training prompt
    drop_without_signal: bool
    reward: rewards.Reward  # with the processes of a user's own function
    failures: int = 0  # samples that failed since the last complete group


_shared: dict[str, Shared] = {}  # by the folder of the records: one run, so one entry, but in tests


def shared(records: Path | str, settings: Settings, group_size: int, max_new_tokens: int) -> Shared:
    """This process's Shared for this folder of sample records, made at the first call."""
    if str(records) not in _shared:
        reward = rewards.Reward.from_settings(settings.reward, max_new_tokens)
        _shared[str(records)] = Shared(RecordWriter(records), group_size, settings.drop_groups_without_signal, reward)
    return _shared[str(records)]


stop_ids = cache(prompts.stop_ids)  # reads the whole vocabulary


class GSM8KWorkflow(RolloutWorkflow):
    """One question, one completion, one reward.

    `tokenizer` is a tokenizer or its path; `records` is the folder for this process's shard of sample records;
    `group_size` is the number of samples of a training prompt; `seed` is the run's, and every sample is drawn by a seed
    of its own made from it.
    """

    def __init__(
        self,
        tokenizer,
        gconfig: GenerationHyperparameters,
        settings: Settings,
        records: Path | str,
        group_size: int,
        seed: int = 0,
    ):
        if isinstance(tokenizer, str):
            from areal.utils.hf_utils import load_hf_tokenizer

            tokenizer = load_hf_tokenizer(tokenizer)
        self.tokenizer = tokenizer
        self.gconfig = gconfig.new(n_samples=1, stop_token_ids=[*gconfig.stop_token_ids, *stop_ids(tokenizer)])
        self.settings = settings
        self.shared = shared(records, settings, group_size, gconfig.max_new_tokens)
        self.writer = self.shared.writer
        self.reward = replace(self.shared.reward, max_new_tokens=gconfig.max_new_tokens)
        self.seed, self.group_size = seed, group_size
        self.begun: dict[int, int] = {}  # position -> samples of its group begun, until all are
        self.asked: tuple[str, list[int]] = ("", [])  # the last question, with its prompt's ids

    async def arun_episode(self, engine: InferenceEngine, data: dict[str, Any]) -> dict[str, torch.Tensor] | None:
        """Sample one completion of `data`: id, question, answer and, in training, position (in the data order).

        Returns tensors of batch size 1: input_ids, loss_mask, logprobs, versions, attention_mask, each (1, T), and
        rewards, sample_id, each (1,). Returns None, which drops the sample, when its reward could not be computed.
        """
        prompt = self._prompt(data["question"])
        sample_id = self._sample_id(data.get("position"))
        request = ModelRequest(
            rid=str(sample_id),
            input_ids=prompt,
            gconfig=self.gconfig,
            tokenizer=self.tokenizer,
            metadata={"sampling_seed": sampling_seed(self.seed, sample_id)},
        )
        try:
            response = await engine.agenerate(request)
        except Exception as failure:  # the server refused or is gone: AReaL would drop the group without a word
            self.writer.write(self._record(sample_id, data) | {"error": _named(failure)})
            return self._failed(failure)
        completion = str(self.tokenizer.decode(response.output_tokens, skip_special_tokens=True))
        scope, is_eval = workflow_context.stat_scope(), workflow_context.get().is_eval
        record, reward = await self._graded(self._record(sample_id, data), data, completion, response)
        self.writer.write(record)
        if reward is None:
            return self._failed(RuntimeError(record["error"]))
        if is_eval:  # without groups
            self.shared.failures = 0
        stats_tracker.get(scope).scalar(reward=reward)
        return _tensors(response, reward, sample_id)

    def _prompt(self, question: str) -> list[int]:
        """Token ids of the prompt, which the samples of a group share."""
        if self.asked[0] != question:
            settings = self.settings
            ids = prompts.prompt_ids(self.tokenizer, question, settings.answer_format, settings.system_prompt)
            self.asked = (question, ids)
        return self.asked[1]

    def _sample_id(self, position: int | None) -> int:
        """In training a function of the data order, so that a resumed run gives each sample the same id and seed."""
        if position is None:
            return self.writer.new_id()
        sample = self.begun.pop(position, 0)
        if sample + 1 < self.group_size:
            self.begun[position] = sample + 1
        return position * self.group_size + sample

    async def _graded(
        self, record: dict, data: dict[str, Any], completion: str, response: ModelResponse
    ) -> tuple[dict, float | None]:
        """The sample's completed record and its reward; the reward is None when it could not be computed."""
        record |= {
            "completion": completion,
            "prompt_tokens": len(response.input_tokens),
            "completion_tokens": len(response.output_tokens),
            "truncated": response.stop_reason == "length",
            "versions": sorted(set(response.output_versions)),
        }
        if prompts.sampled_ids(self.tokenizer, completion, not record["truncated"]) != response.output_tokens:
            record["completion_ids"] = response.output_tokens
        try:
            verdict = grade(completion, data["answer"], self.settings.answer_format)
            record |= {
                "extracted": verdict.extracted,
                "rule": verdict.rule,
                "lenient": verdict.lenient,
                "strict": verdict.strict,
                "formatted": verdict.formatted,
            }
            sample = rewards.Sample(completion, verdict, len(response.output_tokens), record["truncated"], data=data)
            parts = await self._parts(sample, response)
        except Exception as failure:  # whatever a reward raises must end as a counted error, not as a wrong answer
            return record | {"error": _named(failure)}, None
        reward = self.reward.total(parts)
        return record | {"parts": parts, "reward": reward}, reward

    async def _parts(self, sample: rewards.Sample, response: ModelResponse) -> dict[str, float]:
        if not self.reward.processes:
            return self.reward.parts(sample)
        prompt = self.tokenizer.decode(response.input_tokens)
        ids = {"prompt_ids": tuple(response.input_tokens), "completion_ids": tuple(response.output_tokens)}
        return await asyncio.to_thread(self.reward.parts, replace(sample, prompt=prompt, **ids))

    def _record(self, sample_id: int, data: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": sample_id,
            "row": data["id"],
            "position": data.get("position"),
            "question": data["question"],
            "reference": data["answer"],
            "evaluation": workflow_context.get().is_eval,
        }

    def _failed(self, failure: Exception) -> None:
        """Count a failed sample. Too many end the run: AReaL would go on asking for ever."""
        stats_tracker.get(workflow_context.stat_scope()).scalar(sample_error=1)
        self.shared.failures += 1
        if self.shared.failures == self.settings.max_failures:
            self.writer.give_up(
                f"{self.shared.failures} samples failed (max_failures) with no complete group between them; the last: "
                f"{_named(failure)}"
            )


def _named(failure: Exception) -> str:
    return f"{type(failure).__name__}: {failure}"


def _tensors(response: ModelResponse, reward: float, sample_id: int) -> dict[str, torch.Tensor]:
    prompt, completion = response.input_tokens, response.output_tokens
    tensors = {
        "input_ids": torch.tensor(prompt + completion, dtype=torch.int32),
        "loss_mask": torch.tensor([0] * len(prompt) + [1] * len(completion), dtype=torch.int32),
        "logprobs": torch.tensor([0.0] * len(prompt) + response.output_logprobs, dtype=torch.float32),
        "versions": torch.tensor([-1] * len(prompt) + response.output_versions, dtype=torch.int32),
        "attention_mask": torch.ones(len(prompt) + len(completion), dtype=torch.bool),
        "rewards": torch.tensor(reward, dtype=torch.float32),
        "sample_id": torch.tensor(sample_id, dtype=torch.int64),
    }
    return {name: tensor.unsqueeze(0) for name, tensor in tensors.items()}  # (T,) -> (1, T), () -> (1,)


def accept_group(group: dict[str, torch.Tensor]) -> bool:
    """Whether a finished training group reaches the trainer: AReaL's `dynamic_filter_fn`, by its import string.

    A group that lost a sample never does: AReaL would keep the group, and Normalization, which slices by a fixed group
    size, would misalign every later group (areal/utils/data.py). Groups without signal are rejected on request.
    """
    run = next(reversed(_shared.values()))
    rewards_G = group["rewards"]
    reason = None
    if len(rewards_G) != run.group_size:
        reason = f"partial group: {len(rewards_G)} of {run.group_size} samples"
    else:
        run.failures = 0
    if not reason and run.drop_without_signal and bool((rewards_G == rewards_G[0]).all()):
        reason = "no signal: all rewards equal"
    if reason:
        run.writer.reject(group["sample_id"].tolist(), reason)
    return reason is None
