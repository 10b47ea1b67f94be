"""`gsm8k chat` as typed, with a real model, the embedded server and transformers."""

import re

import pytest
from typer.testing import CliRunner

from areal_gsm8k.cli import app

QUESTION = "Ana has 6 stamps. Kim has 6 times as many. How many stamps do they have together?"


def chat(*arguments, lines):
    return CliRunner().invoke(app, ["chat", *map(str, arguments)], input="\n".join(lines))


def replies(output):
    """The text of every reply: between the model's name and the line of tokens and seconds."""
    return re.findall(r"^m\n(.*?)\n\d+ tokens(?:, cut off)?, \d+\.\d s$", output, re.M | re.S)


@pytest.mark.slow
def test_the_embedded_server_and_transformers_reply_alike(start_model):
    """Greedily, to a typed question, a row of the data and raw text; the engine is changed between them."""
    asked = [QUESTION, "/q 3", "/raw on", "6*6=", "/raw off"]
    options = [
        "--data",
        "generated",
        "--answer-format",
        "hash",
        "--max-new-tokens",
        48,
        "--grade",
        "--engine",
        "embedded",
    ]
    done = chat(
        f"m={start_model}", *options, lines=[*asked, "/engine hf", *asked, "/temperature 1", "/seed 3", *asked[:1] * 2]
    )
    assert done.exit_code == 0, done.output
    found = replies(done.stdout)
    assert len(found) == 8
    assert found[:3] == found[3:6] and "####" in found[0]
    assert found[6] == found[7]  # a seed repeats
    assert done.stdout.count("rule       hash") == 2 and done.stdout.count("verdict    ") == 2
    assert f"> {QUESTION}\nm\n" in done.stdout and "generated-dev-0-00003: " in done.stdout
    assert "engine embedded" in done.stderr and "engine hf" in done.stderr and "loading" not in done.stdout


def test_a_line_that_fails_is_told_by_the_exit_code(untrained_model):
    options = ["--engine", "hf", "--max-new-tokens", 2]
    failed = chat(untrained_model, *options, lines=["/max 0", "still here?"])
    assert failed.exit_code == 1 and "max_new_tokens is 0" in failed.stderr
    assert re.search(r"\d tokens", failed.stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder, and not a hub id either"),
        (["MODEL", "MODEL", "--url", "http://127.0.0.1:9"], "--url serves one model, and 2 were named"),
        (["MODEL", "--url", "http://127.0.0.1:9"], "no server answers there"),
        (["MODEL", "--engine", "vllm"], "engine vllm is not installed here"),
    ],
)
def test_bad_input_is_an_error_before_anything_is_asked(untrained_model, arguments, message):
    done = chat(*(untrained_model if name == "MODEL" else name for name in arguments), lines=["?"])
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit)
    assert message in done.stderr and done.stdout == ""
