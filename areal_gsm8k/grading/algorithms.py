"""From rewards to a loss, in plain PyTorch: the one page that says what each algorithm trains on.

    loss = grpo(Batch(rewards_PG, mask_BT, theta_BT, prox_BT, behave_BT, limit=512))

An algorithm is a choice of one function for each of five steps, and the eight at the end are nothing but that choice:

1. Reward: what a completion is paid.
2. Advantage: by how much that is more than the model's other completions were paid.
3. Ratio: how much likelier the policy makes a token, or a whole completion, than an older policy did.
4. Surrogate: ratio times advantage, held back once the ratio has gone far. An update makes it larger.
5. Reduction: one number from all tokens. Which mean it is decides how much a long completion counts.

In a run AReaL 1.0.4 computes all this, at the place named with each step. The recipe of the same name in
configs/algorithms/ sets it up, and tests/training/test_algorithms.py makes one update by AReaL's engine under each
recipe and holds its gradient to that of the function here. docs/algorithms/README.md has the reasons.

Shapes, at the end of a tensor's name: P prompts; G completions of a prompt, its group; B = P * G completions of the
batch, group after group; T tokens of the longest completion, shorter ones padded; 1 a dimension of that size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

EPS = 1e-5  # joins every standard deviation (`eps` of AReaL's NormConfig): a group of equal rewards gets 0, not 0 / 0


@dataclass(frozen=True)
class Batch:
    """The input of one update. Logprobs are those of the sampled tokens, under four policies.

    A step of several updates (actor.ppo_n_minibatches) takes the advantages over all its completions, then each loss
    over some of them.
    """

    rewards_PG: Tensor  # from grading/rewards.py
    mask_BT: Tensor  # 1.0 on a completion's tokens, 0.0 on padding
    theta_BT: Tensor  # under the policy that is updated; the only tensor with a gradient
    prox_BT: Tensor  # under the same policy when the step began
    behave_BT: Tensor  # under the policy that sampled; rollouts run ahead of the trainer, so it may be older
    limit: int  # the most tokens a completion may have: gconfig.max_new_tokens
    ref_BT: Tensor | None = None  # under the start model, where the KL to it is paid for


# 1. Reward. A right final answer is paid 1, a wrong one 0: areal_gsm8k.grading.rewards.accuracy


def shape_reward(rewards_PG: Tensor, bias: float, scaling: float, bound: float = 20.0) -> Tensor:
    """actor.reward_bias, reward_scaling, reward_clip. The group's mean and std take bias and scaling out again.

    areal.trainer.ppo.actor.PPOActor.compute_advantages
    """
    return ((rewards_PG + bias) * scaling).clamp(-bound, bound)


def overlong_penalty(tokens_PG: Tensor, limit: int, buffer: int) -> Tensor:
    """0 up to limit - buffer tokens, then down in a line to -1 at the limit. DAPO, arXiv 2503.14476, equation 13.

    areal.utils.functional.reward_overlong_penalty
    """
    return ((limit - buffer - tokens_PG) / buffer).clamp(-1.0, 0.0)


def less_kl_to_come(rewards_B1: Tensor, batch: Batch, beta: float) -> Tensor:
    """(B, T): the reward less beta times the KL to the start model over the rest of the completion, by estimator k1.

    REINFORCE++, arXiv 2501.03262 version 2, equations 8 and 9. areal.trainer.ppo.actor.PPOActor.compute_advantages
    """
    assert batch.ref_BT is not None, "the KL is to the start model: its logprobs are needed"
    kl_BT = (batch.behave_BT - batch.ref_BT) * batch.mask_BT
    return rewards_B1 - beta * kl_BT.flip(1).cumsum(1).flip(1)


# 2. Advantage. No value model: other completions are the baseline. areal.utils.data.Normalization


def normalise_by_group(rewards_PG: Tensor) -> Tensor:
    """GRPO, arXiv 2402.03300, section 4.1: less the group's mean, divided by its standard deviation (of G - 1)."""
    return centre_by_group(rewards_PG) / (rewards_PG.std(1, keepdim=True) + EPS)


def centre_by_group(rewards_PG: Tensor) -> Tensor:
    """Dr. GRPO, arXiv 2503.20783, section 3.2: no division, which would favour very easy and very hard questions."""
    return rewards_PG - rewards_PG.mean(1, keepdim=True)


def leave_one_out(rewards_PG: Tensor) -> Tensor:
    """RLOO, arXiv 2402.14740: less the mean of the group's other completions."""
    others_PG = rewards_PG.sum(1, keepdim=True) - rewards_PG
    return rewards_PG - others_PG / (rewards_PG.shape[1] - 1)


def normalise_by_batch(advantages_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """REINFORCE++, arXiv 2501.03262: mean 0 and standard deviation 1 over all tokens of the batch. `actor.adv_norm`"""
    tokens_N = advantages_BT.expand_as(mask_BT)[mask_BT.bool()]  # N tokens that are not padding
    return (advantages_BT - tokens_N.mean()) / (tokens_N.std() + EPS)


# 3. Ratio. areal.utils.functional.ppo_actor_loss_fn


def token_ratio(new_BT: Tensor, old_BT: Tensor) -> Tensor:
    """PPO, arXiv 1707.06347, section 3. Before a step's first update theta is prox and every ratio is 1."""
    return (new_BT - old_BT).exp()


def sequence_ratio(new_BT: Tensor, old_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """(B, 1): one ratio a completion, the geometric mean of its tokens'. GSPO, arXiv 2507.18071, s_i of equation 5."""
    return (((new_BT - old_BT) * mask_BT).sum(1, keepdim=True) / mask_BT.sum(1, keepdim=True)).exp()


def staleness_weight(ratio: Tensor, upper: float = 5.0) -> Tensor:
    """The ratio of prox to behave as a constant weight; a token that is `upper` times likelier by now is left out.

    Decoupled PPO of AReaL, arXiv 2505.24298, section 5.2: samples of an older policy count as if prox had drawn them,
    and the clip still measures from prox. areal.utils.functional.functional.apply_rejection_sampling
    """
    return (ratio * (ratio <= upper)).detach()


# 4. Surrogate. areal.utils.functional.ppo_actor_loss_fn, areal.utils.functional.sapo_loss_fn


def clip(ratio: Tensor, advantages: Tensor, low: float, high: float | None = None) -> Tensor:
    """PPO, arXiv 1707.06347, equation 7: no gradient once the ratio was pushed out of [1 - low, 1 + high]."""
    clipped = ratio.clamp(1 - low, 1 + (low if high is None else high))
    return torch.minimum(ratio * advantages, clipped * advantages)


def clip_by_token(batch: Batch, advantages: Tensor, low: float, high: float | None = None) -> Tensor:
    """(B, T): PPO's clip on the tokens' ratios, corrected for stale samples, as all but GSPO and SAPO have it."""
    weight_BT = staleness_weight(token_ratio(batch.prox_BT, batch.behave_BT))
    return weight_BT * clip(token_ratio(batch.theta_BT, batch.prox_BT), advantages, low, high)


def gate(ratio: Tensor, advantages: Tensor, positive: float = 1.0, negative: float = 1.05) -> Tensor:
    """SAPO, arXiv 2511.20347: a sigmoid of slope 1 at ratio 1; it bends sooner where the advantage is negative."""
    temperature = torch.where(advantages > 0, positive, negative)
    return torch.sigmoid(temperature * (ratio - 1)) * 4 / temperature * advantages


# 5. Reduction. AReaL has the first: areal.engine.FSDPEngine.train_batch. The others are ours (`loss_reduction`):
# areal_gsm8k.training.actor.PackedActor.train_batch


def token_mean(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """DAPO, arXiv 2503.14476, section 3.3: every token counts the same, so a long completion counts more."""
    return (x_BT * mask_BT).sum() / mask_BT.sum()


def sequence_mean(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """GRPO, arXiv 2402.03300, equation 3: every completion counts the same, so a token of a long one counts less."""
    return ((x_BT * mask_BT).sum(1) / mask_BT.sum(1)).mean()


def constant_length(x_BT: Tensor, mask_BT: Tensor, limit: int) -> Tensor:
    """Dr. GRPO, arXiv 2503.20783, section 3.2: every token counts the same, in every batch."""
    return (x_BT * mask_BT).sum() / (len(mask_BT) * limit)


# The algorithms: a batch's loss, the numbers those of the recipes


def grpo(batch: Batch) -> Tensor:
    """DeepSeekMath, arXiv 2402.03300, section 4.1, equation 3, without its KL. configs/algorithms/grpo.yaml"""
    advantages_B1 = normalise_by_group(batch.rewards_PG).reshape(-1, 1)
    surrogate_BT = clip_by_token(batch, advantages_B1, 0.2)
    return -sequence_mean(surrogate_BT, batch.mask_BT)


def areal_grpo(batch: Batch) -> Tensor:
    """AReaL's own GRPO: normalised once more by batch, a wider clip, a mean over tokens. train_grpo.yaml"""
    rewards_PG = shape_reward(batch.rewards_PG, bias=-0.5, scaling=10.0)
    advantages_BT = normalise_by_batch(normalise_by_group(rewards_PG).reshape(-1, 1), batch.mask_BT)
    surrogate_BT = clip_by_token(batch, advantages_BT, 0.4)
    return -token_mean(surrogate_BT, batch.mask_BT)


def dr_grpo(batch: Batch) -> Tensor:
    """GRPO without its two biases, arXiv 2503.20783, section 3.2. configs/algorithms/dr_grpo.yaml"""
    advantages_B1 = centre_by_group(batch.rewards_PG).reshape(-1, 1)
    surrogate_BT = clip_by_token(batch, advantages_B1, 0.2)
    return -constant_length(surrogate_BT, batch.mask_BT, batch.limit)


def dapo(batch: Batch) -> Tensor:
    """arXiv 2503.14476, equation 8: a penalty for length, more room upwards, a mean over tokens.

    Groups of equal rewards are left out: areal_gsm8k.training.workflow.accept_group. configs/algorithms/dapo.yaml
    """
    tokens_PG = batch.mask_BT.sum(1).view_as(batch.rewards_PG)
    penalty_PG = overlong_penalty(tokens_PG, batch.limit, buffer=int(0.2 * batch.limit))
    advantages_B1 = normalise_by_group(batch.rewards_PG + penalty_PG).reshape(-1, 1)
    surrogate_BT = clip_by_token(batch, advantages_B1, 0.2, 0.28)
    return -token_mean(surrogate_BT, batch.mask_BT)


def gspo(batch: Batch) -> Tensor:
    """arXiv 2507.18071, equation 5: ratio, clip and mean by completion. configs/algorithms/gspo.yaml"""
    advantages_B1 = normalise_by_group(batch.rewards_PG).reshape(-1, 1)
    surrogate_B1 = clip(sequence_ratio(batch.theta_BT, batch.prox_BT, batch.mask_BT), advantages_B1, 3e-4, 4e-4)
    weight_B1 = staleness_weight(sequence_ratio(batch.prox_BT, batch.behave_BT, batch.mask_BT))
    return -(weight_B1 * surrogate_B1).mean()


def rloo(batch: Batch, low: float = 0.4) -> Tensor:
    """arXiv 2402.14740: the gradient A grad log pi(y), a sum over tokens. configs/algorithms/rloo.yaml

    With its one update a batch every ratio is 1: the ratio's gradient is that of the logprob, and the clip, which
    AReaL does not leave out, cannot act.
    """
    advantages_B1 = leave_one_out(batch.rewards_PG).reshape(-1, 1)
    surrogate_BT = clip_by_token(batch, advantages_B1, low)
    return -constant_length(surrogate_BT, batch.mask_BT, batch.limit)


def reinforce_pp(batch: Batch, beta: float = 0.001) -> Tensor:
    """REINFORCE++, arXiv 2501.03262: no group, KL in the reward. configs/algorithms/reinforce_pp.yaml"""
    rewards_BT = less_kl_to_come(batch.rewards_PG.reshape(-1, 1), batch, beta)
    advantages_BT = normalise_by_batch(rewards_BT, batch.mask_BT)
    surrogate_BT = clip_by_token(batch, advantages_BT, 0.2)
    return -token_mean(surrogate_BT, batch.mask_BT)


def sapo(batch: Batch) -> Tensor:
    """arXiv 2511.20347: a gate on the ratio to behave, and so on staleness too. configs/algorithms/sapo.yaml"""
    advantages_B1 = normalise_by_group(batch.rewards_PG).reshape(-1, 1)
    surrogate_BT = gate(token_ratio(batch.theta_BT, batch.behave_BT), advantages_B1)
    return -sequence_mean(surrogate_BT, batch.mask_BT)
