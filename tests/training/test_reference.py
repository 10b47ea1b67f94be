from types import SimpleNamespace

import pytest

pytest.importorskip("areal", reason="areal is not installed")

from areal_gsm8k.training.reference import OccasionalReference


def test_it_answers_in_the_first_step_and_then_every_so_many_also_after_a_resume():
    done = SimpleNamespace(steps=0)
    areal = SimpleNamespace(compute_logp=lambda batch: [f"logprobs of {one}" for one in batch], destroy=lambda: "gone")
    reference = OccasionalReference(areal, 10, lambda: done.steps)
    measured = []
    for done.steps in (0, 1, 9, 10, 19, 20):
        batch = [{"n": 1}, {"n": 2}]
        for group, logprobs in zip(batch, reference.compute_logp([1, 2]), strict=False):  # as AReaL's loop does
            group["ref_logp"] = logprobs
        measured.append("ref_logp" in batch[0])
    assert measured == [True, False, False, True, False, True]
    assert reference.destroy() == "gone"  # everything else is AReaL's
