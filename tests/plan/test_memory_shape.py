"""Sizes read from a config.json: parameters of transformers' own classes, and files no plan can be made from."""

import pytest
import torch

from areal_gsm8k.config.compose import make_plan
from areal_gsm8k.plan.memory import CardMemory, model_config, plan_for
from areal_gsm8k.plan.memory.model_shape import EXACT, ShapeError, from_config
from benchmarks.memory import shaped

SMALL = shaped("llama", 64, 3, 4, 2, 192, 500, False)
QWEN = "Qwen/Qwen2.5-0.5B-Instruct"  # 14 attention heads, 2 key-value heads


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", EXACT)
def test_parameters_are_those_of_the_real_class(family, tied):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = shaped(family, 64, 4, 4, 4 if family == "gpt_neo" else 2, 192, 500, tied)
    sizes = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes))
    assert from_config(config).parameters == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([1, 2], "must hold one JSON object"),
        ({"text_config": [1]}, "must hold one JSON object"),
        (SMALL | {"hidden_size": "2048"}, "hidden_size is '2048'"),
        (SMALL | {"vocab_size": -5}, "vocab_size is -5"),
        (SMALL | {"num_key_value_heads": True}, "num_key_value_heads is True"),
        (SMALL | {"num_experts": 8}, "mixture of experts"),
        ({"model_type": "llama"}, "num_hidden_layers"),
    ],
)
def test_a_config_json_without_usable_sizes_names_the_key(wrong, said):
    with pytest.raises(ShapeError, match=said):
        from_config(wrong)


def planned(*overrides: str):
    values = make_plan([], [f"actor.path={QWEN}", *overrides], gpus=32).values
    return plan_for(values, model_config.known()[QWEN], [CardMemory(80)] * 32)


@pytest.mark.parametrize(
    ("allocation", "divide"),
    [
        ("sglang.t4+d1", "sglang cannot split 14 attention heads and 2 key-value heads into t4; .*: t1, t2, t14"),
        ("sglang.t7+d1", "t1, t2, t14"),  # 2 key-value heads over 7 ranks
        ("sglang.d1+t14", "fsdp cannot split .* into t14; .*: t1, t2[.]"),
    ],
)
def test_tensor_sizes_must_divide_the_heads(allocation, divide):
    with pytest.raises(ShapeError, match=f"allocation_mode=.*{divide}"):
        planned(f"allocation_mode={allocation}")


def test_servers_copy_key_value_heads_where_ranks_are_more():
    assert planned("allocation_mode=sglang.t14+t2").server.tensor == 14
