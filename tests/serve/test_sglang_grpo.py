"""Five GRPO steps through AReaL against real SGLang on a CPU: ./run test --sglang

Trainer and configuration are those of `./run train --config configs/cpu.yaml`; only the server is another one.
"""

import time

import pytest
from sglang_client import Client
from sglang_server import SGLangServer

from areal_gsm8k.paths import CPU_OVERLAY
from areal_gsm8k.runs.files import read_lines
from areal_gsm8k.runs.run import Run

STEPS = 5


@pytest.fixture
def trained(request, sglang_wanted, monkeypatch, tmp_path, start_model) -> tuple[Run, dict]:
    """A finished run, and what SGLang says of itself after it. The parameter is rollout.max_head_offpolicyness."""
    from areal_gsm8k.config import compose
    from areal_gsm8k.launch import processes

    def start(model_path, log, max_running_requests, seed, **_):
        return SGLangServer(model_path, log, max_running_requests=max_running_requests, random_seed=seed)

    monkeypatch.setattr(processes, "ServerProcess", start)
    settings = [f"runs_dir={tmp_path}", "trial_name=t", f"actor.path={start_model}", "data.dev_rows=64"]
    settings += [f"total_train_steps={STEPS}", f"rollout.max_head_offpolicyness={request.param}"]
    plan = compose.make_plan([CPU_OVERLAY], settings, gpus=0)
    run = Run.create(plan.run_dir)
    compose.write(plan, run.config)
    with processes.processes(plan, run) as group:
        group.start_trainers()
        group.start_servers()
        while group.running():
            time.sleep(0.5)
        return run, Client(group.servers[0].url).call("/model_info")[1]


@pytest.mark.parametrize(("trained", "ahead"), [(0, 0), (1, 1)], indirect=["trained"], ids=["synchronous", "ahead"])
def test_five_steps_of_grpo(trained, ahead, start_model):
    run, info = trained
    metrics = {row["step"]: row for row in run.read_metrics() if "reward" in row}
    assert list(metrics) == list(range(1, STEPS + 1))
    for step, row in metrics.items():
        assert 0.0 < row["reward"] < 1.0  # the start model is right now and then
        assert row["grad_norm"] > 0.0
        assert row["staleness_max"] <= min(ahead, step - 1)
        if not row["staleness_max"]:  # of the current weights: SGLang and the trainer agree on every token
            assert row["logprob_gap"] < 1e-4
        samples, _ = read_lines(run.samples(step))
        assert len(samples) == 64
        assert all(set(sample["versions"]) <= set(range(step)) for sample in samples)
    assert max(row["staleness_max"] for row in metrics.values()) == ahead
    assert info["model_path"] != str(start_model)  # SGLang ended with other weights than it began with
    before, after = (read_lines(run.evaluation(step))[0] for step in (0, STEPS))
    assert [row["row"] for row in before] == [row["row"] for row in after]
    for rows in (before, after):
        assert len(rows) == 64
        assert 0.1 < sum(row["lenient"] for row in rows) / len(rows) < 0.9
