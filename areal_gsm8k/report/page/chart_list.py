"""The charts of the report: metrics, meaning and healthy values of each. figures.py draws them.

docs/metrics.md has every name.
"""

from __future__ import annotations

from dataclasses import dataclass

from areal_gsm8k.grading.rewards import PARTS


@dataclass(frozen=True)
class Series:
    """One metric in a chart."""

    key: str
    label: str


@dataclass(frozen=True)
class Chart:
    """name: of its place in the page, `chart-NAME`. unit: share, number or small (in powers of ten)."""

    name: str
    title: str
    series: tuple[Series, ...]
    says: str  # the sentence under it
    unit: str = "number"
    smooth: bool = True  # a bold running mean over the faint values
    dots: bool = False  # single values, not a curve: many are missing
    logarithmic: bool = False
    stacked: bool = False  # the series on top of each other, which only works for one run
    only: str = "any"  # drawn for `one` run, or for `several`
    absent: str = "Not recorded."  # said instead, where no run has any of it


PHASES = (
    Series("time/rollout", "waiting for rollouts"),
    Series("time/logprobs", "logprobs"),
    Series("time/reference", "reference logprobs"),
    Series("time/advantages", "advantages"),
    Series("time/train", "training"),
    Series("time/update_weights", "weight update"),
)
AT_TIMES = (  # phases that most steps do not have
    Series("time/save", "checkpoints"),
    Series("time/recovery", "recovery"),
    Series("time/eval", "evaluation"),
)
CHARTS = (
    Chart(
        "reward",
        "Training reward",
        (Series("reward", "reward"),),
        "Mean reward of the samples a step learned from, before AReaL scales it. Healthy: rises, noisily, then levels "
        "off; inside the expected band where the recipe carries one.",
    ),
    Chart(
        "dev",
        "Dev accuracy",
        (
            Series("dev/accuracy", "lenient"),
            Series("dev/accuracy_strict", "strict"),
            Series("dev/format_rate", "format followed"),
        ),
        "Greedy answers to the same held-out questions; shaded: 95 % interval of the lenient accuracy. Healthy: rises, "
        "with strict close to lenient and the format near 100 %.",
        unit="share",
        smooth=False,
    ),
    Chart(
        "shares",
        "Format, truncation, groups without signal",
        (
            Series("format_rate", "format followed"),
            Series("truncated", "truncated"),
            Series("groups_without_signal", "groups without signal"),
        ),
        "Shares of a step's samples, and of its groups whose rewards are all equal and so teach nothing. Healthy: "
        "format near 100 %, truncation near 0; groups without signal grow as the model gets everything right, and at "
        "100 % nothing is learned.",
        unit="share",
    ),
    Chart(
        "parts",
        "Parts of the reward",
        tuple(Series(f"reward/{part}", part) for part in PARTS),
        "Each part before its weight. Healthy: format rises first, accuracy after it; a part that rises while accuracy "
        "falls is being exploited.",
        absent="",
    ),
    Chart(
        "length",
        "Completion length",
        (Series("completion_tokens", "training"), Series("dev/completion_tokens", "dev")),
        "Mean tokens of a completion. Healthy: no sudden jump; growth up to the limit goes with truncation.",
    ),
    Chart(
        "entropy",
        "Entropy",
        (Series("entropy", "entropy"),),
        "Mean entropy of the next-token distribution, nats. Healthy: falls slowly, not to 0 (then all samples of a "
        "group are alike), and does not shoot up (then the model writes noise).",
    ),
    Chart(
        "kl",
        "KL to the start model",
        (Series("kl", "KL"),),
        "How far the policy has moved from where it began, nats a token. Healthy: rises slowly, without a jump.",
        absent="No reference policy was kept, so it was not measured. To measure it: kl_reference=true.",
    ),
    Chart(
        "logprobs",
        "Rollout against trainer logprobs",
        (Series("logprob_drift", "mean drift"), Series("logprob_gap", "largest gap, current version")),
        "Drift: mean difference over all tokens, which is staleness and whatever the engines add; gap: largest "
        "difference where both had the same weights. Healthy: drift small and steady, gap about 1e-5 in float32.",
        unit="small",
        smooth=False,
        dots=True,
        logarithmic=True,
    ),
    Chart(
        "staleness",
        "Staleness",
        (Series("staleness", "mean"), Series("staleness_max", "largest")),
        "Policy versions between sampling and use. Healthy: the mean at most rollout.max_head_offpolicyness.",
        smooth=False,
    ),
    Chart(
        "phases",
        "Seconds of a step, by phase",
        PHASES,
        "Running mean, without evaluations, checkpoints and recovery points. Healthy: training is the largest part; "
        "where most of it is waiting for rollouts, generating is the bottleneck.",
        stacked=True,
        only="one",
    ),
    Chart(
        "seconds",
        "Seconds of a step",
        (Series("time/step", "whole step"),),
        "Wall time; spikes are evaluations. Its phases stand in the facts of each run. Healthy: steady.",
        only="several",
    ),
    Chart(
        "speed",
        "Tokens a second",
        (Series("tokens_per_second", "tokens/s"),),
        "Completion tokens of a step over its wall time without evaluation and saving. Healthy: steady.",
    ),
    Chart(
        "loss",
        "Policy loss",
        (Series("loss", "loss"),),
        "Near 0 whatever is learned: advantages average to about 0 in every group, so this says nothing about "
        "progress. Look at the reward. Healthy: no growing swings.",
    ),
    Chart(
        "grad_norm",
        "Gradient norm",
        (Series("grad_norm", "gradient norm"),),
        "Before clipping. Healthy: steady; spikes that last go with a learning rate that is too high.",
    ),
    Chart(
        "lr",
        "Learning rate",
        (Series("lr", "learning rate"),),
        "Of each update: warm-up, then the schedule. It should be what the configuration says.",
        unit="small",
        smooth=False,
    ),
)
GAIN = Chart(
    "gain",
    "Strict accuracy gained since the first evaluation",
    (Series("arithmetic", "arithmetic"), Series("format", "format")),
    "The gain divides exactly into more right answers (arithmetic) and more of them in the asked-for marker (format). "
    "Healthy: format is learned first and stops at what was missing, arithmetic goes on.",
    unit="share",
    smooth=False,
)
