"""Our own settings: the keys of a run that AReaL does not know, each explained where it is declared.

Our keys live beside AReaL's keys at the top level of the same YAML (`train_grpo.yaml`) and command line:
`./run train answer_format=hash data.dev_rows=300`.
"""

from dataclasses import dataclass, field


def _explained(default, text: str):
    if isinstance(default, type):
        return field(default_factory=default, metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class DataSettings:
    train_rows: int | None = _explained(
        None, "Use only this many training rows; for generated problems, make this many."
    )
    dev_rows: int | None = _explained(500, "Evaluate on this many rows of the dev split (null: on all of them).")


@dataclass
class RewardSettings:
    """Weights and bounds of the parts in grading/rewards.py; the reward is the weighted sum."""

    accuracy: float = _explained(1.0, "Paid when math_parser judges the final answer right.")
    format: float = _explained(0.0, "Paid when the answer stands in a well-formed marker of `answer_format`.")
    ternary: float = _explained(0.0, "Times +1 right, 0 wrong, -1 no readable answer or cut off.")
    length: float = _explained(0.0, "Times 0 at length_target tokens, falling to -1 at none and at twice as many.")
    length_target: int = _explained(256, "Tokens of a completion that `length` aims at.")
    overlong: float = _explained(0.0, "Times DAPO's penalty: 0, falling to -1 over the last overlong_buffer tokens.")
    overlong_buffer: int = _explained(128, "Tokens before gconfig.max_new_tokens in which `overlong` falls.")
    think: float = _explained(0.0, "Paid when one thought in <think> tags comes before the answer.")
    custom: str | None = _explained(None, "Your own function as module:function, with AReaL's reward signature.")
    custom_weight: float = _explained(1.0, "Times what that function returns.")
    custom_seconds: float = _explained(10.0, "Longest time of one call; its process is then killed.")
    custom_processes: int = _explained(2, "Processes that hold the function.")
    shuffled: bool = _explained(
        False, "Control run: permute the rewards within each batch, so that nothing can be learned."
    )


@dataclass
class EmbeddedSettings:
    threads: int = _explained(1, "CPU threads of the embedded rollout server (one is fastest for tiny models).")
    trainer_threads: int = _explained(1, "CPU threads of a trainer beside it (one is fastest for tiny models).")
    max_running_requests: int = _explained(64, "Requests the embedded server decodes at once.")
    restarts: int = _explained(
        3, "Dead embedded servers are restarted with the current weights, this often in one run; 0: the run ends."
    )


@dataclass
class CollapseSettings:
    """When a run counts as collapsing (watch/verdict.py, docs/verdict.md), and whether a collapsing run goes on."""

    stop: bool = _explained(
        False, "Stop after the step at which the run is found collapsing; best, last and a recovery point are kept."
    )
    reward: float = _explained(
        0.5, "The smoothed reward is below this share of its best, both counted from the lowest reward there can be."
    )
    entropy: float = _explained(5.0, "The smoothed entropy is so many times what it was in the first steps.")
    truncated: float = _explained(0.5, "So large a share of completions is cut off, and few were when the run began.")
    logprob_drift: float = _explained(
        0.5, "Rollout and trainer logprobs differ by so many nats a token: the rollouts are of another policy."
    )


@dataclass
class Settings:
    runs_dir: str = _explained("runs", "Every run gets the folder <runs_dir>/<experiment_name>/<trial_name>.")
    answer_format: str = _explained("boxed", "How the model is asked to answer: boxed, tags or hash.")
    system_prompt: str | None = _explained(None, "System message before every question; null for none.")
    data: DataSettings = _explained(DataSettings, "How many rows are used.")
    reward: RewardSettings = _explained(RewardSettings, "What a completion is paid.")
    expected_band: str | None = _explained(
        None, "What the recipe's reward usually looks like: a file of `gsm8k band`, here or in the project."
    )
    collapse: CollapseSettings = _explained(CollapseSettings, "When a run counts as collapsing, and is stopped.")
    embedded: EmbeddedSettings = _explained(
        EmbeddedSettings, "The embedded rollout server, used by `embedded` allocations."
    )
    loss_reduction: str = _explained(
        "token_mean",
        "What the loss is a mean of: token_mean (all tokens of the minibatch: AReaL, DAPO), sequence_mean "
        "(completions, each the mean over its tokens: GRPO, GSPO, SAPO) or constant_length (completions, each the sum "
        "over its tokens divided by gconfig.max_new_tokens: Dr. GRPO).",
    )
    drop_groups_without_signal: bool = _explained(
        False,
        "Reject groups whose rewards are all equal instead of keeping them at advantage 0; needs dynamic_bs=true.",
    )
    kl_reference: bool = _explained(
        False,
        "Keep the start model as reference policy and log the KL to it (`kl`) every kl_steps. With actor.kl_ctl above "
        "0 it is kept anyway, and the KL taken from the reward of every step.",
    )
    kl_steps: int = _explained(10, "With kl_reference: measure the KL in the first step and then every so many steps.")
    preflight: bool = _explained(
        True, "Sample training prompts before step 1, n_samples completions each; no signal at all: do not start."
    )
    preflight_prompts: int = _explained(32, "How many prompts the preflight samples: the first of the training rows.")
    report: bool = _explained(True, "Write report.html when the run is done, as `gsm8k report` does at any time.")
    hang_seconds: int = _explained(
        1800, "Stop the run, with the stacks of its processes, when its phase has not changed for this many seconds."
    )
    max_failures: int = _explained(
        64, "Stop the run when so many samples failed to be generated or graded, and no complete group came in between."
    )
    max_empty_batches: int = _explained(
        20,
        "With drop_groups_without_signal: stop the run after this many batches in a row in which no group had signal.",
    )
