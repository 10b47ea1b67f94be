"""Beyond the contract: both servers side by side, and the stubs that real SGLang is started with."""

import os
import subprocess
import sys

import psutil
import pytest
from sglang_client import output_ids, output_logprobs
from sglang_server import STUBS, SGLangServer
from test_generation import prompts


def test_both_servers_answer_the_same(embedded, sglang):
    """Greedy answers token by token, and the logprobs of their tokens and of the prompts'."""
    options = {"temperature": 0.0, "max_new_tokens": 60, "ignore_eos": True, "logprob_start_len": 0}
    for prompt in prompts(12, 1, 120):
        ours, theirs = (server.generate(prompt, **options) for server in (embedded, sglang))
        assert output_ids(ours) == output_ids(theirs)
        assert output_logprobs(ours) == pytest.approx(output_logprobs(theirs), abs=1e-4)
        of_prompts = ([p for p, _, _ in a["meta_info"]["input_token_logprobs"][1:]] for a in (ours, theirs))
        assert next(of_prompts) == pytest.approx(next(of_prompts), abs=1e-4)


@pytest.mark.parametrize(
    "call",
    [
        "torchvision.io.decode_jpeg()",
        "torchvision.transforms.functional.resize(0)",
        "torchvision.transforms.v2.functional.resize(0)",
        "sgl_kernel.kvcacheio.transfer_kv_all_layer(x=1)",
    ],
)
def test_a_stub_raises_when_it_is_called(call):
    program = f"import {call.rpartition('.')[0]}; {call}"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(STUBS)}, capture_output=True, text=True
    )
    assert f"{call.partition('(')[0]} was called" in done.stderr, done.stderr


def test_stop_leaves_no_process(sglang_wanted, folder, tmp_path):
    server = SGLangServer(folder, tmp_path / "server.log")
    server.wait_healthy()
    children = psutil.Process(server.pid).children(recursive=True)
    assert children  # scheduler and detokenizer
    server.stop()
    assert not psutil.wait_procs(children, timeout=5)[1]
