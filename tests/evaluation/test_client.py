"""The HTTP engines against a scripted server: what is sent, what is read, what is tried again."""

from pathlib import Path

import pytest
from fake_server import serving

from areal_gsm8k.data.prompts import stop_ids
from areal_gsm8k.evaluation import EvaluationError, EvaluationSettings, client, engines, evaluate, items
from areal_gsm8k.evaluation.client import Client, dialect_of
from areal_gsm8k.evaluation.engine import Answer, CompletionRequest
from areal_gsm8k.evaluation.model import Model
from areal_gsm8k.evaluation.server import ForeignServer, started

pytestmark = pytest.mark.usefixtures("impatient")
SETTINGS = EvaluationSettings(temperature=0.7, max_new_tokens=8, engine="vllm", url="http://server")


def ask(kind, url, model):
    """The answers to one request, a list of one."""
    answers = []
    Client(kind, url, model, SETTINGS).answer([CompletionRequest(0, 0, [5, 6, 7], 8, seed=0)], answers.extend)
    return [answer for _, answer in answers]


def sglang_answer(ids, finish):
    return {"text": "unused", "output_ids": ids, "meta_info": {"finish_reason": finish}}


VLLM = {"choices": [{"text": " 42", "finish_reason": "stop"}], "usage": {"completion_tokens": 3}}


def test_vllm_is_asked_with_token_ids_and_every_sampling_parameter(model):
    with serving([(200, VLLM)]) as (url, bodies):
        (answer,) = ask("vllm", url, model)
    assert (answer.text, answer.tokens, answer.truncated, answer.error) == (" 42", 3, False, None)
    path, body = bodies[0]
    assert path == "/v1/completions"
    assert body == {
        "model": "the-model", "prompt": [5, 6, 7], "max_tokens": 8, "temperature": 0.7, "top_p": 1.0, "top_k": -1,
        "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": stop_ids(model.tokenizer), "seed": 0,
    }  # fmt: skip


def test_vllm_at_its_limit(model):
    cut = {"choices": [{"text": " 4", "finish_reason": "length"}], "usage": {"completion_tokens": 8}}
    with serving([(200, cut)]) as (url, _):
        assert ask("vllm", url, model)[0].truncated


def test_sglang_is_asked_through_generate(model):
    stop = model.tokenizer.eos_token_id
    ids = model.tokenizer("6 coins")["input_ids"]
    answers = [
        (200, sglang_answer([*ids, stop], {"type": "stop", "matched": stop})),
        (200, sglang_answer([*ids, stop], {"type": "length", "length": 8})),  # ended by its very last token
        (200, sglang_answer(ids, {"type": "length", "length": 8})),
    ]
    with serving(answers, sglang=True) as (url, bodies):
        found = [ask("sglang", url, model)[0] for _ in answers]
    assert [answer.text for answer in found] == ["6 coins"] * 3
    assert [answer.truncated for answer in found] == [False, False, True]
    assert found[0].tokens == len(ids) + 1
    path, body = bodies[0]
    assert path == "/generate" and body["input_ids"] == [5, 6, 7]
    assert body["sampling_params"] == {
        "max_new_tokens": 8, "temperature": 0.7, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0,
        "stop_token_ids": stop_ids(model.tokenizer),
    }  # fmt: skip


@pytest.mark.parametrize(
    "first",
    [(503, {}), (429, {}), (200, {"nonsense": 1}), (200, {"choices": [{"finish_reason": "abort", "text": ""}]})],
)
def test_a_hiccup_is_tried_again(model, first):
    with serving([first, (200, VLLM)]) as (url, bodies):
        assert ask("vllm", url, model)[0].text == " 42"
    assert len(bodies) == 2


def test_a_refusal_is_not_tried_again_and_names_itself(model):
    with serving([(400, {"error": {"message": "too long"}}), (200, VLLM)]) as (url, bodies):
        (refused,), (had,) = ask("vllm", url, model), ask("vllm", url, model)
    assert "HTTP 400" in refused.error and "too long" in refused.error and refused.text is None
    assert had.text == " 42" and len(bodies) == 2


def test_what_stays_broken_is_an_error(model):
    with serving([(500, {"error": "broken"})]) as (url, bodies):
        (answer,) = ask("vllm", url, model)
    assert "HTTP 500" in answer.error and len(bodies) == client.TRIES
    aborted = {"type": "abort", "message": "Aborted"}
    with serving([(200, sglang_answer([], aborted))]) as (url, _):
        assert ask("sglang", url, model)[0].error == "the server aborted it: Aborted"


def test_no_more_than_batch_size_at_once(model, monkeypatch):
    """Counted in the client: how many requests are under way whenever one is read."""
    under_way, most = [], []
    monkeypatch.setattr(Client, "_vllm", lambda self, request: under_way.append(1) or {"prompt": request.prompt_ids})
    monkeypatch.setattr(
        Client, "_of_vllm", lambda self, *_: most.append(len(under_way)) or (under_way.pop() and Answer("x", 1))
    )
    with serving([(200, VLLM)]) as (url, _):
        settings = EvaluationSettings(engine="vllm", url=url, batch_size=3)
        answers = []
        Client("vllm", url, model, settings).answer(
            [CompletionRequest(i, 0, [5], 8, 0) for i in range(12)], answers.extend
        )
    assert len(answers) == 12 and max(most) <= 3


def test_nothing_at_the_url(model):
    with serving([(200, VLLM)]) as (url, _):
        pass
    with pytest.raises(EvaluationError, match="no server answers there"):
        Client("vllm", url, model, SETTINGS)


def test_a_server_that_goes_away_ends_the_evaluation(model):
    with serving([(200, VLLM)]) as (url, _):
        asker = Client("vllm", url, model, SETTINGS)
    with pytest.raises(EvaluationError, match="cannot be reached any more"):
        asker.answer([CompletionRequest(0, 0, [5], 8, 0), CompletionRequest(1, 0, [5], 8, 0)], lambda _: None)


def test_auto_tells_the_two_apart():
    with serving([(200, {})], sglang=True) as (url, _):
        assert dialect_of(url) == "sglang" == engines.choose(EvaluationSettings(url=url))
    with serving([(200, {})]) as (url, _):
        assert dialect_of(url) == "vllm" == engines.choose(EvaluationSettings(url=url))


def test_an_evaluation_at_a_url_says_what_was_served(untrained_model, tmp_path):
    with serving([(200, VLLM)]) as (url, _):
        settings = EvaluationSettings(answer_format="hash", engine="vllm", url=url)
        card = evaluate(untrained_model, items.load("generated", n=2), settings, tmp_path)
    assert (card.served_model, card.software, card.completions) == ("the-model", {"url": url}, 2)


def test_a_server_that_is_not_installed(untrained_model, tmp_path):
    with pytest.raises(EvaluationError, match="engine vllm is not installed here"):
        evaluate(untrained_model, items.load("generated", n=2), EvaluationSettings(engine="vllm"), tmp_path)


STAND_IN = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
if __name__ == "__main__":
    print(sys.argv, flush=True)
    options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    http.server.HTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()
"""


@pytest.mark.parametrize(
    ("kind", "module", "said"),
    [
        ("sglang", "sglang/launch_server.py", "'--model-path', 'm'"),
        ("vllm", "vllm/entrypoints/openai/api_server.py", "'--generation-config', 'vllm', '--model', 'm'"),
    ],
)
def test_sglang_and_vllm_are_started_and_stopped(tmp_path, monkeypatch, kind, module, said):
    """With stand-ins for the two packages: the command line, the wait for health, the end."""
    (tmp_path / module).parent.mkdir(parents=True)
    (tmp_path / module).write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with started(kind, Model("m", Path("m")), tmp_path / "server.log", 64, "bfloat16") as server:
        assert isinstance(server, ForeignServer)
        server.check()
        assert said in server.log.read_text() and "'--dtype', 'bfloat16'" in server.log.read_text()
    assert server.exit_code() is not None
