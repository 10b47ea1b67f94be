"""The preflight before step 1: sample groups of training prompts with the untrained policy, and say whether to train.

    <run>/preflight.json, preflight.jsonl     the findings, and the completions

watch/preflight.py says what the findings are and when they forbid training. `preflight=false` skips the preflight.
"""

import json

from areal_gsm8k.runs.files import to_lines, write_atomically
from areal_gsm8k.watch import preflight


def allows_training(trainer, workflow: str, workflow_kwargs: dict) -> bool:
    """Sample, write the files; False when training would be in vain. Called by all ranks of a GSM8KTrainer."""
    trainer.status("preflight")
    config, actor, dataset = trainer.config, trainer.actor, trainer.train_dataloader.dataset
    if actor.is_data_parallel_head():
        rows = range(
            actor.data_parallel_rank, min(config.preflight_prompts, len(dataset)), actor.data_parallel_world_size
        )
        with trainer.evaluator.servers_at_work():
            for row in rows:
                trainer.eval_rollout.submit(
                    dataset[row], workflow, workflow_kwargs, group_size=config.gconfig.n_samples, is_eval=True
                )
            trainer.eval_rollout.wait(len(rows), timeout=None)
    trainer.ranks.wait()
    allowed = True
    if trainer.ranks.first:
        records = trainer.stats_logger.reader.take_evaluated()
        write_atomically(trainer.run.preflight.with_suffix(".jsonl"), to_lines(records))
        found = preflight.summarise(records)
        refusal = preflight.refusal(found, config.gconfig.max_new_tokens, config.answer_format)
        write_atomically(trainer.run.preflight, json.dumps(found | {"refusal": refusal}, indent=2) + "\n")
        allowed = refusal is None
    return trainer.ranks.from_first(allowed)
