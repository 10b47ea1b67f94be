"""Checkpoints of the policy, in the place of AReaL's Saver, which imports triton and writes in place.

    <run>/checkpoints/best, last, step_NNNNN     Hugging Face folders, there whole or not at all

AReaL's loop calls `save` after every step; `saver.freq_steps` and its siblings say which steps get a checkpoint.
"""

from typing import Any

from areal.api import SaveLoadMeta
from areal.utils.saver import Saver

from areal_gsm8k.runs import checkpoints
from areal_gsm8k.runs.run import Run
from areal_gsm8k.training.ranks import Ranks


class PolicySaver:
    """AReaL's Saver as its loop, recovery and `close` use it. `best_accuracy`: of the best model saved so far."""

    is_async = False  # every save is done when it returns

    def __init__(self, areal: Saver, run: Run, ranks: Ranks, actor, tokenizer, processor):
        self.freq_ctl, self.ft_spec = areal.freq_ctl, areal.ft_spec
        self.run, self.ranks = run, ranks
        self.actor, self.tokenizer, self.processor = actor, tokenizer, processor
        self.best_accuracy = -1.0

    def save(self, engine, epoch: int, step: int, global_step: int, *_, **__) -> None:
        """Save step `global_step` (counted from 0), when one is due. AReaL passes what `save_as` knows already."""
        if self.freq_ctl.check(epochs=int(step == self.ft_spec.steps_per_epoch - 1), steps=1):
            self.save_as(f"step_{global_step + 1:05d}")

    def save_if_best(self, accuracy: float | None) -> bool:
        """Save as `best` a model whose dev accuracy beats all before; None: the model was not evaluated."""
        if accuracy is None or accuracy <= self.best_accuracy:
            return False
        self.best_accuracy = accuracy
        self.save_as("best")
        return True

    def save_as(self, name: str) -> None:
        """Save the model as checkpoints/<name>; only a complete one replaces an older one. Called by all ranks."""
        folder = self.run.checkpoints / name
        unfinished = self.ranks.from_first(checkpoints.partial(folder) if self.ranks.first else folder)
        self.actor.save(
            SaveLoadMeta(
                path=str(unfinished),
                weight_format="hf",
                with_optim=False,
                tokenizer=self.tokenizer,
                processor=self.processor,
                base_model_path=None,
            )
        )
        if self.ranks.first:
            checkpoints.note_version(unfinished, self.actor.get_version())
            checkpoints.finish(unfinished, folder)

    def state_dict(self) -> dict[str, Any]:
        return self.freq_ctl.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.freq_ctl.load_state_dict(state_dict)

    def maybe_wait_for_staging(self) -> None:
        """Nothing is ever staged."""

    def finalize(self) -> None:
        """Nothing is ever left to write."""
