"""AReaL's PPOTrainer, observed and repaired: evaluation before and after, sample records, metrics, saving on CPU.

The training loop itself is AReaL's `PPOTrainer.train` (areal/trainer/rl_trainer.py). Overridden is only what is broken
or missing there: the engines (training/actor.py and rollouts.py; controller.py where they live in worker
processes), saving (AReaL's Saver imports triton), recovery (training/recoverable.py), and the per-step hooks
that write the run directory.
"""

import json
import os
import time
from typing import Any

import torch.distributed as dist
from areal import PPOTrainer
from areal.api import SaveLoadMeta
from areal.utils import stats_tracker

from areal_gsm8k.runs import checkpoints
from areal_gsm8k.runs.files import append_lines, to_lines, write_atomically
from areal_gsm8k.runs.records import RecordReader
from areal_gsm8k.runs.run import COLLAPSED, FINISHED, REFUSED, STOPPED
from areal_gsm8k.training import controller, rollouts
from areal_gsm8k.training.actor import PackedActor
from areal_gsm8k.training.batch_rows import evaluation_metrics, step_metrics
from areal_gsm8k.training.colocation import TakesTurns
from areal_gsm8k.training.prompt_stream import PromptStream
from areal_gsm8k.training.recoverable import Recoverable
from areal_gsm8k.training.run_config import RunConfig
from areal_gsm8k.watch import preflight, verdict


class StopAfterStep(Exception):
    """The run ends after the step just done, which is saved: asked for (STOPPED), or found collapsing (COLLAPSED)."""

    def __init__(self, phase: str):
        super().__init__(phase)
        self.phase = phase


class GSM8KTrainer(Recoverable, TakesTurns, PPOTrainer):
    def __init__(self, config: RunConfig, train_dataset, valid_dataset):
        self.run = config.run
        self.rank = int(os.environ.get("RANK", "0"))
        self._find_recovery_point()
        self._status("loading the model")
        self.reader = RecordReader(self.run.records)
        self.consumed: list[dict[str, Any]] = []  # this rank's sample rows of the current step
        self.dev: dict[str, float | None] = {}  # metrics of an evaluation that no row of metrics.jsonl holds yet
        self.dev_accuracy: float | None = None  # of an evaluation that the best model was not yet chosen by
        self.evaluated_version = -1
        self.best_accuracy = -1.0
        if self._is_actor_rollout_colocated(config):
            self._release_servers()
        super().__init__(config, train_dataset=train_dataset, valid_dataset=valid_dataset)
        self._recover()
        self.actor.on_advantages = self._join_samples
        self.actor.reduce_loss(config.loss_reduction)
        if config.reward.shuffled:
            self.actor.shuffle_rewards(config.seed)

    def train(self, **workflows) -> None:
        """AReaL's loop, with its arguments, and an evaluation before the first step and after the last."""
        evaluation = workflows["eval_workflow"], workflows["eval_workflow_kwargs"]
        if not self.recovered:
            self._evaluate_alone(*evaluation)
            if self.config.preflight and not self._preflight(workflows["workflow"], workflows["workflow_kwargs"]):
                self._status(REFUSED)
                return
        self.step_started = time.perf_counter()
        self._begin_step()
        try:
            super().train(**workflows)
        except StopAfterStep as stop:
            self._save("last")
            self._status(stop.phase, step=self.steps_done)
            return
        finally:
            self._flush_rejected()
        if self.evaluated_version != self.actor.get_version():
            self._evaluate_alone(*evaluation)
        self._save("last")
        self._save_recovery_point()  # a run with more steps than this one goes on from here
        self._status(FINISHED)

    # What AReaL creates

    def _create_train_engine(self, actor_config, alloc):
        if alloc.backend != "fsdp":
            return super()._create_train_engine(actor_config, alloc)
        if self.scheduler:
            engine = PackedActor.as_controller(actor_config, self.scheduler)
        else:
            engine = PackedActor(actor_config)
            engine.on_weights_saved = self.run.set_served_weights
            engine.load_later = self._should_offload_rollout
        engine.create_process_group(parallel_strategy=alloc.parallel)
        return engine

    def _init_scheduler(self):
        if self.config.scheduler.type == "slurm":
            return controller.slurm_scheduler(self.config)
        return super()._init_scheduler()

    def _init_rollout(self, rollout_config, is_eval: bool = False, lora_path: str | None = None):
        if self.scheduler:
            return controller.connect(self, rollout_config, is_eval)
        ranks = self.actor_alloc.parallel.dp_size
        bound = self.config.max_empty_batches
        patience = rollout_config.setup_timeout if self.config.allocation_mode.startswith("embedded") else 0
        return rollouts.connect(self.rollout_alloc.backend, rollout_config, ranks, is_eval, bound, patience)

    def _save_initial_lora_weights(self) -> None:
        """Nothing: servers get merged weights, and start with the model that the adapter starts beside."""

    def _create_dataloader(self, dataset, dataset_config, rank: int, world_size: int):
        loader = super()._create_dataloader(dataset, dataset_config, rank, world_size)
        if dataset_config is self.config.train_dataset:
            loader = PromptStream(loader, rank, world_size, self.ledger)
        return loader

    # What a step leaves behind

    def _begin_step(self) -> None:
        self._seed_step()
        self._status("rollout", step=self.steps_done + 1)

    def _join_samples(self, rows: list[dict[str, Any]]) -> None:
        self._status("training", step=self.steps_done + 1)
        self.consumed = rows

    def _export_and_commit_stats(self, epoch: int, epoch_step: int, global_step: int):
        areal = self.actor.export_stats() | self.rollout.export_stats() | self.eval_rollout.export_stats()
        consumed = self._gather(self.consumed)
        ours = {}
        if self.rank == 0:
            samples = self._write_samples(global_step + 1, consumed)
            rejected = self._flush_rejected()
            seconds = time.perf_counter() - self.step_started
            ours = {"step": global_step + 1, "epoch": epoch + 1}
            ours |= step_metrics(samples, rejected, areal, version=global_step, seconds=seconds) | self.dev
            append_lines(self.run.metrics, [ours])
            self.ledger.add(row["position"] for row in [*samples, *rejected])
        self.stats_logger.commit(epoch, epoch_step, global_step, areal | _numbers(ours))
        self.dev = {}
        self.steps_done = global_step + 1
        self.step_started = time.perf_counter()
        with stats_tracker.record_timing("recovery"):
            self._save_progress(end_of_epoch=epoch_step == len(self.train_dataloader) - 1)
        self._begin_step()
        dist.barrier(group=self.actor.cpu_group)

    def _save_progress(self, end_of_epoch: bool) -> None:
        """After a step is on file: the best model, and a recovery point when one is due. Raises StopAfterStep."""
        due = self.recover_handler.freq_ctl.check(epochs=int(end_of_epoch), steps=1)
        stop = self._from_rank_0(self._stop_as() if self.rank == 0 else None)
        if self._save_if_best() or due or stop:
            self._save_recovery_point()
        if stop:
            raise StopAfterStep(stop)

    def _stop_as(self) -> str | None:
        """The phase to end in after this step; None to go on."""
        if self.run.stop_request.exists():
            return STOPPED
        collapsing = self.config.collapse.stop and verdict.of_run(self.run).state == verdict.COLLAPSING
        return COLLAPSED if collapsing else None

    def _write_samples(self, step: int, consumed: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Join this step's tensors with the records the workflows wrote, and write them as one file."""
        records = self.reader.take([row["id"] for row in consumed])
        samples = [record | row for record, row in zip(records, consumed, strict=True)]
        write_atomically(self.run.samples(step), to_lines(samples))
        return samples

    def _flush_rejected(self) -> list[dict[str, Any]]:
        """Write what no step will consume to samples/rejected.jsonl."""
        if self.rank != 0:
            return []
        rejected = [row | {"step": self.steps_done + 1} for row in self.reader.take_rejected()]
        append_lines(self.run.rejected, rejected)
        return rejected

    def _gather(self, rows: list) -> list:
        """All ranks' rows on every rank, in rank order."""
        gathered: list = [None] * dist.get_world_size(self.actor.cpu_group)
        dist.all_gather_object(gathered, rows, group=self.actor.cpu_group)
        return [row for part in gathered for row in part]

    # Preflight, evaluation and saving

    def _preflight(self, workflow, workflow_kwargs) -> bool:
        """Sample groups of training prompts and write what came back; False when training would be in vain."""
        self._status("preflight")
        dataset, ranks = self.train_dataloader.loader.dataset, self.actor.data_parallel_world_size
        if self.actor.is_data_parallel_head():
            rows = range(self.actor.data_parallel_rank, min(preflight.PROMPTS, len(dataset)), ranks)
            with self._servers_at_work(self.eval_rollout):
                for row in rows:
                    self.eval_rollout.submit(
                        dataset[row], workflow, workflow_kwargs, group_size=self.config.gconfig.n_samples, is_eval=True
                    )
                self.eval_rollout.wait(len(rows), timeout=None)
        dist.barrier(group=self.actor.cpu_group)
        found = None
        if self.rank == 0:
            records = self.reader.take_evaluated()
            write_atomically(self.run.preflight.with_suffix(".jsonl"), to_lines(records))
            found = preflight.summarise(records)
            refusal = preflight.refusal(found, self.config.gconfig.max_new_tokens, self.config.answer_format)
            write_atomically(self.run.preflight, json.dumps(found | {"refusal": refusal}, indent=2) + "\n")
            found = refusal is None
        return self._from_rank_0(found)

    def _evaluate_alone(self, eval_workflow, eval_workflow_kwargs) -> None:
        """An evaluation outside AReaL's loop, with a row of its own in metrics.jsonl."""
        self._evaluate_fn(eval_workflow, eval_workflow_kwargs)
        self._save_if_best()
        if self.rank == 0:
            row = {"step": self.steps_done} | self.dev
            append_lines(self.run.metrics, [row])
            # AReaL counts its rows from 0 and never back: with this one at 0, step n of the run is its row n.
            self.stats_logger.commit(0, -1, self.steps_done - 1, _numbers(row))
        self.dev = {}

    def _evaluate_fn(self, eval_workflow, eval_workflow_kwargs):
        self._status("evaluating", step=self.steps_done)
        super()._evaluate_fn(eval_workflow, eval_workflow_kwargs)
        self.evaluated_version = self.actor.get_version()
        if self.rank == 0:
            rows = sorted(self.reader.take_evaluated(), key=lambda row: row["row"])
            write_atomically(self.run.evaluation(self.evaluated_version), to_lines(rows))
            self.dev = evaluation_metrics(rows)
        self.dev_accuracy = self._from_rank_0(self.dev.get("dev/accuracy"))

    def _save_if_best(self) -> bool:
        """Save the model when its evaluation, if there was one, beat all before."""
        accuracy, self.dev_accuracy = self.dev_accuracy, None
        if accuracy is None or accuracy <= self.best_accuracy:
            return False
        self.best_accuracy = accuracy
        self._save("best")
        return True

    def _from_rank_0(self, value):
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.actor.cpu_group)
        return box[0]

    def _save_recover_checkpoint(self, epoch: int, epoch_step: int, global_step: int):
        """Nothing at this point of AReaL's loop: the step must be on file first (see _save_progress)."""

    def _save_hf(self, epoch: int, epoch_step: int, global_step: int):
        last_of_epoch = epoch_step == self.saver.ft_spec.steps_per_epoch - 1
        if self.saver.freq_ctl.check(epochs=int(last_of_epoch), steps=1):
            self._save(f"step_{global_step + 1:05d}")

    def _save(self, name: str) -> None:
        """Save the model in Hugging Face format under checkpoints/<name>, replacing an older one only when complete."""
        folder = self.run.checkpoints / name
        unfinished = self._from_rank_0(checkpoints.partial(folder) if self.rank == 0 else None)
        meta = SaveLoadMeta(
            path=str(unfinished),
            weight_format="hf",
            with_optim=False,
            tokenizer=self.tokenizer,
            processor=self.processor,
            base_model_path=None,
        )
        self.actor.save(meta)
        if self.rank == 0:
            checkpoints.note_version(unfinished, self.actor.get_version())
            checkpoints.finish(unfinished, folder)

    def _status(self, phase: str, **details) -> None:
        if self.rank == 0:
            self.run.set_status(phase, **details)


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """What trackers accept: no nulls."""
    return {name: value for name, value in row.items() if value is not None}
