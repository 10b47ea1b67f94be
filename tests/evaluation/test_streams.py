"""Replies that stream: what the HTTP client makes of events, and how both engines stop when they are cancelled."""

import asyncio
import itertools

import pytest
from fake_server import streaming

from areal_gsm8k.children import ChildDied
from areal_gsm8k.evaluation import EvaluationSettings
from areal_gsm8k.evaluation.client import Client
from areal_gsm8k.evaluation.engine import CompletionRequest
from areal_gsm8k.evaluation.transformers_engine import TransformersEngine

pytestmark = pytest.mark.usefixtures("impatient")
DONE = "[DONE]"
REQUEST = CompletionRequest(0, 0, [5, 6, 7], 8, seed=3)


def streamed(kind, url, model, check=lambda: None):
    """The answer, and the texts told on the way to it."""
    told = []
    settings = EvaluationSettings(engine=kind, url=url, temperature=0.7)
    answer = asyncio.run(Client(kind, url, model, settings, check).stream(REQUEST, told.append))
    return answer, told


def sglang(text, ids, finish=None):
    meta = {"finish_reason": finish and {"type": finish}, "completion_tokens": len(ids)}
    return {"text": text, "output_ids": ids, "meta_info": meta}


def vllm(text, finish=None):
    return {"choices": [{"text": text, "finish_reason": finish}]}


def test_sglangs_events_hold_the_whole_text(model):
    ids, stop = model.tokenizer("6 coins")["input_ids"], model.tokenizer.eos_token_id
    events = [sglang("6", ids[:1]), sglang("6 coins", ids), sglang("6 coins", [*ids, stop], "stop"), DONE]
    with streaming(events) as (url, bodies, _):
        answer, told = streamed("sglang", url, model)
    assert told == ["6", "6 coins", "6 coins"]
    assert (answer.text, answer.tokens, answer.truncated, answer.error) == ("6 coins", len(ids) + 1, False, None)
    assert bodies[0]["stream"] is True and bodies[0]["input_ids"] == [5, 6, 7]
    assert bodies[0]["sampling_params"]["temperature"] == 0.7


def test_vllms_events_are_pieces(model):
    usage = {"choices": [], "usage": {"completion_tokens": 8}}
    with streaming([vllm(" 4"), vllm("2"), vllm("", "length"), usage, DONE]) as (url, bodies, _):
        answer, told = streamed("vllm", url, model)
    assert told == [" 4", " 42", " 42", " 42"]
    assert (answer.text, answer.tokens, answer.truncated) == (" 42", 8, True)
    assert bodies[0]["stream_options"] == {"include_usage": True} and bodies[0]["seed"] == 3


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([sglang("4", [1])], "the stream broke off"),
        ([{"error": {"message": "too long"}}, DONE], 'the server refused it: {"message": "too long"}'),
        ([sglang("4", [1], "abort"), DONE], "the server aborted it"),
        ([sglang("4", [1]) | {"output_ids": []}, DONE], "start SGLang without its option for incremental streaming"),
    ],
)
def test_what_is_no_answer_says_why(model, events, reason):
    with streaming(events) as (url, _, _):
        answer, _ = streamed("sglang", url, model)
    assert answer.text is None and reason in answer.error


def test_a_refusal_names_its_status(model):
    with streaming(["the model is asleep"], status=503) as (url, _, _):
        answer, told = streamed("vllm", url, model)
    assert answer.error.startswith("HTTP 503") and "asleep" in answer.error and told == []


def test_a_server_of_ours_that_died_is_told_by_its_log(model):
    def check():
        raise ChildDied("embedded server was ended by SIGKILL, and its log")

    with streaming([sglang("4", [1])]) as (url, _, _), pytest.raises(ChildDied, match="and its log"):
        streamed("embedded", url, model, check)


async def cancelled_at_the_first_text(engine, request):
    """Cancel a stream once it has told something; how often it had told when that had taken effect."""
    told, began = [], asyncio.Event()
    loop = asyncio.get_running_loop()

    def tell(text):
        told.append(text)
        loop.call_soon_threadsafe(began.set)

    streaming = asyncio.create_task(engine.stream(request, tell))
    await began.wait()
    streaming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await streaming
    return told


def test_cancelled_the_client_closes_its_connection(model):
    with streaming(itertools.repeat(sglang("4", [1]))) as (url, _, left):
        asker = Client("sglang", url, model, EvaluationSettings(engine="sglang", url=url))
        assert asyncio.run(cancelled_at_the_first_text(asker, REQUEST))
        assert left.wait(60)


def test_cancelled_transformers_stops_with_the_next_token(model):
    """asyncio.run waits for its threads, so afterwards nothing is generated any more."""
    engine = TransformersEngine(model, EvaluationSettings(engine="hf"))
    engine.stop_ids = set()
    told = asyncio.run(cancelled_at_the_first_text(engine, CompletionRequest(0, 0, [5, 6, 7], 400, seed=0)))
    assert 0 < len(told) < 400


def test_transformers_tells_the_whole_text_so_far(model):
    engine = TransformersEngine(model, EvaluationSettings(engine="hf", temperature=1.0))
    request = CompletionRequest(0, 0, [5, 6, 7], 12, seed=3)
    whole, told = [], []
    engine.answer([request], whole.extend)
    assert asyncio.run(engine.stream(request, told.append)) == whole[0][1]
    assert told[-1] == whole[0][1].text and len(told) == whole[0][1].tokens
    assert all(later.startswith(text.rstrip("\ufffd")) for text, later in itertools.pairwise(told))
