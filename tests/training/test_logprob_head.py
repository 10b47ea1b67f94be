import pytest
import torch

pytest.importorskip("areal", reason="areal is not installed")

from areal_gsm8k.training import logprob_head
from areal_gsm8k.training.logprob_head import LogprobHead
from areal_gsm8k.training.packing import Pack

TOKENS, WIDTH, WORDS = 23, 16, 37


def pack(predictors, labels):
    count = len(predictors)
    return Pack([], torch.arange(TOKENS), predictors, labels, places_N=torch.arange(count) + 2, full_tokens=count + 4)


def model_of(bias: bool = False, **config):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lm_head = torch.nn.Linear(WIDTH, WORDS, bias=bias)
            self.config = type("Config", (), {"get_text_config": lambda self: self, **config})()

        def get_output_embeddings(self):
            return self.lm_head

        def set_output_embeddings(self, head):
            self.lm_head = head

    torch.manual_seed(0)
    return Model()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("bias", [False, True])
def test_in_chunks_it_is_log_softmax_and_its_gradient(monkeypatch, temperature, bias):
    monkeypatch.setattr(logprob_head, "LOGITS_AT_ONCE", 5 * WORDS)
    monkeypatch.setitem(logprob_head.BLOCK, "cpu", 2 * WORDS)
    model = model_of(bias)
    weight, bias_V = model.lm_head.weight, model.lm_head.bias
    head = LogprobHead.in_place_of(model, temperature)
    assert head.weight is weight and dict(model.named_parameters()).keys() >= {"lm_head.weight"}
    hidden_TH = torch.randn(TOKENS, WIDTH, requires_grad=True)
    predictors_N, labels_N = torch.arange(TOKENS - 3).roll(4), torch.randint(0, WORDS, (TOKENS - 3,))
    predictors_N[0] = predictors_N[1]  # as a prompt's last token, for every completion of the group
    head.pack = pack(predictors_N, labels_N)
    both_F2 = head(hidden_TH[None])[0]
    scores_NV = ((hidden_TH[predictors_N] @ weight.T + (bias_V if bias else 0)) / temperature).log_softmax(-1)
    wanted_N = scores_NV.gather(1, labels_N[:, None]).squeeze(1)
    torch.testing.assert_close(both_F2[2:-2, 0], wanted_N, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both_F2[2:-2, 1], -(scores_NV.exp() * scores_NV).sum(-1), atol=1e-5, rtol=1e-5)
    assert not both_F2[[0, 1, -2, -1]].any()
    gradient_N = torch.randn(len(labels_N))
    gradient_N[::3] = 0  # samples whose group has no signal
    asked = (hidden_TH, weight, *([bias_V] if bias else []))
    found = torch.autograd.grad((both_F2[2:-2, 0] * gradient_N).sum(), asked)
    for one, other in zip(found, torch.autograd.grad((wanted_N * gradient_N).sum(), asked), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_rows_without_gradient_are_not_computed_again(monkeypatch):
    head = LogprobHead.in_place_of(model_of(), 1.0)
    head.pack = pack(torch.arange(20), torch.randint(0, WORDS, (20,)))
    logprobs_F = head(torch.randn(1, TOKENS, WIDTH, requires_grad=True))[0, :, 0]
    products = []
    monkeypatch.setattr(
        logprob_head, "linear", lambda hidden, *_: products.append(len(hidden)) or hidden @ head.weight.T
    )
    logprobs_F[4:10].sum().backward()
    assert products == [6]


@pytest.mark.parametrize(
    ("config", "fits"), [({}, True), ({"logit_scale": 1.0}, True), ({"final_logit_softcapping": 30.0}, False)]
)
def test_a_model_that_changes_its_logits_keeps_them(config, fits):
    assert LogprobHead.fits(model_of(**config)) is fits
