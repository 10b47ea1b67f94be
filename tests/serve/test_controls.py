"""The contract of pause, continue, abort, weight update and the information routes."""

import time
from concurrent.futures import wait

import pytest
from sglang_client import output_ids

PROMPTS = [[2 + 3 * i, 5 + i, 9] for i in range(64)]
TOTAL = 200
LONG = {"temperature": 0.0, "max_new_tokens": TOTAL, "ignore_eos": True}


def aborted(answer: dict) -> bool:
    return answer["meta_info"]["finish_reason"]["type"] == "abort"


def load(client, prompts=PROMPTS):
    """Start long greedy requests and return once they are being answered, which is when no cache is flushed."""
    futures = [client.later(prompt, **LONG) for prompt in prompts]
    deadline = time.monotonic() + 60
    while (status := client.call("/flush_cache", {})[0]) == 200:  # it succeeds as long as nothing runs
        assert time.monotonic() < deadline
    assert status == 400
    time.sleep(0.1)
    return futures


def finish(client, prompt: list[int], answer: dict) -> list[int]:
    """As AReaL's client does: resend prompt + partial until the answer is whole."""
    ids = output_ids(answer)
    while len(ids) < TOTAL:
        rest = client.generate(prompt + ids, **(LONG | {"max_new_tokens": TOTAL - len(ids)}))
        ids += output_ids(rest)
    return ids


def interrupted(client) -> list:
    """Pause a load of 64. Some were cut in the middle of their answer; the server is left paused.

    How many depends on the machine's mood (all may be done before the pause, or not yet there), hence several goes.
    """
    for _ in range(5):
        futures = load(client)
        status, answer = client.call("/pause_generation", {})
        assert (status, answer) == (200, {"message": "Generation paused successfully.", "status": "ok"})
        done, _ = wait(futures, timeout=2.0)  # a request that comes only after the pause waits for the continue
        if any(aborted(f.result()) and output_ids(f.result()) for f in done):
            return futures
        client.call("/continue_generation", {})
        wait(futures)
    pytest.fail("no request was running when the pause came")


def test_pause_under_load_returns_partials_that_continue(swappable, reference):
    """64 requests: the pause answers them with what they have; prompt + partial goes on to the identical answer."""
    client = swappable
    futures = interrupted(client)
    status, answer = client.call("/continue_generation", {})
    assert (status, answer) == (200, {"message": "Generation continued successfully.", "status": "ok"})
    answers = [future.result() for future in futures]
    for answer in filter(aborted, answers):
        assert answer["meta_info"]["finish_reason"]["message"] in ("Aborted", "Abort in waiting queue")
        assert answer["output_ids"] == output_ids(answer)
        assert len(output_ids(answer)) < TOTAL
    for prompt, answer in list(zip(PROMPTS, answers, strict=True))[::10]:
        assert finish(client, prompt, answer) == reference.greedy(prompt, TOTAL)


@pytest.mark.parametrize("mode", ["in_place", "retract"])
def test_pause_that_keeps_requests(swappable, reference, mode):
    client = swappable
    futures = load(client, PROMPTS[:6])
    assert client.call("/pause_generation", {"mode": mode})[0] == 200
    wait(futures, timeout=0.3)
    assert client.call("/continue_generation", {})[0] == 200
    for prompt, future in zip(PROMPTS, futures, strict=False):
        assert output_ids(future.result()) == reference.greedy(prompt, TOTAL)


def test_generate_waits_while_paused(swappable, reference):
    client = swappable
    client.call("/pause_generation", {})
    future = client.later([7, 8, 9], temperature=0.0, max_new_tokens=5, ignore_eos=True)
    assert not wait([future], timeout=0.5).done
    client.call("/abort_request", {"abort_all": True})  # ends what runs, not what waits for the continue
    assert not wait([future], timeout=0.3).done
    client.call("/continue_generation", {})
    assert output_ids(future.result()) == reference.greedy([7, 8, 9], 5)


def test_abort_one(swappable, reference):
    client = swappable
    kept = client.later([20, 21], **LONG)
    gone = client.later([22, 23], rid="the-one", **(LONG | {"max_new_tokens": 1000}))
    while not gone.done():
        status, body = client.call("/abort_request", {"rid": "the-one"})
        assert (status, body) == (200, "")
    assert aborted(gone.result())
    assert gone.result()["meta_info"]["id"] == "the-one"
    for nobody in ({}, {"rid": "nobody"}):
        assert client.call("/abort_request", nobody) == (200, "")
    assert output_ids(kept.result()) == reference.greedy([20, 21], TOTAL)


def test_abort_all(swappable):
    client = swappable
    futures = load(client, PROMPTS[:16])
    assert client.call("/abort_request", {"abort_all": True})[0] == 200
    assert any(aborted(future.result()) for future in futures)
    assert len(output_ids(client.generate([9, 9], max_new_tokens=3, ignore_eos=True))) == 3


def test_update_then_tokens_come_from_the_new_weights(swappable, folder, other_folder, reference, other_reference):
    client, prompt = swappable, [30, 31, 32]
    options = {"temperature": 0.0, "max_new_tokens": 30, "ignore_eos": True}
    assert output_ids(client.generate(prompt, **options)) == reference.greedy(prompt, 30)
    status, answer = client.update_weights(other_folder)
    assert status == 200
    assert answer["success"] is True
    assert answer["num_paused_requests"] == 0
    assert output_ids(client.generate(prompt, **options)) == other_reference.greedy(prompt, 30)
    assert reference.greedy(prompt, 30) != other_reference.greedy(prompt, 30)
    assert client.call("/model_info")[1]["model_path"] == other_folder
    assert client.call("/v1/models")[1]["data"][0]["id"] == other_folder


def test_an_answer_may_span_two_versions(swappable, other_folder, reference, other_reference):
    """AReaL's sequence under load: pause, update, continue, resend. Old weights up to the cut, new ones after it."""
    client = swappable
    futures = interrupted(client)
    update = {"model_path": other_folder, "abort_all_requests": True}
    assert client.call("/update_weights_from_disk", update)[0] == 200
    assert client.call("/continue_generation", {})[0] == 200
    answers = [future.result() for future in futures]
    spanning = [(p, a) for p, a in zip(PROMPTS, answers, strict=True) if aborted(a) and output_ids(a)]
    assert spanning
    for prompt, answer in spanning[::10]:
        old = output_ids(answer)
        assert old == reference.greedy(prompt, len(old))
        assert finish(client, prompt, answer) == old + other_reference.greedy(prompt + old, TOTAL - len(old))


def test_update_that_is_not_paused_waits_for_running_requests(swappable, other_folder, reference):
    client = swappable
    futures = load(client, PROMPTS[:4])
    update = {"model_path": other_folder, "flush_cache": False}  # see Client.update_weights
    assert client.call("/update_weights_from_disk", update)[0] == 200
    for prompt, future in zip(PROMPTS, futures, strict=False):
        assert output_ids(future.result()) == reference.greedy(prompt, TOTAL)


def test_a_bad_weights_path_leaves_the_old_weights(swappable, tmp_path, folder, reference):
    client = swappable
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (tmp_path / "nowhere", empty, ""):
        status, answer = client.call("/update_weights_from_disk", {"model_path": str(path)})
        assert status == 400
        assert answer["success"] is False
        assert answer["message"]
        assert answer["num_paused_requests"] == 0
    answer = client.generate([33, 34], temperature=0.0, max_new_tokens=10, ignore_eos=True)
    assert output_ids(answer) == reference.greedy([33, 34], 10)
    assert client.call("/model_info")[1]["model_path"] == folder


def test_flush_cache(swappable):
    client = swappable
    assert client.call("/flush_cache")[0] == 200
    assert client.call("/flush_cache", {})[0] == 200
    futures = load(client, PROMPTS[:4])
    client.call("/abort_request", {"abort_all": True})
    wait(futures)
    assert client.call("/flush_cache", {})[0] == 200


def test_information(client, folder):
    for path in ("/model_info", "/get_model_info"):
        status, info = client.call(path)
        assert status == 200
        assert info["model_path"] == info["tokenizer_path"] == folder
        assert info["is_generation"] is True
        assert info["weight_version"] == "default"
        assert info["model_type"] == "qwen2"
        assert info["architectures"] == ["Qwen2ForCausalLM"]
    status, models = client.call("/v1/models")
    assert status == 200
    assert models["object"] == "list"
    assert models["data"][0]["id"] == folder
    assert models["data"][0]["max_model_len"] == 1024
    assert client.call("/health") == (200, "")
    assert client.call("/health_generate") == (200, "")


def test_weight_version_is_reported(swappable, other_folder):
    client = swappable
    assert client.update_weights(other_folder, weight_version="step-7")[0] == 200
    assert client.call("/model_info")[1]["weight_version"] == "step-7"
    assert client.generate([5, 6], max_new_tokens=1)["meta_info"]["weight_version"] == "step-7"
    assert client.update_weights(other_folder, weight_version="default")[0] == 200
