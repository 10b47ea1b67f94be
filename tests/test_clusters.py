"""cluster/: what Slurm, Ray, SkyPilot and Modal start is what was typed, and fits the machines it asks for.

Nothing is sent off here; docs/verification.md says what was. The commands of these files and of docs/clusters.md are
parsed in tests/test_containers.py.
"""

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from areal_gsm8k.config.compose import make_plan

ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "cluster"
SBATCH = sorted(CLUSTER.glob("*.sbatch"))
SKYPILOT = sorted(CLUSTER.glob("skypilot_*.yaml"))
RENTED = [*SKYPILOT, CLUSTER / "modal_train.py", ROOT / "docs" / "clusters.md"]


@pytest.mark.parametrize("file", [ROOT / "run", CLUSTER / "ray_job.sh", *SBATCH], ids=lambda file: file.name)
def test_scripts_are_bash(file):
    done = subprocess.run(["bash", "-n", str(file)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("file", SBATCH, ids=lambda file: file.stem)
def test_sbatch_sees_every_option(file):
    lines = file.read_text().splitlines()
    commands = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    options = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert options and max(options) < min(commands), "sbatch stops reading at the first command"


@pytest.mark.parametrize(
    ("known", "own", "found"),
    [
        ("10.0.0.5", "10.0.0.6", "10.0.0.5"),
        ("127.0.1.1", "10.0.0.6 fd00::6", "10.0.0.6"),
        ("", "10.0.0.6", "10.0.0.6"),
        ("", "", None),
    ],
)
def test_the_ray_job_gives_all_nodes_the_address_of_the_first(known, own, found, tmp_path):
    programs = {
        "scontrol": "printf 'node1\\nnode2\\n'",
        "getent": f"[ -n '{known}' ] && echo '{known} STREAM node1'",
        "hostname": f"[ -n '{own}' ] && echo '{own}'",
        "srun": 'echo "$RAY_AUTH_MODE ${#RAY_AUTH_TOKEN} $*"',
        "run": "",
    }
    for name, does in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    script = ["bash", str(CLUSTER / "slurm_ray.sbatch"), "--config", "a.yaml"]
    done = subprocess.run(script, cwd=tmp_path, env=variables, capture_output=True, text=True)
    if found:
        assert done.stdout.startswith("token 64 --ntasks-per-node=1 ./run ray symmetric-run")
        assert (
            f"--address {found}:6379 --min-nodes 2 -- ./run train scheduler.type=ray cluster.n_nodes=2" in done.stdout
        )
        assert done.stdout.endswith("--config a.yaml\n")
    else:
        assert done.returncode == 2 and "cannot be looked up" in done.stderr


def test_a_ray_job_gets_every_argument_as_it_was(tmp_path):
    folder = tmp_path / "a folder"
    (folder / "cluster").mkdir(parents=True)
    shutil.copy(CLUSTER / "ray_job.sh", folder / "cluster")
    # Ray runs what stands after `--` on the head node; train prints what it is given
    (folder / "run").write_text('#!/bin/bash\n[ "$1" != ray ] || exec "${@:5}"\nprintf \'[%s]\' "$@"\n')
    (folder / "run").chmod(0o755)
    for typed in ([], ["--config", "a.yaml", "--config", "b.yaml", "rollout={max_head_offpolicyness: 1}", "x='$HOME'"]):
        done = subprocess.run(["bash", folder / "cluster" / "ray_job.sh", *typed], capture_output=True, text=True)
        assert done.stdout == "".join(f"[{word}]" for word in ["train", "scheduler.type=ray", *typed])


@pytest.mark.parametrize("file", SKYPILOT, ids=lambda file: file.stem)
def test_skypilot_starts_what_it_set_up(file, tmp_path):
    task = yaml.safe_load(file.read_text())
    assert "-r docker/additions.txt" in task["setup"]
    (tmp_path / "run").write_text("#!/bin/sh\nprintf '[%s]' \"$@\"\n")
    (tmp_path / "run").chmod(0o755)
    environment = {**task["envs"], **task["secrets"], "CONFIGS": "a.yaml b.yaml", "OVERRIDES": "seed=2 actor.lr=1e-6"}
    script = ["bash", "-uc", task["run"]]
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[train][--config][a.yaml][--config][b.yaml][seed=2][actor.lr=1e-6]"


def test_slurm_workers_run_as_the_spec_says(tmp_path):
    from areal.api.cli_args import NameResolveConfig, SchedulingSpec
    from areal.infra.utils.launcher import JobState
    from areal.infra.utils.slurm import STATUS_MAPPING

    from areal_gsm8k.training.controller import slurm_scheduler

    overlay = yaml.safe_load((CLUSTER / "slurm_workers.yaml").read_text())
    (spec,) = (SchedulingSpec(**entry) for entry in overlay["actor"]["scheduling_spec"])
    cluster = SimpleNamespace(
        n_gpus_per_node=8,
        fileroot=str(tmp_path),
        cluster_name="test",
        name_resolve=NameResolveConfig(type="nfs", nfs_record_root=str(tmp_path)),
    )
    actor = SimpleNamespace(scheduling_spec=[spec])
    scheduler = slurm_scheduler(
        SimpleNamespace(experiment_name="e", trial_name="t", enable_offload=False, cluster=cluster, actor=actor)
    )
    script = scheduler._generate_sbatch_script("actor", 16, 2, 16, spec.cpu, spec.mem * 1024, [spec], None, None)  # noqa: SLF001 - AReaL's script without a Slurm
    assert "srun --unbuffered -K --chdir $PWD --nodes=2 --ntasks=16" in script
    assert "singularity" not in script and "--mpi" not in script
    assert "python -m areal.infra.rpc.rpc_server" in script
    with pytest.raises(ValueError, match="entire nodes"):
        scheduler._generate_sbatch_script("actor", 4, 1, 4, spec.cpu, spec.mem * 1024, [spec], None, None)  # noqa: SLF001 - AReaL's script without a Slurm
    assert scheduler.startup_timeout > 24 * 3600  # the wait in the queue counts
    assert (STATUS_MAPPING["CONFIGURING"], STATUS_MAPPING["TIMEOUT"]) == (JobState.PENDING, JobState.FAILED)


@pytest.mark.parametrize("file", RENTED, ids=lambda file: file.name)
def test_rented_machines_hold_what_is_asked_of_them(file):
    starts = re.findall(r"^[# ]*((?:\w+=\S+ )*(?:sky launch|modal run) .+)$", file.read_text(), re.M)
    assert starts
    for line in starts:
        default = (
            yaml.safe_load(SKYPILOT["vllm" in line].read_text())["envs"]["CONFIGS"] if "sky launch" in line else ""
        )
        words = dict(re.findall(r'(configs|overrides|gpus?)[= ]("[^"]*"|[^-\s]\S*)', line.lower()))
        words = {name: value.strip('"').split() for name, value in words.items()}
        (card,) = words.get("gpus") or words.get("gpu") or ["h100:2"]
        files = [ROOT / path for path in words.get("configs", default.split())]
        if "--resume" not in line:
            make_plan(files, words.get("overrides", []), gpus=int(card.partition(":")[2] or 1))
