"""What the embedded server promises beyond SGLang's contract."""

import http.client
import json
from pathlib import Path
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
    ],
)
def test_what_is_not_supported_says_so(embedded, payload):
    status, answer = embedded.call("/generate", payload)
    assert status == 400
    assert answer["error"]["message"]


def test_a_token_outside_the_vocabulary_is_refused(embedded):
    """Real SGLang 0.5.10 dies of it, as of an empty prompt in a batch and of a negative logprob_start_len."""
    status, answer = embedded.call("/generate", {"input_ids": [5, 10**6]})
    assert status == 400
    assert "vocabulary" in answer["error"]["message"]


def test_frequency_penalty(embedded, reference):
    """Greedy with a frequency penalty equals an own loop over Hugging Face's logits; each token counts at once."""
    import torch

    ids = []
    with torch.no_grad():
        for _ in range(20):
            logits = reference.model(torch.tensor([PROMPT + ids])).logits[0, -1].clone()
            for token in ids:
                logits[token] -= 1.5
            ids.append(int(logits.argmax()))
    answer = embedded.generate(PROMPT, temperature=0.0, frequency_penalty=1.5, max_new_tokens=20, ignore_eos=True)
    assert output_ids(answer) == ids


def test_a_checkpoint_cut_off_while_it_was_written(embedded, tmp_path, folder, reference):
    """The old weights stay. Real SGLang 0.5.10 dies of it: it rolls back by loading the broken folder once more."""
    for name in ("config.json", "model.safetensors"):
        content = Path(folder, name).read_bytes()
        (tmp_path / name).write_bytes(content if name.endswith("json") else content[: len(content) // 2])
    status, answer = embedded.call("/update_weights_from_disk", {"model_path": str(tmp_path)})
    assert status == 400
    assert answer["success"] is False
    assert str(tmp_path) in answer["message"]
    answer = embedded.generate(PROMPT, temperature=0.0, max_new_tokens=10, ignore_eos=True)
    assert output_ids(answer) == reference.greedy(PROMPT, 10)
    assert embedded.call("/model_info")[1]["model_path"] == folder
