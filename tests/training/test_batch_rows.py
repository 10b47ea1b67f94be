import pytest
import torch

from areal_gsm8k.training.batch_rows import evaluation_metrics, logprob_gaps, sample_rows, step_metrics


def group(ids, advantages):
    """Two tokens of prompt, two of completion; AReaL's arrays at position t speak of token t+1."""
    n = len(ids)
    return {
        "sample_id": torch.tensor(ids),
        "loss_mask": torch.tensor([[0, 1, 1, 0]] * n),
        "rewards": torch.tensor([1.0] + [0.0] * (n - 1)),
        "advantages": torch.tensor([[0.0, a, a, 0.0] for a in advantages]),
    }


def test_a_row_names_its_group_and_says_what_the_update_saw():
    rows = sample_rows([group([5, 6], [0.5, -0.5])], rank=1)
    assert [row["id"] for row in rows] == [5, 6]
    assert [row["advantage"] for row in rows] == [0.5, -0.5]
    assert [row["reward"] for row in rows] == [1.0, 0.0]
    assert {row["group"] for row in rows} == {"1-0"}


def test_gap_is_split_by_whether_the_token_is_of_the_current_version():
    flat = {
        "sample_id": torch.tensor([5] * 4 + [6] * 4),
        "loss_mask": torch.tensor([0, 1, 1, 0] * 2),
        "versions": torch.tensor([-1, -1, 3, 4, -1, -1, 3, 3]),
        "rollout_logprobs": torch.tensor([0.0, -1.5, -2.25, 0.0, 0.0, -1.0, -3.0, 0.0]),
        "cu_seqlens": torch.tensor([0, 4, 8]),
    }
    gaps = logprob_gaps(flat, torch.tensor([9.0, -1.0, -2.0, 9.0, 9.0, -1.0, -1.0, 9.0]), version=4)
    assert gaps[5] == pytest.approx({"logprob_gap": 0.5, "logprob_drift": 0.375, "logprob_gap_current": 0.25})
    assert gaps[6]["logprob_gap"] == pytest.approx(2.0) and gaps[6]["logprob_gap_current"] is None


def test_kl_is_summed_over_the_completion_and_averaged_over_tokens():
    logprobs = torch.tensor([[9.0, -1.0, -1.0, 9.0]] * 2)
    one = group([5, 6], [0.5, -0.5]) | {"logprobs": logprobs, "ref_logp": logprobs - 0.25}
    rows = sample_rows([one], rank=0)
    assert [row["kl"] for row in rows] == [pytest.approx(0.5)] * 2  # 9.0 at the prompt is masked
    metrics = step_metrics([joined("a", 1.0, kl=0.5), joined("a", 0.0, kl=0.1)], [], {}, version=3, seconds=1.0)
    assert metrics["kl"] == pytest.approx(0.6 / 20)


def joined(group_name, reward, **more):
    row = {"group": group_name, "reward": reward, "lenient": reward > 0, "strict": False, "formatted": True,
           "truncated": False, "completion_tokens": 10,
           "parts": {"accuracy": 1.0}, "versions": [2, 3], "logprob_gap_current": 0.1}  # fmt: skip
    return row | more


def test_step_metrics_count_groups_errors_and_staleness():
    samples = [joined("a", 1.0), joined("a", 0.0), joined("b", 0.0, truncated=True), joined("b", 0.0)]
    rejected = [{"error": "x"}, {"rejected": "partial group"}]
    metrics = step_metrics(samples, rejected, {"timeperf/rollout": 0.5}, version=3, seconds=2.0)
    assert metrics["reward"] == 0.25 and metrics["accuracy"] == 0.25 and metrics["accuracy_strict"] == 0.0
    assert metrics["groups"] == 2 and metrics["groups_without_signal"] == 0.5
    assert metrics["truncated"] == 0.25
    assert metrics["staleness"] == 0.5 and metrics["staleness_max"] == 1
    assert metrics["reward_errors"] == 1 and metrics["rejected_samples"] == 2
    assert metrics["tokens_per_second"] == 20.0
    evaluated = step_metrics(samples, [], {"timeperf/eval": 1.0}, version=3, seconds=2.0)
    assert evaluated["tokens_per_second"] == 40.0 and evaluated["time/step"] == 2.0
    assert metrics["time/rollout"] == 0.5 and "entropy" not in metrics


def test_an_ungradable_dev_completion_is_an_error_and_not_right():
    right = {"lenient": True, "strict": True, "formatted": True, "truncated": False, "completion_tokens": 4}
    failed = {"error": "x"}
    metrics = evaluation_metrics([right, failed])
    assert metrics["dev/accuracy"] == 0.5 and metrics["dev/errors"] == 1 and metrics["dev/n"] == 2
    assert evaluation_metrics([])["dev/accuracy"] is None
