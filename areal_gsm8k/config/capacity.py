"""Arithmetic that decides whether a run can go on for ever, checked when the configuration is read.

AReaL admits a new prompt only while `accepted + running < (max_head_offpolicyness + version + 1) * consumer_batch_size`
(areal/infra/staleness_manager.py, per data-parallel rank). A step needs a whole batch accepted, so a consumer batch
size below the training batch makes some step wait for ever; nothing in AReaL says so.
"""

from areal_gsm8k.config.schema import ConfigError

QUEUE_FACTOR = 16  # AReaL: rollout.queue_size, or this many times max_concurrent_rollouts (workflow_executor.py)


def check(rollout: dict, batch_size: int, ranks: int) -> None:
    """Raise ConfigError, naming the numbers, for a set-up in which a step would never get its batch.

    `rollout` is the configuration's section of that name, `batch_size` the prompts a step, `ranks` the data-parallel
    trainers, over which AReaL divides every number, rounding down.
    """
    batch = batch_size // ranks
    consumer = max(1, rollout["consumer_batch_size"] // ranks)
    bound = rollout["max_head_offpolicyness"]
    if bound < 0:
        raise ConfigError(f"rollout.max_head_offpolicyness={bound}: 0 is synchronous, larger numbers run ahead.")
    if consumer < batch:
        # the first version v at which (bound + v + 1) * consumer < (v + 1) * batch
        step = bound * consumer // (batch - consumer) + 1
        raise ConfigError(
            f"rollout.consumer_batch_size={rollout['consumer_batch_size']} is below "
            f"train_dataset.batch_size={batch_size}: with max_head_offpolicyness={bound} step {step} would wait for "
            f"ever, because AReaL would admit only {(bound + step) * consumer} of the {step * batch} prompts it needs"
            f"{f' on each of {ranks} ranks' if ranks > 1 else ''}. Leave it at ${{train_dataset.batch_size}}."
        )
    concurrent = rollout.get("max_concurrent_rollouts")
    if concurrent is not None and concurrent < 1:
        raise ConfigError(f"rollout.max_concurrent_rollouts={concurrent}: at least one prompt must be under way.")
    queue = rollout.get("queue_size") or QUEUE_FACTOR * (concurrent or rollout["consumer_batch_size"])
    if queue < batch:
        raise ConfigError(
            f"rollout.queue_size={queue} cannot hold one batch of {batch} prompts: raise it, or leave it out; it is "
            f"then {QUEUE_FACTOR} times rollout.max_concurrent_rollouts={concurrent}, which may be too low."
        )
