import re

import pytest

from areal_gsm8k.config.capacity import check
from areal_gsm8k.config.schema import ConfigError


def rollout(**changed):
    return {"consumer_batch_size": 8, "max_head_offpolicyness": 2, "max_concurrent_rollouts": 32} | changed


def first_stuck_step(batch: int, consumer: int, bound: int, steps: int = 1000) -> int | None:
    """AReaL's admission rule, played step by step."""
    for version in range(steps):
        if (bound + version + 1) * consumer < (version + 1) * batch:
            return version + 1
    return None


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("bound", [0, 1, 2, 7])
@pytest.mark.parametrize("consumer", [1, 2, 4, 6, 8, 16])
def test_it_agrees_with_areals_rule_and_names_the_step(consumer, bound, ranks):
    stuck = first_stuck_step(8 // ranks, max(1, consumer // ranks), bound)
    if stuck is None:
        check(rollout(consumer_batch_size=consumer, max_head_offpolicyness=bound), 8, ranks)
        return
    with pytest.raises(ConfigError) as error:
        check(rollout(consumer_batch_size=consumer, max_head_offpolicyness=bound), 8, ranks)
    assert int(re.search(r"step (\d+) would wait", str(error.value))[1]) == stuck
    assert f"consumer_batch_size={consumer}" in str(error.value)


def test_the_rule_is_areals():
    staleness_manager = pytest.importorskip("areal.infra.staleness_manager", reason="areal is not installed")

    class Version:
        def get_version(self):
            return 3

    manager = staleness_manager.StalenessManager(Version(), 1000, consumer_batch_size=4, max_staleness=2)
    assert manager.get_capacity() == (2 + 3 + 1) * 4


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"max_head_offpolicyness": -1}, "max_head_offpolicyness=-1"),
        ({"max_concurrent_rollouts": 0}, "max_concurrent_rollouts=0"),
        ({"queue_size": 4}, "queue_size=4 cannot hold one batch of 8"),
    ],
)
def test_other_numbers_that_stop_a_run(changed, said):
    with pytest.raises(ConfigError, match=said):
        check(rollout(**changed), 8, 1)
