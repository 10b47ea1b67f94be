"""Five GRPO steps through AReaL against real SGLang on a CPU: ./run test --sglang

Trainer and configuration are those of `./run train --config configs/cpu.yaml`; only the server is another one.
"""

import json
import time

import pytest
from sglang_client import Client
from sglang_server import SGLangServer

from areal_gsm8k.runs import Run, read_lines

STEPS = 5


@pytest.fixture
def trained(request, tmp_path, start_model) -> tuple[Run, dict]:
    """A finished run, and what SGLang says of itself after it."""
    if not request.config.getoption("--sglang"):
        pytest.skip("--sglang was not given")
    from areal_gsm8k.loop import config
    from areal_gsm8k.loop.processes import processes

    settings = [f"runs_dir={tmp_path}", "trial_name=t", f"actor.path={start_model}", "data.dev_rows=64"]
    plan = config.make_plan([config.CPU_OVERLAY], [*settings, f"total_train_steps={STEPS}"], gpu=False)
    run = Run.create(plan.run_dir)
    config.write(plan, run.config)
    with processes(plan, run) as group:
        group.start_trainers()
        server = SGLangServer(start_model, run.logs / "server_0.log", max_running_requests=64)
        group.servers.append(server)  # watched and ended with the trainer, as an embedded one is
        server.wait_healthy()
        for trainer in group.trainers:
            address = {"AREAL_LLM_SERVER_ADDRS": f"{server.host}:{server.port}"}
            trainer.send_line(json.dumps({"environment": address}))
        while group.running():
            time.sleep(0.5)
        return run, Client(server.url).call("/model_info")[1]


def test_five_steps_of_grpo(trained, start_model):
    run, info = trained
    metrics = {row["step"]: row for row in run.read_metrics() if "reward" in row}
    assert list(metrics) == list(range(1, STEPS + 1))
    for step, row in metrics.items():
        assert 0.0 < row["reward"] < 1.0  # the start model is right now and then
        assert row["logprob_gap"] < 1e-3  # tokens of the current weights: SGLang and the trainer agree on them
        assert row["grad_norm"] > 0.0
        samples, _ = read_lines(run.samples(step))
        assert len(samples) == 64
        assert all(set(sample["versions"]) <= set(range(step)) for sample in samples)
    assert metrics[STEPS]["staleness"] < STEPS - 1  # SGLang was given new weights on the way ...
    assert info["model_path"] != str(start_model)  # ... and serves the last ones
    before, after = (read_lines(run.evaluation(step))[0] for step in (0, STEPS))
    assert [row["row"] for row in before] == [row["row"] for row in after]
    for rows in (before, after):
        assert len(rows) == 64
        assert 0.1 < sum(row["lenient"] for row in rows) / len(rows) < 0.9
