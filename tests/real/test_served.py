"""The embedded server on real models: token for token what transformers makes of them.

Of a greedy answer every token must be the one whose logit is highest in transformers' own forward pass over prompt and
answer, which is the same as generating it, and a sixth of the work.
"""

from itertools import cycle, islice

import pytest
import torch
from hf_reference import Reference
from sglang_client import Client, output_ids, output_logprobs

from areal_gsm8k.data.prompts import FORMATS, configured_stop_ids, messages, prompt_ids, stop_ids
from areal_gsm8k.serve.engine import Engine
from areal_gsm8k.serve.params import SamplingParams
from areal_gsm8k.serve.process import ServerProcess

CLOSE = 1e-4  # logits nearer than this may change places: sums are made in another order
ANSWERS = (8, 24, 48, 64)  # tokens


@pytest.fixture(scope="module")
def tokenizer(real_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(real_model)


@pytest.fixture(scope="module")
def prompts(tokenizer, questions) -> list[list[int]]:
    """A prompt a question, the answer formats in turn."""
    return [prompt_ids(tokenizer, row["question"], form) for row, form in zip(questions, cycle(FORMATS), strict=False)]


@pytest.fixture(scope="module")
def reference(real_model) -> Reference:
    return Reference(str(real_model))


def test_greedy_tokens_and_logprobs_are_those_of_transformers(real_model, prompts, reference, tmp_path):
    """A hundred prompts, 64 at once, in float32."""
    with ServerProcess(real_model, tmp_path / "log", threads=2, dtype="float32", max_running_requests=64) as server:
        server.wait_healthy(300)
        client = Client(server.url)
        asked = [
            client.later(prompt, temperature=0.0, max_new_tokens=limit)
            for prompt, limit in zip(prompts, cycle(ANSWERS), strict=False)
        ]
        answers = [one.result() for one in asked]
    ties = tokens = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = output_ids(answer)
        with torch.no_grad():
            logits = reference.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].float()  # (T, V)
        chosen = logits.gather(1, torch.tensor(ids)[:, None])[:, 0]
        behind = logits.max(1).values - chosen
        assert behind.max() < CLOSE
        ties += int((behind > 0).sum())
        tokens += len(ids)
        theirs = (chosen - logits.logsumexp(1)).tolist()
        assert output_logprobs(answer) == pytest.approx(theirs, abs=1e-4)
    print(f"\n{real_model.name}: {tokens} tokens, {ties} of them with two best logits closer than {CLOSE}")
    assert ties <= tokens / 1000


def test_the_prompt_is_the_models_own_chat_template(tokenizer, questions):
    for row, form in islice(zip(questions, cycle(FORMATS), strict=False), 12):
        for system in (None, "You are a careful pupil."):
            chat = messages(row["question"], form, system)
            text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            ids = prompt_ids(tokenizer, row["question"], form, system)
            assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
            assert row["question"] in tokenizer.decode(ids) and tokenizer.decode(ids[-8:]).endswith("assistant\n")


def test_every_stop_id_ends_an_answer(real_model, tokenizer, reference):
    """In the weights each stop id changes places with the one that the model ends with: it must end there with it."""
    stops = sorted(configured_stop_ids(reference.model) | set(stop_ids(tokenizer)))
    engine = Engine.from_pretrained(str(real_model), dtype="float32")
    table = engine.model.model.get_input_embeddings().weight
    assert table is engine.model.model.get_output_embeddings().weight  # tied
    wanted = SamplingParams(temperature=0.0, max_new_tokens=400, stop_token_ids=tuple(stops))
    greeting = [{"role": "user", "content": "Say hello."}]  # answered in a few tokens
    prompt = list(tokenizer.apply_chat_template(greeting, add_generation_prompt=True, tokenize=True, return_dict=False))

    def generated(prompt):
        engine.flush()
        return engine.generate([prompt], wanted)[0]

    whole = generated(prompt)
    assert whole.finish_reason == "stop", "the model did not end by itself: nothing to check"
    end = whole.token_ids[-1]
    for stop in stops:
        swap, places = {end: stop, stop: end}, torch.tensor([end, stop])
        with torch.inference_mode():
            table[places] = table[places.flip(0)]
        swapped = generated([swap.get(token, token) for token in prompt])
        with torch.inference_mode():
            table[places] = table[places.flip(0)]
        assert swapped.token_ids == [*whole.token_ids[:-1], stop] and swapped.matched == stop
