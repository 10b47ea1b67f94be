import pytest

from areal_gsm8k.evaluation import client
from areal_gsm8k.evaluation.model import find


@pytest.fixture
def model(untrained_model):
    return find(str(untrained_model))


@pytest.fixture
def impatient(monkeypatch):
    """Clients that hardly wait between two tries."""
    monkeypatch.setattr(client, "PAUSE_SECONDS", 0.01)
