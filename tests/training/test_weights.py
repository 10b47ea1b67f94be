import shutil

import pytest
import torch

pytest.importorskip("areal", reason="areal is not installed")

from areal_gsm8k.training import weights
from areal_gsm8k.training.ranks import Ranks


@pytest.fixture
def model(untrained_model):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(untrained_model, dtype=torch.float32)


ALONE = Ranks(0, None)


@pytest.fixture
def before(untrained_model, tmp_path):
    return shutil.copytree(untrained_model, tmp_path / "v1")


def test_the_folder_is_the_first_one_with_the_new_weights(model, before, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.nn.init.normal_(model.model.norm.weight)
    assert weights.save_like(str(before), str(tmp_path / "v2"), model, torch.bfloat16, ALONE)
    shutil.rmtree(before)  # as the actor does when every server has the new ones
    served = AutoModelForCausalLM.from_pretrained(tmp_path / "v2")
    AutoTokenizer.from_pretrained(tmp_path / "v2")
    for name, parameter in model.named_parameters():
        assert torch.equal(served.get_parameter(name), parameter.to(torch.bfloat16)), name


def test_nothing_is_done_without_a_folder_of_the_same_parameters(model, before, tmp_path):
    new = str(tmp_path / "v2")
    assert not weights.save_like(None, new, model, torch.float32, ALONE)
    assert not weights.save_like(
        str(before), new, torch.nn.Linear(1, 1), torch.float32, ALONE
    )  # an adapter's names differ
    (before / weights.WEIGHTS).rename(before / "model-00001-of-00002.safetensors")
    assert not weights.save_like(str(before), new, model, torch.float32, ALONE)
    assert not (tmp_path / "v2").exists()


def test_a_rank_that_knows_no_folder_does_as_the_first_rank_says(model, before, tmp_path, monkeypatch):
    """Otherwise the ranks would meet in different collectives: only rank 0 knows what the servers loaded last."""
    said = weights._names(str(before))  # noqa: SLF001 - what rank 0 sends
    second = Ranks(1, None)
    monkeypatch.setattr(second, "from_first", lambda names: said if names == [] else pytest.fail("rank 0 decides"))
    assert weights.save_like(None, str(tmp_path / "v2"), model, torch.float32, second)
    assert not (tmp_path / "v2").exists()  # rank 0 writes
