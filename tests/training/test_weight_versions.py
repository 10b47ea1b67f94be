import asyncio
from types import SimpleNamespace

import pytest

pytest.importorskip("areal", reason="areal is not installed")

from areal.api import ModelRequest, WeightUpdateMeta
from areal.api.cli_args import GenerationHyperparameters, InferenceEngineConfig
from areal.infra import remote_inf_engine, workflow_context

from areal_gsm8k.training.rollouts import SGLangRollouts, VLLMRollouts


def sglang_answer(tokens: list[int], finish: str, weights: str) -> dict:
    logprobs = [[-0.5, token, None] for token in tokens]
    return {
        "meta_info": {
            "finish_reason": {"type": finish}, "output_token_logprobs": logprobs, "weight_version": weights,
        }
    }  # fmt: skip


def vllm_answer(tokens: list[int], finish: str) -> dict:
    logprobs = {"tokens": [f"token:{token}" for token in tokens], "token_logprobs": [-0.5] * len(tokens)}
    return {"choices": [{"finish_reason": finish, "logprobs": logprobs}]}


@pytest.fixture
def complete(monkeypatch):
    """The versions of a completion that these answers make. Before each is read, the trainer counts a new version."""

    def make(kind, answers: list[dict], version: int) -> list[int]:
        config = InferenceEngineConfig(backend="sglang:d1", experiment_name="e", trial_name="t")
        client = kind(config)
        client.addresses, client.workflow_executor = ["server:1"], SimpleNamespace(is_paused=lambda: False)
        client.set_version(version)
        left = iter(answers)

        async def request(**_):
            client.set_version(client.get_version() + 1)
            return next(left)

        async def session():
            return None

        monkeypatch.setattr(remote_inf_engine, "arequest_with_retry", request)
        monkeypatch.setattr(workflow_context, "get_aiohttp_session", session)
        wanted = GenerationHyperparameters(max_new_tokens=8, max_tokens=64)
        response = asyncio.run(client.agenerate(ModelRequest(input_ids=[1, 2], gconfig=wanted)))
        assert len(response.output_tokens) == len(response.output_versions)
        return response.output_versions

    return make


def test_an_answer_read_after_an_update_keeps_the_version_that_made_it(complete):
    answers = [sglang_answer([5, 6], "abort", "e/t:3"), sglang_answer([7], "stop", "e/t:4")]
    assert complete(SGLangRollouts, answers, version=3) == [3, 3, 4]


def test_a_request_that_the_server_held_until_after_an_update_is_of_the_new_version(complete):
    assert complete(SGLangRollouts, [sglang_answer([5], "stop", "e/t:4")], version=3) == [4]


@pytest.mark.parametrize("weights", ["default", "e/other:9", "7", ""])
def test_a_server_that_names_no_version_of_this_run_has_the_one_at_the_request(complete, weights):
    assert complete(SGLangRollouts, [sglang_answer([5, 6], "stop", weights)], version=3) == [3, 3]


def test_vllm_names_none(complete):
    assert complete(VLLMRollouts, [vllm_answer([5, 6], "stop")], version=3) == [3, 3]


def test_an_update_tells_the_server_its_version():
    config = InferenceEngineConfig(backend="sglang:d1", experiment_name="e", trial_name="t")
    backend = SGLangRollouts(config).backend
    (told,) = backend.build_disk_weight_update_requests(WeightUpdateMeta("disk", "/w", version=4)).requests
    assert told.endpoint == "/update_weights_from_disk" and told.payload["weight_version"] == "e/t:4"
