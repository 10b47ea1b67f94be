"""The policy versions of a run on disk, and their folders: the model that drew a sample, or the nearest one to it.

A run counts its policy by updates: version 0 is the start model, version n the model after step n. On disk are
the start model, the checkpoints (best, last, one every saver.freq_steps), the weights served last and two recovery
points.

policy = kept_models.nearest(run, config, version=57)
with kept_models.model_folder(policy, config) as folder: ...

gsm8k replay runs/tiny-grpo/demo --sample 460
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from areal_gsm8k.data.hub import is_hub_id
from areal_gsm8k.evaluation.model import Model, find
from areal_gsm8k.runs import checkpoints, recovery
from areal_gsm8k.runs.run import Run

SERVED = re.compile(r"weight_update_v(\d+)")  # AReaL's name of a folder of weights on their way to the servers
SAVED_MODEL = "dcp.model."  # prefix of the names of a model's tensors in AReaL's recovery points
TIED = ("lm_head.weight",)  # a recovery point saves it and the embedding, though the two are one tensor
BESIDE_WEIGHTS = ("config.json", "generation_config.json", "tokenizer*", "vocab*", "merges.txt", "*.model", "*.jinja")


class PolicyError(ValueError):
    """No policy of a run can be used; the message lists the places that were searched."""


@dataclass(frozen=True)
class Policy:
    """One version on disk. folder: a path, or for a start model perhaps a hub id."""

    version: int
    folder: str
    is_recovery_point: bool = False  # not in Hugging Face format


def kept(run: Run, config: dict) -> list[Policy]:
    """Every version of the run that is on disk, the readiest first where one is there twice."""
    start = config["actor"]["path"]
    found = [Policy(0, start)] if is_hub_id(start) or _is_model(Path(start)) else []
    for folder in sorted(run.checkpoints.glob("*")):
        version = checkpoints.version(folder)
        if version is not None and _is_model(folder):
            found.append(Policy(version, str(folder)))
    with suppress(OSError):  # a run whose servers were given no weights yet
        name = Path(run.served_weights()).name  # the only one that is known to be whole; the run may have been moved
        for folder in run.areal.glob(f"checkpoints/**/{name}") if (served := SERVED.fullmatch(name)) else []:
            found.append(Policy(int(served[1]), str(folder)))
    points = (folder for folder in sorted(run.recovery.glob("step_*")) if (folder / recovery.STATE).is_file())
    return found + [Policy(recovery.step_of(folder), str(folder), is_recovery_point=True) for folder in points]


def nearest(run: Run, config: dict, version: int) -> Policy:
    """The policy on disk whose version is nearest to `version`. Raises PolicyError when there is none."""
    policies = kept(run, config)
    if not policies:
        raise PolicyError(
            f"{run.root}: no model of this run is there: neither its start model, {config['actor']['path']}, nor one "
            f"in {run.checkpoints} that says which policy version it is, nor a recovery point"
        )
    return min(policies, key=lambda policy: abs(policy.version - version))


@contextmanager
def model_folder(policy: Policy, config: dict) -> Iterator[Path]:
    """The policy as a folder in Hugging Face format; the folder of a recovery point exists within the block only.

    Raises EvaluationError when a hub's model cannot be had, PolicyError on a broken recovery point.
    """
    if not policy.is_recovery_point:
        yield find(policy.folder).folder
        return
    with TemporaryDirectory(prefix="gsm8k-policy-") as temporary:
        folder = Path(temporary)
        for pattern in BESIDE_WEIGHTS:
            for file in find(config["actor"]["path"]).folder.glob(pattern):
                shutil.copy(file, folder)
        tied = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("tie_word_embeddings")
        _write_weights(Path(policy.folder), folder / "model.safetensors", without=TIED if tied else ())
        yield folder


def tokenizer(run: Run, config: dict):
    """The run's tokenizer: the one at tokenizer_path, or, where that folder is gone, the one saved with a checkpoint.

    Raises EvaluationError.
    """
    own = config["tokenizer_path"]
    if not Path(own).is_dir():
        saved = (folder for folder in sorted(run.checkpoints.glob("*")) if _is_model(folder))
        own = next(map(str, saved), own)
    return (Model(own, Path(own)) if Path(own).is_dir() else find(own)).tokenizer


def _write_weights(point: Path, file: Path, without: tuple[str, ...]) -> None:
    """The model's tensors of a recovery point (torch.distributed.checkpoint's format), the optimiser's left out."""
    import torch
    import torch.distributed.checkpoint as dcp
    from safetensors.torch import save_file

    try:
        reader = dcp.FileSystemReader(point)
        found = reader.read_metadata().state_dict_metadata
        tensors = {
            name: torch.empty(kind.size, dtype=kind.properties.dtype)
            for name, kind in found.items()
            if name.startswith(SAVED_MODEL) and name.removeprefix(SAVED_MODEL) not in without
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it loads in a single process
            dcp.load(tensors, storage_reader=reader, no_dist=True)
    except Exception as error:  # torch raises many kinds on a broken checkpoint
        raise PolicyError(f"{point}: not a readable recovery point ({type(error).__name__}: {error})") from None
    save_file({name.removeprefix(SAVED_MODEL): found for name, found in tensors.items()}, file, {"format": "pt"})


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file()
