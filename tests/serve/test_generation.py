"""The contract of /generate: what any server that speaks SGLang's interface must answer, held against Hugging Face."""

import json
import random
import urllib.request

import pytest
from hf_reference import EOS, TEXT
from sglang_client import output_ids, output_logprobs

PROMPT = [40, 41, 42, 43, 44, 45, 46]


def prompts(count: int, shortest: int = 3, longest: int = 40) -> list[list[int]]:
    rng = random.Random(count)
    return [[rng.randrange(2, 300) for _ in range(rng.randint(shortest, longest))] for _ in range(count)]


def most_frequent(ids: list[int]) -> int:
    """How often the most frequent token occurs."""
    return max(ids.count(token) for token in set(ids))


def reason(answer: dict) -> dict:
    return answer["meta_info"]["finish_reason"]


def test_greedy_equals_hugging_face(client, reference):
    for prompt in prompts(6):
        answer = client.generate(prompt, temperature=0.0, max_new_tokens=40, ignore_eos=True)
        assert output_ids(answer) == answer["output_ids"] == reference.greedy(prompt, 40)
        assert reason(answer) == {"type": "length", "length": 40}
        assert answer["meta_info"]["prompt_tokens"] == len(prompt)
        assert answer["meta_info"]["completion_tokens"] == 40


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_logprobs_are_of_the_scaled_distribution(client, reference, temperature):
    """At temperature 0 they are those of temperature 1."""
    answer = client.generate(PROMPT, temperature=temperature, max_new_tokens=30, ignore_eos=True)
    expected = reference.logprobs(PROMPT, output_ids(answer), temperature or 1.0)
    assert output_logprobs(answer) == pytest.approx(expected, abs=1e-4)


def test_mixed_lengths_joining_and_leaving(client, reference):
    """Eighty requests of all lengths at once, more than run together: each as if it were alone."""
    rng = random.Random(3)
    sent = []
    for prompt in prompts(80, 1, 90):
        count, temperature = rng.randint(1, 60), rng.choice([0.0, 0.7, 1.0])
        options = {"temperature": temperature, "max_new_tokens": count, "ignore_eos": True}
        sent.append((prompt, count, temperature, client.later(prompt, **options)))
    for prompt, count, temperature, future in sent:
        answer = future.result()
        ids = output_ids(answer)
        assert len(ids) == count
        if temperature == 0.0:
            assert ids == reference.greedy(prompt, count)
        assert output_logprobs(answer) == pytest.approx(reference.logprobs(prompt, ids, temperature or 1.0), abs=1e-4)


def test_input_logprobs(client, reference):
    options = {"temperature": 0.5, "max_new_tokens": 1}
    meta = client.generate(PROMPT, logprob_start_len=0, **options)["meta_info"]
    assert meta["input_token_logprobs"][0] == [None, PROMPT[0], None]
    assert [token for _, token, _ in meta["input_token_logprobs"]] == PROMPT
    expected = reference.logprobs(PROMPT[:1], PROMPT[1:])
    assert [p for p, _, _ in meta["input_token_logprobs"][1:]] == pytest.approx(expected, abs=1e-4)

    tail = client.generate(PROMPT, logprob_start_len=3, **options)["meta_info"]["input_token_logprobs"]
    assert tail[0] == [None, PROMPT[3], None]
    assert [p for p, _, _ in tail[1:]] == pytest.approx(expected[3:], abs=1e-4)
    assert client.generate(PROMPT, **options)["meta_info"]["input_token_logprobs"] == []


def test_top_logprobs(client, reference):
    meta = client.generate(PROMPT, temperature=0.0, max_new_tokens=3, top_logprobs_num=4)["meta_info"]
    for (logprob, token, _), top in zip(meta["output_token_logprobs"], meta["output_top_logprobs"], strict=True):
        assert top[0][1] == token
        assert top[0][0] == pytest.approx(logprob, abs=1e-5)
        assert [p for p, _, _ in top] == sorted((p for p, _, _ in top), reverse=True)
        assert len(top) == 4


def test_without_logprobs(client):
    answer = client.generate(PROMPT, return_logprob=False, max_new_tokens=3, ignore_eos=True)
    assert len(answer["output_ids"]) == 3
    assert not answer["meta_info"].get("output_token_logprobs")


def test_n_samples_of_one_prompt(client, reference):
    answers = client.generate(PROMPT, n=4, temperature=1.0, max_new_tokens=12, ignore_eos=True)
    assert len(answers) == 4
    assert len({a["meta_info"]["id"] for a in answers}) == 4
    assert len({tuple(output_ids(a)) for a in answers}) > 1
    for answer in answers:
        expected = reference.logprobs(PROMPT, output_ids(answer))
        assert output_logprobs(answer) == pytest.approx(expected, abs=1e-4)


def test_batch(client, reference):
    batch = prompts(5)
    answers = client.generate(batch, temperature=0.0, max_new_tokens=10, ignore_eos=True)
    assert [output_ids(a) for a in answers] == [reference.greedy(p, 10) for p in batch]


def test_text(client, folder, reference):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    ids = tokenizer.encode(TEXT[0]).ids
    answer = client.generate(None, text=TEXT[0], temperature=0.0, max_new_tokens=16, ignore_eos=True)
    expected = reference.greedy(ids, 16)
    assert output_ids(answer) == expected
    assert answer["text"] == tokenizer.decode(expected)


def test_stop_ids(client, reference):
    expected = reference.greedy(PROMPT, 40)
    stop = expected[9]
    first = expected.index(stop)
    answer = client.generate(PROMPT, temperature=0.0, max_new_tokens=40, stop_token_ids=[stop])
    assert output_ids(answer) == expected[: first + 1]
    assert reason(answer) == {"type": "stop", "matched": stop}
    # ignore_eos switches stop ids off too, as SGLang does.
    answer = client.generate(PROMPT, temperature=0.0, max_new_tokens=20, stop_token_ids=[stop], ignore_eos=True)
    assert output_ids(answer) == expected[:20]


def test_end_of_sequence(client, reference):
    """A prompt whose greedy answer meets the end-of-sequence id stops there, and not with ignore_eos."""
    for prompt in prompts(300, 2, 6):
        expected = reference.greedy(prompt, 12, eos=True)
        if expected[-1] == EOS and len(expected) < 12:
            break
    else:
        pytest.fail("no prompt of this model leads to its end-of-sequence id")
    answer = client.generate(prompt, temperature=0.0, max_new_tokens=30)
    assert output_ids(answer) == expected
    assert reason(answer) == {"type": "stop", "matched": EOS}
    assert len(output_ids(client.generate(prompt, temperature=0.0, max_new_tokens=30, ignore_eos=True))) == 30
    # On the last permitted token the length comes first.
    answer = client.generate(prompt, temperature=0.0, max_new_tokens=len(expected))
    assert reason(answer) == {"type": "length", "length": len(expected)}


def test_stop_strings(client):
    free = client.generate(PROMPT, temperature=0.0, max_new_tokens=40, ignore_eos=True)
    text = free["text"]
    stop = next(
        text[i : i + 3] for i in range(10, len(text)) if text[i : i + 3].isascii() and len(text[i : i + 3]) == 3
    )
    answer = client.generate(PROMPT, temperature=0.0, max_new_tokens=40, ignore_eos=True, stop=["never there", stop])
    assert reason(answer) == {"type": "stop", "matched": stop}
    assert answer["text"] == text[: text.index(stop)]
    assert output_ids(answer) == output_ids(free)[: len(output_ids(answer))]
    kept = client.generate(PROMPT, temperature=0.0, max_new_tokens=40, ignore_eos=True, stop=stop, no_stop_trim=True)
    assert kept["text"].startswith(text[: text.index(stop) + len(stop)])


def test_min_new_tokens_rules_out_stops(client, reference):
    stop = reference.greedy(PROMPT, 1)[0]
    assert len(output_ids(client.generate(PROMPT, temperature=0.0, max_new_tokens=9, stop_token_ids=[stop]))) == 1
    answer = client.generate(PROMPT, temperature=0.0, max_new_tokens=9, min_new_tokens=5, stop_token_ids=[stop])
    assert len(output_ids(answer)) >= 5
    assert stop not in output_ids(answer)[:5]


def test_top_k_one_is_greedy(client, reference):
    answer = client.generate(PROMPT, temperature=0.8, top_k=1, max_new_tokens=25, ignore_eos=True)
    assert output_ids(answer) == reference.greedy(PROMPT, 25)


@pytest.mark.parametrize("limit", [{"top_p": 0.5}, {"top_k": 3}, {"min_p": 0.3}])
def test_truncation_stays_in_the_nucleus(client, reference, limit):
    """Every drawn token belongs to the nucleus; logprobs stay those of the untruncated distribution."""
    import torch

    answers = client.generate(PROMPT, n=64, temperature=1.0, max_new_tokens=1, ignore_eos=True, **limit)
    with torch.no_grad():
        probs = torch.softmax(reference.model(torch.tensor([PROMPT])).logits[0, -1], -1)
    best, ids = probs.sort(descending=True)
    keep = torch.ones_like(best, dtype=torch.bool)
    keep &= best.cumsum(0) - best <= limit.get("top_p", 1.0) + 1e-5
    keep &= torch.arange(len(best)) < limit.get("top_k", len(best))
    keep &= best >= best[0] * limit.get("min_p", 0.0) - 1e-6
    nucleus = set(ids[keep].tolist())
    assert len(nucleus) < 300
    drawn = {output_ids(a)[0] for a in answers}
    assert drawn <= nucleus
    for answer in answers:
        assert output_logprobs(answer) == pytest.approx([probs[output_ids(answer)[0]].log().item()], abs=1e-4)


def test_samples_follow_the_distribution(client, reference):
    """2,000 first tokens against the model's probabilities: chi-square over the likeliest tokens."""
    import torch

    with torch.no_grad():
        probs = torch.softmax(reference.model(torch.tensor([PROMPT])).logits[0, -1] / 0.7, -1).tolist()
    count = 2000
    answers = client.generate(PROMPT, n=count, temperature=0.7, max_new_tokens=1, ignore_eos=True)
    seen = [output_ids(a)[0] for a in answers]
    common = [t for t in range(len(probs)) if probs[t] * count >= 10]
    observed = [seen.count(t) for t in common] + [sum(t not in common for t in seen)]
    expected = [probs[t] * count for t in common]
    expected.append(count - sum(expected))
    chi = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True) if e > 1)
    assert chi < len(observed) + 6 * (2 * len(observed)) ** 0.5  # mean plus six standard deviations


def test_frequency_penalty(client, reference):
    """A greedy answer that goes in circles leaves them. Which token is counted when is not part of the contract: real
    SGLang counts one token late (and the prompt's last one) where it overlaps scheduling, which is its default.
    """
    prompt = max(prompts(20), key=lambda prompt: most_frequent(reference.greedy(prompt, 60)))
    circles = client.generate(prompt, temperature=0.0, max_new_tokens=60, ignore_eos=True)
    answer = client.generate(prompt, temperature=0.0, frequency_penalty=1.5, max_new_tokens=60, ignore_eos=True)
    assert most_frequent(output_ids(circles)) >= 10
    assert most_frequent(output_ids(answer)) <= most_frequent(output_ids(circles)) // 2


def test_streaming(client, reference):
    """Server-sent events: the answer so far in each, then [DONE]."""
    sampling = {"temperature": 0.0, "max_new_tokens": 12, "ignore_eos": True}
    body = {"input_ids": PROMPT, "sampling_params": sampling, "stream": True}
    request = urllib.request.Request(
        client.url + "/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with client.opener.open(request, timeout=60) as response:
        events = [e.removeprefix("data: ") for e in response.read().decode().split("\n\n") if e]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(e) for e in events[:-1]]
    expected = reference.greedy(PROMPT, 12)
    assert chunks[-1]["output_ids"] == expected
    assert chunks[-1]["meta_info"]["finish_reason"] == {"type": "length", "length": 12}
    assert all(c["output_ids"] == expected[: len(c["output_ids"])] for c in chunks)


@pytest.mark.parametrize("asked", [None, 23])
def test_an_answer_ends_two_tokens_before_the_context(client, asked):
    answer = client.generate([5] * 1000, max_new_tokens=asked, ignore_eos=True)
    assert len(output_ids(answer)) == 22
    assert reason(answer) == {"type": "length", "length": 22}


def test_a_prompt_may_be_as_long_as_leaves_five_tokens(client):
    assert len(output_ids(client.generate([5] * 1017, max_new_tokens=None, ignore_eos=True))) == 5
