import time
from types import SimpleNamespace

import pytest
from fake_server import answering, reply

pytest.importorskip("areal", reason="areal is not installed")

from areal_gsm8k.runs.records import RecordReader, RecordWriter
from areal_gsm8k.runs.run import Run
from areal_gsm8k.training import pulse
from areal_gsm8k.training.pulse import Pulse, progress, tokens_per_second


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.create(tmp_path / "r")


def test_a_beat_adds_how_far_the_phase_has_come(run):
    found = {}
    beating = Pulse(run, lambda phase: found)
    beating.enter("rollout", step=3)
    assert "of" not in run.status()
    found |= {"done": 2, "of": 8}
    beating.beat()
    assert {"phase": "rollout", "step": 3, "done": 2, "of": 8}.items() <= run.status().items()
    beating.enter("training", step=3)
    assert run.status()["phase"] == "training" and "of" not in run.status()


def test_nothing_new_is_no_sign_of_life(run):
    beating = Pulse(run, lambda phase: {"done": 2, "of": 8})
    beating.enter("rollout", step=3)
    beating.beat()
    before = run.status()
    time.sleep(0.01)
    beating.beat()
    assert run.status() == before


def test_a_phase_that_ended_meanwhile_is_not_written_again(run):
    def slow(phase):
        beating.enter("training", step=3)
        return {"done": 8, "of": 8}

    beating = Pulse(run, slow)
    beating.enter("rollout", step=3)
    beating.beat()
    assert run.status()["phase"] == "training" and "of" not in run.status()


@pytest.fixture
def trainer(tmp_path):
    config = SimpleNamespace(
        gconfig=SimpleNamespace(n_samples=4), eval_gconfig=SimpleNamespace(n_samples=1),
        train_dataset=SimpleNamespace(batch_size=2), preflight_prompts=16, dynamic_bs=False,
    )  # fmt: skip
    return SimpleNamespace(
        config=config, dev_rows=10, actor=SimpleNamespace(microbatch=(1, 3)), scheduler=None,
        stats_logger=SimpleNamespace(reader=RecordReader(tmp_path)), rollout=SimpleNamespace(addresses=[]),
        train_dataloader=SimpleNamespace(dataset=range(100)),
    )  # fmt: skip


def test_samples_answers_and_microbatches_are_counted(trainer, tmp_path):
    writer = RecordWriter(tmp_path)
    for sample in range(6):
        writer.write({"id": sample, "evaluation": False})
    writer.write({"id": 6, "evaluation": False, "error": "the reward failed"})
    writer.reject([0, 1], "no signal")
    writer.write({"id": 1 << 40, "evaluation": True})
    assert progress(trainer, "rollout") == {"done": 4, "of": 8}
    trainer.config.dynamic_bs = True  # then AReaL fills a batch with groups, whether it keeps them or not
    assert progress(trainer, "rollout") == {"done": 7, "of": 8}
    trainer.config.dynamic_bs = False
    assert progress(trainer, "evaluating") == {"done": 1, "of": 10}
    assert progress(trainer, "preflight") == {"done": 1, "of": 4 * 16}
    assert progress(trainer, "training") == {"done": 1, "of": 3}
    assert progress(trainer, "saving a recovery point") == {}
    trainer.stats_logger.reader.take([2, 3, 4, 5])
    assert progress(trainer, "rollout")["done"] == 0
    for sample in range(10, 22):
        writer.write({"id": sample, "evaluation": False})
    assert progress(trainer, "rollout") == {"done": 8, "of": 8}  # the rest is ahead


def test_a_single_microbatch_is_not_counted(trainer):
    trainer.actor.microbatch = (0, 1)
    assert progress(trainer, "training") == {}


def test_the_servers_rates_are_added(trainer, monkeypatch):
    def info(handler, body):
        raise AssertionError("nothing is posted")

    monkeypatch.setattr(pulse, "ANSWER_SECONDS", 5.0)
    with answering(info) as silent:
        assert tokens_per_second([silent.removeprefix("http://")]) is None  # answers 404, as vLLM does
    assert tokens_per_second(["127.0.0.1:1"]) is None
    assert tokens_per_second([]) is None


def test_the_embedded_servers_rate_is_told(embedded_rate):
    assert tokens_per_second([embedded_rate, "127.0.0.1:1"]) == 62


@pytest.fixture
def embedded_rate():
    """The address of a server that says 61.7 tokens a second."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.path == "/get_server_info"
            reply(self, 200 if known else 404, {"internal_states": [{"last_gen_throughput": 61.7}]})

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
