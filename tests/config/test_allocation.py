import pytest

from areal_gsm8k.config.allocation import parse
from areal_gsm8k.config.schema import ConfigError


@pytest.mark.parametrize(
    ("text", "rollout", "train"),
    [
        ("sglang.d1p1t1+d1p1t1", "sglang:d1p1t1", "fsdp:d1p1t1"),
        ("sglang:d2p1t2+fsdp:d4", "sglang:d2p1t2", "fsdp:d4p1t1"),
        ("embedded.d2+fsdp.d2", "sglang:d2p1t1", "fsdp:d2p1t1"),
        ("vllm:d1+d2t2", "vllm:d1p1t1", "fsdp:d2p1t2"),
        (" embedded.d1 + d1 ", "sglang:d1p1t1", "fsdp:d1p1t1"),
    ],
)
def test_dotted_and_colon_forms_mean_the_same(text, rollout, train):
    alloc = parse(text)
    assert (alloc.areal_rollout, alloc.areal_train) == (rollout, train)
    assert parse(str(alloc)) == alloc


@pytest.mark.parametrize(
    "text", ["", "sglang.d1", "d1+d1", "sglang.d1+fsdp.d1+d1", "sglang.d0+d1", "sglang.d1d2+d1", "foo.d1+d1",
             "embedded.d1t2+d1", "sglang.d1+fsdp.d1p2", "sglang.x1+d1", "sglang.d1+"],
)  # fmt: skip
def test_an_impossible_string_shows_three_right_ones(text):
    with pytest.raises(ConfigError) as error:
        parse(text)
    shown = str(error.value).split("These work: ")[1].rstrip(".").split(", ")
    assert len(shown) == 3
    for example in shown:
        parse(example)
