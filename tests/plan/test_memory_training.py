"""The plan's trainer against training steps whose every allocation was counted (benchmarks/memory.py)."""

from dataclasses import replace

import pytest
import torch

from areal_gsm8k.plan.memory.trainer import Trainer
from benchmarks.memory import measure, shaped
from benchmarks.training_step import Setup

WITHIN = 0.1
PHASES = {  # moments of the plan: when they are in a measured step
    "loading": "loading",
    "forward pass without gradients": "logprobs",
    "logprobs before the update": "logprobs",
    "forward pass": "forward",
    "output layer": "forward",
    "loss": "loss",
    "optimizer step": "optimizer",
}
QWEN = shaped("qwen2", 64, 4, 4, 2, 192, 800, True)
WIDE = shaped("qwen2", 32, 2, 2, 1, 64, 70_000, True)
SETUPS = {
    "logits": Setup(QWEN, 128),
    "three chunks of logits": Setup(shaped("qwen2", 32, 2, 2, 1, 64, 100, True), 2304, sequences=36),
    "activations": Setup(shaped("llama", 64, 4, 4, 4, 256, 100, False), 256),
    "checkpointing": Setup(shaped("llama", 64, 6, 4, 2, 256, 100, False), 384, checkpointing=True),
    "micro-batches": Setup(QWEN, 128, 4, 2, "bfloat16", checkpointing=True),
    "few tokens": Setup(shaped("llama", 128, 4, 4, 2, 384, 1000, False), 32, dtype="bfloat16", checkpointing=True),
    "four ranks": Setup(shaped("llama", 128, 4, 4, 2, 384, 1000, False), 64, 4, 2, checkpointing=True, data=4),
    "norms of queries": Setup(shaped("qwen3", 64, 4, 4, 2, 192, 200, True), 256, dtype="bfloat16"),
    "eager attention": Setup(shaped("qwen2", 32, 3, 4, 2, 96, 100, True), 256, checkpointing=True, attention="eager"),
    "gpt_neo": Setup(shaped("gpt_neo", 64, 4, 4, 4, 256, 300, True), 128, dtype="bfloat16", attention="eager"),
}


PACKED = {  # a prompt stands once, no logits
    "packs": Setup(QWEN, 128, prompt=16),
    "packs, micro-batches": Setup(QWEN, 128, 4, 2, "bfloat16", checkpointing=True, prompt=16),
    "packs, untied": Setup(shaped("llama", 128, 4, 4, 2, 384, 1000, False), 32, 4, 3, prompt=4),
    "packs, activations": Setup(shaped("llama", 64, 4, 4, 4, 256, 100, False), 512, 8, prompt=16),
    "packs, checkpointing": Setup(SETUPS["checkpointing"].config, 768, 8, checkpointing=True, prompt=16),
    "packs, norms of queries": Setup(SETUPS["norms of queries"].config, 512, 8, dtype="bfloat16", prompt=16),
    "packs, four ranks": Setup(SETUPS["four ranks"].config, 64, 4, 2, checkpointing=True, data=4, prompt=16),
    "packs, two parts of logits": Setup(WIDE, 1088, 8, dtype="bfloat16", prompt=32),
    "packs, parts, micro-batches": Setup(WIDE, 1088, 8, 2, prompt=32),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread_and_no_group_left():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.distributed.destroy_process_group()


def sums(trainer: Trainer) -> dict[str, int]:
    return {moment: sum(parts.values()) for moment, parts in trainer.moments().items()}


@pytest.mark.parametrize("setup", (SETUPS | PACKED).values(), ids=(SETUPS | PACKED).keys())
def test_the_peak_and_every_phase_are_as_planned(setup):
    if setup.prompt:
        pytest.importorskip("areal", reason="areal is not installed")
    measured, moments = measure(setup), sums(setup.trainer)
    planned = dict.fromkeys(measured, 0)
    for moment, size in moments.items():
        phase = PHASES.get(moment, "backward")
        planned[phase] = max(planned[phase], size)
    peak = max(alive.peak for alive in measured.values())
    assert max(planned.values()) == pytest.approx(peak, rel=WITHIN)
    for phase in ("logprobs", "forward" if setup.prompt else "loss", "backward", "optimizer"):
        assert planned[phase] == pytest.approx(measured[phase].peak, rel=WITHIN), phase


@pytest.mark.parametrize(("dtype", "checkpointing"), [("float32", False), ("bfloat16", True)])
def test_each_row_is_what_the_step_holds(dtype, checkpointing):
    setup = Setup(shaped("llama", 64, 4, 4, 2, 256, 500, False), 512, dtype=dtype, checkpointing=checkpointing)
    measured, trainer = measure(setup), setup.trainer
    held = trainer.resident
    assert measured["loading"].after == pytest.approx(held["weights"], rel=0.01)
    after_the_step = measured["optimizer"].after
    assert after_the_step == pytest.approx(held["weights"] + held["optimizer"] + trainer.gradients, rel=0.01)
    kept = trainer.activations.kept(checkpointing)
    forward = measured["forward"].after - held["weights"] - held["optimizer"]
    assert forward == pytest.approx(kept + trainer.logits.size, rel=0.05)
    loss = measured["loss"].peak - measured["loading"].after - held["optimizer"]
    assert loss == pytest.approx(sums(trainer)["loss"] - sum(held.values()), rel=0.05)


def test_logits_grow_with_the_vocabulary_as_planned():
    small, large = (Setup(shaped("qwen2", 32, 2, 2, 1, 64, vocab, True), 64) for vocab in (500, 1500))
    planned = sums(large.trainer)["loss"] - sums(small.trainer)["loss"]
    assert measure(large)["loss"].peak - measure(small)["loss"].peak == pytest.approx(planned, rel=0.01)


def test_the_peak_is_below_the_sum_of_everything():
    trainer = SETUPS["micro-batches"].trainer
    parts = [part for moment in trainer.moments().values() for part in moment.items()]
    largest = {name: max(size for other, size in parts if other == name) for name, _ in parts}
    assert sum(trainer.peak()[1].values()) < 0.95 * sum(largest.values())


def test_compiled_logprobs_keep_nothing_for_the_backward_pass(monkeypatch):
    """On a GPU AReaL compiles them; which tensors are kept is decided before any code is made, so this needs no GPU."""
    eager, compiled = (replace(SETUPS["logits"].trainer, compiled=compiled) for compiled in (False, True))
    logits = torch.randn(300, 500, requires_grad=True)
    kept = {}
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    with torch._dynamo.config.patch(disable=False):  # noqa: SLF001 - the step by itself
        from benchmarks.training_step import logprobs_entropy

        compiled_function = torch.compile(logprobs_entropy, backend="aot_eager_decomp_partition")
        for name, function in (("eager", logprobs_entropy), ("compiled", compiled_function)):
            storages: dict[int, int] = {}

            def keep(tensor, storages=storages):
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                alive = function(logits * 1.0, torch.zeros(300, dtype=torch.long))
            del alive
            kept[name] = sum(storages.values()) / logits.nbytes
    assert kept["eager"] > 1.9 and kept["compiled"] < 1.1  # of which the logits themselves are 1
    assert eager.logits.loss > compiled.logits.loss
