"""Recovery checkpoints of a trainer that can be killed, in the place of AReaL's RecoverHandler.

AReaL's own (areal/utils/recover.py) overwrites its only checkpoint in place, forgets the learning-rate schedule and
counts prompts as done that were only drawn ahead. Here two checkpoints stay, written atomically, with the schedule and
the ledger of done prompts. runs/recovery.py has their files. To go on from the newest: `./run train --resume RUN`.
"""

from pathlib import Path
from typing import Any

from areal.api import SaveLoadMeta, StepInfo
from areal.utils.recover import RecoverHandler, RecoverInfo

from areal_gsm8k.runs import checkpoints, recovery
from areal_gsm8k.runs.recovery import Ledger, RecoveryPoint
from areal_gsm8k.runs.run import Run

COLLABORATORS = ("saver", "evaluator", "stats_logger")  # of AReaL's trainer; each has state_dict and load_state_dict


def find(run: Run, rank: int) -> RecoveryPoint | None:
    """The point to go on from, before AReaL's trainer is made; rank 0 reports the points that were passed over."""
    newest, notes = recovery.newest(run)
    for note in notes if rank == 0 else []:
        print(note, flush=True)
    return newest


def ledger(point: RecoveryPoint | None) -> Ledger:
    """The prompts that are done."""
    return Ledger(**point.state["ledger"]) if point else Ledger()


class RecoveryPoints:
    """Saves and restores a GSM8KTrainer. `recover.freq_steps` and its siblings say how often `due` is true."""

    def __init__(self, areal: RecoverHandler, trainer):
        self.freq_ctl, self.trainer = areal.freq_ctl, trainer

    def dump(self, *_, **__) -> None:
        """Nothing: AReaL's loop calls this before the step is on file. The trainer saves after the step is on file."""

    def load(self, *_, **__) -> None:
        """Nothing: AReaL calls this before its trainer is whole. `restore` loads afterwards."""

    def due(self, end_of_epoch: bool) -> bool:
        """Whether a point is due after the step just done. A call counts the step, so call once a step."""
        return self.freq_ctl.check(epochs=int(end_of_epoch), steps=1)

    def save(self) -> None:
        """Save model, optimiser and all other state of the run, after a step that is on file. Called by all ranks."""
        trainer, step = self.trainer, self.trainer.stats_logger.steps_done
        if trainer.scheduler:  # AReaL's single controller: the optimiser is in its workers, and --resume is refused
            return
        trainer.status("saving a recovery point", step=step)
        folder = trainer.run.recovery / f"step_{step:05d}"
        unfinished = trainer.ranks.from_first(checkpoints.partial(folder) if trainer.ranks.first else folder)
        trainer.actor.save(_checkpoint(unfinished))
        if trainer.ranks.first:
            state: dict[str, Any] = {
                "step": step,
                "ledger": trainer.stats_logger.ledger.state(),
                "lr_scheduler": trainer.actor.lr_scheduler.state_dict(),
                "best_accuracy": trainer.saver.best_accuracy,
                "evaluated_version": trainer.evaluator.evaluated_version,
                "recover": self.freq_ctl.state_dict(),
            }
            state |= {name: getattr(trainer, name).state_dict() for name in COLLABORATORS}
            recovery.finish(unfinished, folder, state)

    def restore(self, point: RecoveryPoint) -> RecoverInfo:
        """Load model, optimiser and schedule, and bring the servers up to the policy.

        Returns `recover_info`, from which AReaL's loop takes its first step.
        """
        trainer, step, state = self.trainer, point.step, point.state
        trainer.actor.load(_checkpoint(point.folder))
        trainer.actor.lr_scheduler.load_state_dict(state["lr_scheduler"])
        for name in COLLABORATORS:
            getattr(trainer, name).load_state_dict(state[name])
        self.freq_ctl.load_state_dict(state["recover"])
        trainer.saver.best_accuracy = state["best_accuracy"]
        trainer.evaluator.evaluated_version = state["evaluated_version"]
        trainer.rollout.pause()
        trainer.actor.update_weights(trainer.weight_update_meta.with_version(step))
        trainer.rollout.resume()
        for engine in (trainer.actor, trainer.rollout, trainer.eval_rollout):
            engine.set_version(step)
        trainer.rollout.workflow_executor.staleness_manager.on_version_recovered(step)
        per_epoch = len(trainer.train_dataloader)
        last = StepInfo((step - 1) // per_epoch, (step - 1) % per_epoch, step - 1, per_epoch)
        return RecoverInfo(last, {}, {}, {}, {}, {})


def _checkpoint(folder: Path) -> SaveLoadMeta:
    return SaveLoadMeta(
        path=str(folder), weight_format="dcp", with_optim=True, tokenizer=None, processor=None, base_model_path=None
    )
