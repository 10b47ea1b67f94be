"""Real pretrained models, where they are there: ./run test --real tests/real [--models FOLDER]

FOLDER (models/ unless given) holds Hugging Face folders by the names below; else the hub's cache is looked into.
Nothing is downloaded. Questions are GSM8K's, from ../shared/gsm8k next to the repository, else generated ones.
"""

from pathlib import Path

import pytest
import torch

from areal_gsm8k.data.problems import GENERATED, load_problems
from areal_gsm8k.paths import PROJECT

HUB = {
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "qwen2.5-coder-0.5b": "Qwen/Qwen2.5-Coder-0.5B-Instruct",
}
GSM8K = PROJECT.parent / "shared" / "gsm8k"


def found(name: str, models: Path) -> Path:
    """The folder of a model. Skips where there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if (models / name / "config.json").exists():
        return models / name
    try:
        return Path(snapshot_download(HUB[name], local_files_only=True))
    except LocalEntryNotFoundError:
        pytest.skip(f"no {models / name} and no {HUB[name]} in the hub's cache: `hf download {HUB[name]}` gets it")


@pytest.fixture(scope="session")
def models(pytestconfig) -> Path:
    if not pytestconfig.getoption("--real"):
        pytest.skip("needs real pretrained models: ./run test --real tests/real")
    torch.set_num_threads(2)
    return Path(pytestconfig.getoption("--models")).absolute()


@pytest.fixture(scope="session", params=HUB)
def real_model(request, models) -> Path:
    """Each of the models in turn."""
    return found(request.param, models)


@pytest.fixture(scope="session")
def smollm2(models) -> Path:
    return found("smollm2-135m", models)


@pytest.fixture(scope="session")
def questions() -> list[dict]:
    """A hundred dev rows with question and answer."""
    return load_problems(str(GSM8K) if GSM8K.is_dir() else GENERATED, "dev", 100).to_list()
