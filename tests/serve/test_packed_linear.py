import pytest
import torch

from areal_gsm8k.serve import packed_linear
from areal_gsm8k.serve.engine import Engine
from areal_gsm8k.serve.packed_linear import PackedLinear
from areal_gsm8k.serve.params import SamplingParams

GREEDY = SamplingParams(max_new_tokens=20, temperature=0.0, ignore_eos=True)
PROMPTS = [[2, 5, 9], [7, 3], [11, 4, 6, 8]]

pytestmark = pytest.mark.skipif(
    not packed_linear.is_faster_on(torch.device("cpu"), torch.bfloat16),
    reason="this CPU has no bfloat16 products",
)


@pytest.mark.parametrize("rows", [1, 16, 64, 300])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_gives_the_same_results(rows, bias):
    plain = torch.nn.Linear(96, 200, bias=bias, dtype=torch.bfloat16)
    x = torch.randn(rows, 1, 96, dtype=torch.bfloat16)
    expected = plain(x)
    packed_linear.pack(plain)
    assert isinstance(plain, PackedLinear)
    assert torch.allclose(plain(x), expected, atol=1e-2, rtol=1e-2)


def test_new_weights_are_packed_anew(folder, other_folder):
    changed, fresh = (
        Engine.from_pretrained(folder, "cpu", "bfloat16"),
        Engine.from_pretrained(other_folder, "cpu", "bfloat16"),
    )
    before = changed.generate(PROMPTS, GREEDY)
    changed.update_weights(other_folder)
    after, wanted = changed.generate(PROMPTS, GREEDY), fresh.generate(PROMPTS, GREEDY)
    assert [c.token_ids for c in after] == [c.token_ids for c in wanted] != [c.token_ids for c in before]
    assert [c.logprobs for c in after] == [c.logprobs for c in wanted]


@pytest.mark.parametrize(
    ("device", "dtype"), [("cpu", torch.float32), ("cpu", torch.float16), ("cuda", torch.bfloat16)]
)
def test_only_bfloat16_on_a_cpu_is_packed(device, dtype):
    assert not packed_linear.is_faster_on(torch.device(device), dtype)
