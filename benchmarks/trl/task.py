"""What both sides are given: model, rows in their order, and the numbers of our resolved configuration.

    task = Task(folder, model, ["configs/cpu.yaml"], ["kl_reference=false"], steps=240, kept=(20, 40))
    task.write_rows(train, dev, seed=1)

TRL's arguments are made from our configuration, so that no number stands in two places. Prompts come in the same order
on both sides, shuffled here by the seed and by nobody afterwards: on that order it depends how fast the tiny recipe
learns.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

from areal_gsm8k.config.compose import Plan, make_plan
from areal_gsm8k.data import prompts
from areal_gsm8k.runs.files import to_lines, write_atomically

LOSSES = {"token_mean": "dapo", "sequence_mean": "grpo", "constant_length": "dr_grpo"}  # our loss_reduction, TRL's name
NOTHING_ELSE = (
    "kl_reference=false", "preflight=off", "report=off", "expected_band=null", "train_dataset.shuffle=false",
    "evaluator.freq_steps=1000000", "recover.freq_steps=1000000",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """folder: for rows and results. steps: where both stop; schedules are those of the whole configuration. kept: steps
    after which weights are kept, multiples of the first of them."""

    folder: Path
    model: Path
    configs: tuple[str, ...]
    overrides: tuple[str, ...]
    steps: int
    kept: tuple[int, ...] = ()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def rows(self, seed: int) -> Path:
        """The folder that a run of this seed reads; prompts.jsonl there is for TRL."""
        return self.data / f"seed-{seed}"

    def write_rows(self, train: list[dict], dev: list[dict], seed: int) -> None:
        train = Random(seed).sample(train, len(train))
        form, system = self.plan.get("answer_format"), self.plan.get("system_prompt")
        asked = [
            {"prompt": prompts.messages(row["question"], form, system), "reference": row["answer"]} for row in train
        ]
        for name, rows in (("train", train), ("validation", dev), ("prompts", asked)):
            write_atomically(self.rows(seed) / f"{name}.jsonl", to_lines(rows))

    def our_arguments(self, seed: int, extra: tuple[str, ...] = ()) -> list[str]:
        """What follows `gsm8k train` on our side, but for the place of the run."""
        configs = [part for config in self.configs for part in ("--config", config)]
        keeping = [f"saver.freq_steps={self.kept[0]}"] if self.kept else []
        return [
            *configs, *NOTHING_ELSE, *self.overrides, *keeping, *extra, f"actor.path={self.model}",
            f"train_dataset.path={self.rows(seed)}", f"seed={seed}", f"total_train_steps={self.steps}",
        ]  # fmt: skip

    @cached_property
    def plan(self) -> Plan:
        """Our configuration, resolved."""
        overrides = [*NOTHING_ELSE, *self.overrides, f"actor.path={self.model}"]
        return make_plan([Path(config) for config in self.configs], overrides, gpus=0)

    @property
    def completions(self) -> int:
        """Of a step."""
        return self.plan.get("train_dataset.batch_size") * self.plan.get("gconfig.n_samples")

    def trl_arguments(self, seed: int, rows: int, batch: int | None = None) -> dict:
        """TRL's GRPOConfig for our configuration. batch: completions a microbatch; None: all of a step at once.

        One difference remains: AReaL's warm-up begins at `min_lr_ratio` of the learning rate, TRL's at 0.
        """
        get, adam = self.plan.get, self.plan.get("actor.optimizer")
        assert not get("kl_reference") and get("actor.ppo_n_minibatches") == 1, "TRL's side has no such thing here"
        batch = batch or self.completions
        total = get("total_train_epochs") * (rows // get("train_dataset.batch_size"))
        schedules = {
            "cosine": ("cosine_with_min_lr", {"min_lr_rate": adam.get("min_lr_ratio", 0.0)}),
            "constant": ("constant_with_warmup", {}),
        }
        schedule, its_own = schedules[adam["lr_scheduler_type"]]
        return {
            "seed": seed,
            "shuffle_dataset": False,
            "max_steps": total,
            "num_generations": get("gconfig.n_samples"),
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": self.completions // batch,
            "max_completion_length": get("gconfig.max_new_tokens"),
            "temperature": get("gconfig.temperature"),
            "loss_type": LOSSES[get("loss_reduction")],
            "epsilon": get("actor.eps_clip"),
            "beta": 0.0,
            "learning_rate": adam["lr"],
            "lr_scheduler_type": schedule,
            "lr_scheduler_kwargs": its_own,
            "warmup_steps": int(adam["warmup_steps_proportion"] * total),
            "adam_beta1": adam["beta1"],
            "adam_beta2": adam["beta2"],
            "adam_epsilon": adam.get("eps", 1e-8),
            "weight_decay": adam["weight_decay"],
            "max_grad_norm": adam["gradient_clipping"],
            "bf16": get("actor.dtype") == "bfloat16",
            "gradient_checkpointing": False,
        }
