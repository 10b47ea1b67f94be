"""The contract of errors: which status and which of SGLang's shapes, on every route."""

import json

import pytest


@pytest.mark.parametrize(
    ("payload", "part"),
    [
        ({}, "input_ids"),
        ({"input_ids": []}, ""),
        ({"input_ids": [5], "sampling_params": {"temperature": -1}}, "temperature"),
        ({"input_ids": [5], "sampling_params": {"top_p": 0}}, "top_p"),
        ({"input_ids": [5], "sampling_params": {"top_k": -5}}, "top_k"),
        ({"input_ids": [5], "sampling_params": {"max_new_tokens": -1}}, "max_new_tokens"),
        ({"input_ids": [5], "sampling_params": {"max_new_tokens": 4, "min_new_tokens": 5}}, "min_new_tokens"),
        ({"input_ids": [5] * 2000}, "context length"),
        ({"input_ids": [5] * 1000, "sampling_params": {"max_new_tokens": 24}}, "context length"),
        ({"input_ids": [5] * 1018, "sampling_params": {"max_new_tokens": 1}}, "maximum allowed length"),
        ({"input_ids": [5], "return_logprob": True, "logprob_start_len": 2}, "logprob_start_len"),
    ],
)
def test_bad_input_is_a_400_with_a_message(client, payload, part):
    status, answer = client.call("/generate", payload)
    assert status == 400
    assert part in answer["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", b"{nope"),
        ("/generate", b"[1, 2]"),
        ("/generate", b'{"input_ids": "abc"}'),
        ("/generate", b'{"input_ids": [1.5]}'),
        ("/generate", b'{"input_ids": [5], "sampling_params": "x"}'),
        ("/pause_generation", b'{"mode": "sleep"}'),
        ("/update_weights_from_disk", b"{}"),
        ("/update_weights_from_disk", b'{"model_path": 3}'),
    ],
)
def test_a_malformed_body_is_a_400_of_another_shape(client, path, body):
    status, answer = client.call(path, raw=body, method="POST")
    assert status == 400
    assert answer.pop("message")
    assert answer == {"object": "error", "type": "Bad Request", "param": None, "code": 400}


def test_no_such_route(client):
    assert client.call("/nothing_here") == (404, {"detail": "Not Found"})
    assert client.call("/pause_generation") == (405, {"detail": "Method Not Allowed"})


def test_an_error_of_a_stream_is_an_event(client):
    body = {"input_ids": [5], "sampling_params": {"top_p": 0}, "stream": True}
    status, answer = client.call("/generate", body)
    assert status == 200
    event, done = answer.strip().split("\n\n")
    assert json.loads(event.removeprefix("data: ")) == {"error": {"message": "top_p must be in (0, 1], got 0."}}
    assert done == "data: [DONE]"
