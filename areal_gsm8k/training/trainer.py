"""AReaL's PPOTrainer with collaborators that write a run's directory, and with engines that work here.

The training loop itself is AReaL's `PPOTrainer.train` (areal/trainer/rl_trainer.py). The loop talks to collaborators
through their public methods, and after AReaL's __init__ ours stand in their places:

    train_dataloader    PromptStream      the order of prompts, without those done
    stats_logger        StepRecorder      the files of each step; then `_after_step`
    evaluator           DevEvaluator      dev evaluations, also before the first step and after the last
    saver               PolicySaver       Hugging Face checkpoints, there whole or not at all
    recover_handler     RecoveryPoints    the state from which a killed run goes on

We override only the methods that choose AReaL's engines, and those for turns on one GPU.
"""

import functools
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from areal.trainer.rl_trainer import PPOTrainer
from areal.utils import seeding, stats_tracker
from typing_extensions import override

from areal_gsm8k.config.compose import MEASURE_ONLY
from areal_gsm8k.runs.run import COLLAPSED, FINISHED, REFUSED, STOPPED
from areal_gsm8k.training import colocation, controller, preflight, recovery_points, rollouts
from areal_gsm8k.training.actor import PackedActor, skip_needless_pass
from areal_gsm8k.training.dev_evaluator import DevEvaluator
from areal_gsm8k.training.policy_saver import PolicySaver
from areal_gsm8k.training.prompt_stream import PromptStream
from areal_gsm8k.training.pulse import Pulse, progress
from areal_gsm8k.training.ranks import Ranks
from areal_gsm8k.training.recovery_points import RecoveryPoints
from areal_gsm8k.training.reference import OccasionalReference
from areal_gsm8k.training.run_config import RunConfig
from areal_gsm8k.training.step_recorder import StepRecorder
from areal_gsm8k.watch import verdict
from areal_gsm8k.watch.diagnosis import COLLAPSING


class StopAfterStep(Exception):
    """The run ends after the step just done, which is saved: by request (STOPPED), or as collapsing (COLLAPSED)."""

    def __init__(self, phase: str):
        super().__init__(phase)
        self.phase = phase


class GSM8KTrainer(PPOTrainer):
    config: RunConfig
    actor: Any  # PackedActor, or the controller of the PackedActors in AReaL's workers
    train_dataloader: PromptStream
    stats_logger: StepRecorder
    evaluator: DevEvaluator
    saver: PolicySaver
    recover_handler: RecoveryPoints

    def __init__(self, config: RunConfig, train_dataset, valid_dataset):
        self.run, self.rank = config.run, int(os.environ.get("RANK", "0"))
        self.colocated, self.turns = config.takes_turns, colocation.Turns()
        self.recovered = recovery_points.find(self.run, self.rank)
        self.pulse = Pulse(self.run, functools.partial(progress, self))
        self.dev_rows = len(valid_dataset or ())
        self.status("loading the model")
        if self.colocated:
            colocation.release_servers()
        skip_needless_pass(config.actor)
        super().__init__(config, train_dataset=train_dataset, valid_dataset=valid_dataset)
        self._compose()
        if self.recovered:
            self.recover_info = self.recover_handler.restore(self.recovered)
        self.actor.on_advantages = self._begin_update
        self.actor.on_update = self.stats_logger.consume
        self.actor.reduce_loss(config.loss_reduction)
        if config.reward.shuffled:
            self.actor.shuffle_rewards(config.seed)

    def _compose(self) -> None:
        """Put our collaborators in the places of AReaL's."""
        areal: Any = self  # whose collaborators are still AReaL's
        ledger = recovery_points.ledger(self.recovered)
        steps_done = self.recovered.step if self.recovered else 0
        self.ranks = ranks = Ranks(self.rank, self.actor.cpu_group)
        self.train_dataloader = PromptStream(
            areal.train_dataloader, self.actor.data_parallel_rank, self.actor.data_parallel_world_size, ledger
        )
        to = self.config.stats_logger
        tracked = bool(to.tensorboard.path) or any(t.mode != "disabled" for t in (to.wandb, to.swanlab, to.trackio))
        recorder = StepRecorder(areal.stats_logger, self.run, ranks, ledger, steps_done, self._after_step, tracked)
        self.evaluator = DevEvaluator(areal.evaluator, recorder, ranks, self.actor, self._servers_at_work, self.status)
        self.saver = PolicySaver(areal.saver, self.run, ranks, self.actor, self.tokenizer, self.processor)
        self.recover_handler = RecoveryPoints(areal.recover_handler, self)
        self.stats_logger = recorder
        if self.ref and self.config.actor.kl_ctl <= MEASURE_ONLY:
            self.ref = OccasionalReference(self.ref, self.config.kl_steps, lambda: recorder.steps_done)

    def train(self, **workflows) -> None:
        """AReaL's loop, with its arguments, and an evaluation before the first step and after the last."""
        evaluate = functools.partial(self._evaluate_fn, workflows["eval_workflow"], workflows["eval_workflow_kwargs"])
        if self.rank == 0:
            self.pulse.start()
        if not self.recovered:
            self._evaluate_alone(evaluate)
            if self.config.preflight and not preflight.allows_training(
                self, workflows["workflow"], workflows["workflow_kwargs"]
            ):
                self.status(REFUSED)
                return
        self.stats_logger.start()
        self._begin_step()
        try:
            super().train(**workflows)
        except StopAfterStep as stop:
            self.saver.save_as("last")
            self.status(stop.phase, step=self.stats_logger.steps_done)
            return
        finally:
            self.stats_logger.flush_rejected()
        if self.evaluator.evaluated_version != self.actor.get_version():
            self._evaluate_alone(evaluate)
        self.saver.save_as("last")
        self.recover_handler.save()  # a run with more steps than this one goes on from here
        self.status(FINISHED)

    def status(self, phase: str, **details) -> None:
        """Write the run's phase to its status file, for the launcher and `gsm8k watch`."""
        if self.rank == 0:
            self.pulse.enter(phase, **details)

    # Around AReaL's steps

    def _begin_step(self) -> None:
        """Seed the next step by a function of seed, rank and step, so that a resumed run draws the same numbers."""
        step = self.stats_logger.steps_done
        seeding.set_random_seed(self.config.seed, key=f"trainer{self.rank}-step{step}")
        self.status("rollout", step=step + 1)

    def _begin_update(self) -> None:
        self.status("training", step=self.stats_logger.steps_done + 1)

    def _after_step(self, end_of_epoch: bool) -> None:
        """A step is on file: save the best model, and a recovery point when one is due. Raises StopAfterStep."""
        with stats_tracker.record_timing("recovery"):
            due = self.recover_handler.due(end_of_epoch)
            stop = self.ranks.from_first(self._stop_as() if self.ranks.first else None)
            if self.saver.save_if_best(self.evaluator.take_accuracy()) or due or stop:
                self.recover_handler.save()
        if stop:
            raise StopAfterStep(stop)
        self._begin_step()

    def _stop_as(self) -> str | None:
        """The phase to end in after this step; None to go on."""
        if self.run.stop_request.exists():
            return STOPPED
        collapsing = self.config.collapse.stop and verdict.of_run(self.run).state == COLLAPSING
        return COLLAPSED if collapsing else None

    def _evaluate_alone(self, evaluate) -> None:
        """Evaluate outside AReaL's loop, with a row of its own in metrics.jsonl; nothing in a run that never does."""
        if not self.evaluator.ever:
            return
        self.evaluator.evaluate_now(evaluate)
        self.saver.save_if_best(self.evaluator.take_accuracy())
        self.stats_logger.commit_evaluation()

    # What AReaL creates

    @override
    def _create_train_engine(self, actor_config, alloc):
        if alloc.backend != "fsdp":
            return super()._create_train_engine(actor_config, alloc)
        if self.scheduler:
            engine = PackedActor.as_controller(actor_config, self.scheduler)
        else:
            engine = PackedActor(actor_config)
            engine.on_weights_saved = self.run.set_served_weights
            engine.load_later = self.colocated
        engine.create_process_group(parallel_strategy=alloc.parallel)
        return engine

    @override
    def _init_scheduler(self):
        if self.config.scheduler.type == "slurm":
            return controller.slurm_scheduler(self.config)
        return super()._init_scheduler()

    @override
    def _init_rollout(self, rollout_config, is_eval: bool = False, lora_path: str | None = None):
        if self.scheduler:
            return controller.connect(self, rollout_config, is_eval)
        ranks = self.actor_alloc.parallel.dp_size
        return rollouts.connect(self.rollout_alloc.backend, rollout_config, ranks, is_eval, self.config)

    @override
    def _save_initial_lora_weights(self) -> None:
        """Nothing: servers get merged weights, and start with the base model of the adapter."""

    # One GPU in turns (training/colocation.py)

    def _servers_at_work(self) -> AbstractContextManager[None]:
        if not self.colocated:
            return nullcontext()
        return self.turns.servers_at_work(self.eval_rollout, self._newest_weights())

    def _newest_weights(self) -> str:
        return self.actor.served or self.config.actor.path

    @override
    def _onload_rollout(self, is_eval: bool = False) -> None:
        if not is_eval:  # evaluations take their turn themselves
            self.turns.to_servers(self.rollout, self._newest_weights())

    @override
    def _offload_rollout(self, is_eval: bool = False) -> None:
        self.turns.to_trainer(self.rollout)
