"""Drawing one token a row: the counter-based uniforms, inverse CDF, truncation, parameters."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from areal_gsm8k.serve.params import SamplingParams
from areal_gsm8k.serve.sampling import BLOCK, inverse_cdf, probabilities, sample, uniforms


def row(seed: int = 0, length: int = 5, output_ids=(), stop_ids=(), **params) -> SimpleNamespace:
    return SimpleNamespace(
        params=SamplingParams(**params), seed=seed, length=length, output_ids=list(output_ids), stop_ids=stop_ids
    )


def test_uniforms_are_uniform_and_unrelated():
    drawn = np.array([uniforms([seed] * 500, list(range(500))) for seed in range(40)])
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    counts = np.histogram(drawn, bins=20, range=(0, 1))[0]
    assert abs(counts - 1000).max() < 6 * 1000**0.5
    for a, b in ((drawn[:, 1:], drawn[:, :-1]), (drawn[1:], drawn[:-1])):  # neighbours in position, in seed
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.04


def test_inverse_cdf_never_draws_what_has_no_weight():
    weights = torch.tensor([[0.0, 1.0, 0.0, 2.0, 0.0]])
    u = torch.tensor([0.0, 0.2, 1 / 3 - 1e-9, 1 / 3 + 1e-9, 0.9, 1 - 2.0**-53], dtype=torch.float64)
    drawn = inverse_cdf(weights.expand(len(u), -1), u[:, None])[:, 0].tolist()
    assert drawn == [1, 1, 1, 3, 3, 3]


def test_a_large_vocabulary_is_drawn_from_as_a_small_one():
    """By blocks, the last of them short: at every uniform number the choice that one long sum would make."""
    torch.manual_seed(0)
    choices = 20 * BLOCK + 7
    weights = torch.softmax(4 * torch.randn(1, choices), -1)
    weights[0, 3 * BLOCK : 5 * BLOCK] = 0.0
    weights[0, -3:] = torch.tensor([0.0, 0.01, 0.0])
    cdf = weights[0].cumsum(-1, dtype=torch.float64)
    edges = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    u = torch.cat([torch.rand(3000, dtype=torch.float64), edges])[:, None]
    drawn = inverse_cdf(weights.expand(len(u), -1), u)[:, 0]
    assert (weights[0, drawn] > 0).all() and drawn.max() == choices - 2
    # what is drawn holds the place that u asks for, but for rounding of a block's sum
    low, high = cdf[drawn] - weights[0, drawn].double(), cdf[drawn]
    asked = u[:, 0] * cdf[-1]
    assert (low - asked).max() < 1e-6 and (asked - high).max() < 1e-6


def test_rare_tokens_of_a_large_vocabulary_are_drawn():
    """100,000 tokens of weight 1e-8 after a dominant one: a float32 sum would not notice them."""
    weights = torch.full((1, 100_001), 1e-8)
    weights[0, 0] = 1.0
    tail = 1e-3 / (1 + 1e-3)
    u = 1 - tail * torch.arange(1, 40, dtype=torch.float64)[:, None] / 40
    drawn = inverse_cdf(weights.expand(len(u), -1), u)[:, 0]
    assert (drawn > 0).all()
    assert drawn.tolist() == pytest.approx([100_000 * (1 - i / 40) for i in range(1, 40)], abs=20)


def test_rows_of_all_kinds_in_one_batch():
    torch.manual_seed(0)
    logits = torch.randn(6, 50) * 3
    best = logits.argmax(-1).tolist()
    rows = [
        row(temperature=0.0),
        row(temperature=0.5, top_k=1),
        row(temperature=2.0),
        row(top_p=1e-9),
        row(min_p=1.0),
        row(temperature=0.0, frequency_penalty=2.0, output_ids=[best[5]] * 20),
    ]
    ids, logprobs = sample(logits, rows)
    assert ids[:2] == best[:2]
    assert ids[3:5] == best[3:5]
    assert ids[5] != best[5]
    assert logprobs[0] == pytest.approx(torch.log_softmax(logits[0], -1)[ids[0]].item(), abs=1e-5)
    assert logprobs[1] == pytest.approx(torch.log_softmax(logits[1] / 0.5, -1)[ids[1]].item(), abs=1e-5)
    assert logprobs[2] == pytest.approx(torch.log_softmax(logits[2] / 2.0, -1)[ids[2]].item(), abs=1e-5)


def test_min_new_tokens_gives_stop_ids_no_probability():
    logits = torch.zeros(2, 10)
    logits[:, 4] = 20.0
    rows = [row(min_new_tokens=3, output_ids=[7, 7], stop_ids=frozenset([4])), row()]
    ids, _ = sample(logits, rows)
    assert ids[0] != 4
    assert probabilities(logits, rows)[0, 4] == 0.0
    assert ids[1] == 4


def test_parameters_from_json():
    parsed = SamplingParams.parse(
        {"temperature": 0.5, "stop": "x", "stop_token_ids": None, "top_k": None, "sampling_seed": 3}
    )
    assert parsed == SamplingParams(temperature=0.5, stop=("x",), seed=3)
    assert SamplingParams.parse(None) == SamplingParams()
    assert SamplingParams.parse({"max_new_tokens": None}).max_new_tokens is None
    assert not SamplingParams.parse({"top_k": int(1e8)}).truncates  # AReaL's "all" must not cost a sort
    assert SamplingParams.parse({"top_k": 50}).truncates


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"temprature": 1}, "temprature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"n": 0}, "n must"),
        ({"stop": [""]}, "stop"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids"),
        ({"json_schema": "{}"}, "json_schema"),
        ([], "object"),
    ],
)
def test_parameters_that_are_refused(given, part):
    with pytest.raises(ValueError, match=part):
        SamplingParams.parse(given)
