"""A trainer that can be killed: it saves recovery checkpoints, and starts from the newest one it finds.

Beside AReaL's own recovery (areal/utils/recover.py), which overwrites its only checkpoint in place, forgets the
learning-rate schedule and counts prompts as done that were only drawn ahead, this keeps two, written atomically, with
the schedule and the ledger of done prompts. On the disk: runs/recovery.py.
"""

from areal.api import SaveLoadMeta, StepInfo
from areal.utils import seeding
from areal.utils.recover import RecoverInfo

from areal_gsm8k.runs import checkpoints, recovery
from areal_gsm8k.runs.recovery import Ledger, RecoveryPoint


class Recoverable:
    """Mixin over PPOTrainer; `run`, `rank`, `_status` and `_from_rank_0` are the trainer's."""

    recovered: RecoveryPoint | None = None

    def _find_recovery_point(self) -> None:
        """Before AReaL's trainer is made: where to go on, and with which prompts."""
        self.recovered, notes = recovery.newest(self.run)
        for note in notes if self.rank == 0 else []:
            print(note, flush=True)
        self.ledger = Ledger(**self.recovered.state["ledger"]) if self.recovered else Ledger()
        self.steps_done = self.recovered.step if self.recovered else 0

    def _recover(self) -> None:
        """After AReaL's trainer is made: load model, optimiser and schedule, and bring the servers up to the policy."""
        if self.recovered is None:
            return
        step, state = self.recovered.step, self.recovered.state
        self.actor.load(_checkpoint(self.recovered.folder))
        self.actor.lr_scheduler.load_state_dict(state["lr_scheduler"])
        for name in ("saver", "evaluator", "stats_logger"):
            getattr(self, name).load_state_dict(state[name])
        self.recover_handler.freq_ctl.load_state_dict(state["recover"])
        self.best_accuracy, self.evaluated_version = state["best_accuracy"], state["evaluated_version"]
        self.rollout.pause()
        self.actor.update_weights(self.weight_update_meta.with_version(step))
        self.rollout.resume()
        for engine in (self.actor, self.rollout, self.eval_rollout):
            engine.set_version(step)
        self.rollout.workflow_executor.staleness_manager.on_version_recovered(step)
        per_epoch = len(self.train_dataloader)
        last = StepInfo((step - 1) // per_epoch, (step - 1) % per_epoch, step - 1, per_epoch)
        self.recover_info = RecoverInfo(last, {}, {}, {}, {}, {})  # what AReaL's loop asks for its first step

    def _save_recovery_point(self) -> None:
        if self.scheduler:  # AReaL's single controller: the optimiser is in its workers, and --resume is refused
            return
        self._status("saving a recovery point", step=self.steps_done)
        folder = self.run.recovery / f"step_{self.steps_done:05d}"
        unfinished = self._from_rank_0(checkpoints.partial(folder) if self.rank == 0 else None)
        self.actor.save(_checkpoint(unfinished))
        if self.rank == 0:
            state = {
                "step": self.steps_done,
                "ledger": self.ledger.state(),
                "lr_scheduler": self.actor.lr_scheduler.state_dict(),
                "best_accuracy": self.best_accuracy,
                "evaluated_version": self.evaluated_version,
                "recover": self.recover_handler.freq_ctl.state_dict(),
            }
            state |= {name: getattr(self, name).state_dict() for name in ("saver", "evaluator", "stats_logger")}
            recovery.finish(unfinished, folder, state)

    def _seed_step(self) -> None:
        """Random numbers of the next step: a function of seed, rank and step, so that a resumed run draws the same."""
        seeding.set_random_seed(self.config.seed, key=f"trainer{self.rank}-step{self.steps_done}")


def _checkpoint(folder) -> SaveLoadMeta:
    return SaveLoadMeta(
        path=str(folder), weight_format="dcp", with_optim=True, tokenizer=None, processor=None, base_model_path=None
    )
