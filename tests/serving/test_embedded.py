"""What the embedded server promises beyond SGLang's contract."""

import http.client
import json
from urllib.parse import urlsplit

import pytest
from sglang_client import output_ids

PROMPT = [50, 51, 52, 53]


def test_a_seed_gives_the_same_answer(embedded):
    options = {"temperature": 1.0, "max_new_tokens": 20, "ignore_eos": True}
    first, again, other = (output_ids(embedded.generate(PROMPT, sampling_seed=s, **options)) for s in (7, 7, 8))
    assert first == again != other
    samples = embedded.generate(PROMPT, n=3, sampling_seed=7, **options)
    assert output_ids(samples[0]) == first
    assert output_ids(samples[1]) == other


def test_a_seeded_answer_goes_on_as_it_would_have(embedded):
    """Prompt + partial with the same seed continues the same sample, as after an abort."""
    options = {"temperature": 1.0, "ignore_eos": True, "sampling_seed": 11}
    whole = output_ids(embedded.generate(PROMPT, max_new_tokens=24, **options))
    assert output_ids(embedded.generate(PROMPT + whole[:9], max_new_tokens=15, **options)) == whole[9:]


def test_equal_prompts_share_a_prefill(embedded):
    prompt = [60, 61, 62, 63, 64, 65]
    embedded.call("/flush_cache", {})
    first = embedded.generate(prompt, max_new_tokens=2)
    again = embedded.generate(prompt, max_new_tokens=2)
    assert (first["meta_info"]["cached_tokens"], again["meta_info"]["cached_tokens"]) == (0, len(prompt))


def test_a_client_that_goes_away_frees_its_slot(embedded):
    """flush_cache succeeds only when nothing runs: it does soon after the client of a long answer hung up."""
    host = urlsplit(embedded.url)
    connection = http.client.HTTPConnection(host.hostname, host.port)
    sampling = {"max_new_tokens": 1000, "ignore_eos": True}
    body = {"input_ids": [[i + 2] for i in range(60)], "sampling_params": sampling}
    connection.request("POST", "/generate", json.dumps(body), {"Content-Type": "application/json"})
    while embedded.call("/flush_cache", {})[0] == 200:
        pass
    connection.close()
    answers = embedded.generate(PROMPT, temperature=0.0, max_new_tokens=200, ignore_eos=True)
    assert len(output_ids(answers)) == 200
    assert embedded.call("/flush_cache", {})[0] == 200  # 1,000 tokens could not have been done by now


@pytest.mark.parametrize(
    "payload",
    [
        {"input_ids": [5], "sampling_params": {"regex": "a+"}},
        {"input_ids": [5], "sampling_params": {"repetition_penalty": 1.2}},
        {"input_ids": [5], "sampling_params": {"temprature": 1.0}},
        {"input_ids": [5], "image_data": ["x"]},
        {"input_ids": [5], "lora_path": "x"},
        {"input_ids": [[5], [6]], "stream": True},
        [1, 2],
    ],
)
def test_what_is_not_supported_says_so(embedded, payload):
    status, answer = embedded.call("/generate", payload)
    assert status == 400
    assert answer["error"]["message"]


def test_unknown_route_is_an_error_in_the_same_shape(embedded):
    status, answer = embedded.call("/nothing_here")
    assert status == 404
    assert answer["error"]["message"]
