"""Containers, editors and clusters: the files agree with each other, with the locked packages and with the program.

Nothing is built or sent off here; docs/verification.md says what was. Every command that the pages and files name is
parsed by the program's own command line, and every run they start is planned, for the GPUs it asks for.
"""

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from areal_gsm8k.cli import app
from areal_gsm8k.config.compose import make_plan

ROOT = Path(__file__).parent.parent
DOCKERFILES = [ROOT / "docker" / "Dockerfile", ROOT / "docker" / "Dockerfile.cpu"]
SBATCH = sorted((ROOT / "cluster").glob("*.sbatch"))
SKYPILOT = sorted((ROOT / "cluster").glob("skypilot_*.yaml"))
DEVCONTAINERS = sorted((ROOT / ".devcontainer").rglob("devcontainer.json"))
PAGES = [
    ROOT / "docs" / f"{name}.md"
    for name in ("DOCKER_WINDOWS_SETUP", "CURSOR_DOCKER_WORKFLOW", "quickstart", "tutorial", "clusters")
]
FILES = [*PAGES, *DOCKERFILES, ROOT / "docker" / "compose.yaml", ROOT / "docker" / "train.ps1"]
FILES += sorted(path for path in (ROOT / "cluster").iterdir() if path.is_file())
# How a run is started in these files, and what ./run gets then: `{}` is the rest of the line.
STARTS = {
    r"(?:^|`)\s*(?:[A-Z_]+=\S+ )*\./run (?P<rest>.+)": "{}",
    r"docker compose .*\brun --rm (?:cpu|gpu) (?P<rest>.+)": "{}",
    r"\bsbatch .*cluster/slurm_one_node\.sbatch (?P<rest>.+)": "train {}",
    r"\bsbatch .*cluster/slurm_ray\.sbatch (?P<rest>.+)": "train scheduler.type=ray cluster.n_nodes=2 {}",
    r"\bsbatch .*cluster/slurm_controller\.sbatch (?P<rest>.+)": (
        "train --config cluster/slurm_workers.yaml scheduler.type=slurm {}"
    ),
    r"cluster/ray_job\.sh (?P<rest>.+)": "train scheduler.type=ray {}",
    r"train\.ps1(?: -Cpu)?(?: (?P<rest>.+))?$": "train {}",
}
recipes_are_there = pytest.mark.skipif(not (ROOT / "configs" / "models").exists(), reason="no recipes in this tree")


def compose() -> dict:
    return yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]


def last(file: Path, instruction: str) -> str:
    """The last line of a Dockerfile with this instruction, without its name."""
    return re.findall(rf"^{instruction} (.+)$", file.read_text(), re.M)[-1]


def environment_of(file: Path) -> dict[str, str]:
    lines = re.findall(r"^ENV (.+)$", file.read_text(), re.M)
    return dict(pair.split("=", 1) for line in lines for pair in shlex.split(line))


def locked(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split(";")[0].strip().split("==") for line in lines if "==" in line and line[0] != "#")


def commands(file: Path) -> list[str]:
    """What `./run` is given in a file: comment signs and shell comments taken off, continued lines joined."""
    text = re.sub(r"\s*\\\n[#\s]*", " ", file.read_text())
    found = []
    for commented in re.sub(r"(?m)^\s*#\s?", "", text).splitlines():
        line = re.split(r"\s+# ", commented)[0]
        for pattern, command in STARTS.items():
            for start in re.finditer(pattern, line.rstrip()):
                rest = re.split(r"[`|;&>]|\s<", start["rest"] or "")[0]
                if "$" not in rest and "..." not in rest:
                    found.append(command.format(rest).strip())
    return found


def parse(arguments: list[str], command=None) -> dict:
    """The parameters of `gsm8k`, or of another click program, with these arguments; raises what it raises."""
    command = command or typer.main.get_command(app)
    while arguments and arguments[0] in getattr(command, "commands", {}):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    if "--help" in arguments:
        return {}
    assert not (arguments and hasattr(command, "commands")), f"no such verb: {arguments[0]}"
    return command.make_context(command.name, list(arguments)).params


# The files against each other


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_services(name):
    service = compose()[name]
    context = ROOT / "docker" / service["build"]["context"]
    assert context.resolve() == ROOT
    dockerfile = context / service["build"]["dockerfile"]
    assert dockerfile.exists()
    assert service["init"] is True
    assert not service["user"].startswith(("0", "root"))
    assert set(service["build"]["args"]) >= {"UID", "GID"}, "the image's user and the container's are the same"
    assert service["shm_size"] != "64m"
    workspace, home = last(dockerfile, "WORKDIR"), environment_of(dockerfile)["HOME"]
    assert service["volumes"] == [f"${{AREAL_RUNS:-runs}}:{workspace}/runs", f"cache:{home}/.cache"]
    # a new volume belongs to whoever owns the folder in the image
    assert re.search(rf"install -d -o areal -g areal .*{workspace}/runs {home}/.cache", dockerfile.read_text())
    assert "HF_TOKEN" in service["environment"], "by name only: no secret in a file"
    volumes = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["volumes"]
    assert set(volumes) == {"runs", "cache"}


def test_only_the_gpu_service_reserves_gpus():
    services = compose()
    (device,) = services["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert "deploy" not in services["cpu"]


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_images_run_the_script_as_a_user(file):
    assert last(file, "USER") == "$UID:$GID"
    assert "ARG UID=1000" in file.read_text()
    assert json.loads(last(file, "ENTRYPOINT")) == ["./run"]
    assert json.loads(last(file, "CMD")) == ["train"]
    variables = environment_of(file)
    assert variables["HOME"] == "/home/areal" and variables["USER"] == "areal"
    for source in re.findall(r"^COPY (?:--\S+ )*(.+) \S+$", file.read_text(), re.M):
        assert all((ROOT / path).exists() for path in source.split())


def test_the_images_versions_are_the_locked_ones():
    gpu = locked("requirements/gpu.txt")
    base = last(DOCKERFILES[0], "FROM")
    assert base == f"ghcr.io/areal-project/areal-runtime:v{gpu['areal']}-${{BACKEND}}"
    additions = locked("docker/additions.txt")
    assert additions.items() <= gpu.items()
    assert {"areal", "hatchling", "statsmodels"} <= additions.keys()
    # the image's areal is a checkout installed in place, and uv leaves that where it has the right version
    for file in [DOCKERFILES[0], *SKYPILOT, ROOT / "cluster" / "modal_train.py"]:
        (installed,) = re.findall(r"uv pip install .*-r docker/additions\.txt", file.read_text())
        assert "--no-deps --reinstall-package areal" in installed, file.name
    assert last(DOCKERFILES[1], "FROM").startswith("python:3.11-")
    assert ">=3.11" in (ROOT / "pyproject.toml").read_text()
    for file, backend in [(SKYPILOT[0], "sglang"), (SKYPILOT[1], "vllm")]:
        image = yaml.safe_load(file.read_text())["resources"]["image_id"]
        assert image == "docker:" + base.replace("${BACKEND}", backend)
    assert f'IMAGE = "{base.replace("${BACKEND}", "sglang")}"' in (ROOT / "cluster" / "modal_train.py").read_text()


def test_nothing_that_git_leaves_out_goes_into_an_image():
    def names(file: str) -> set[str]:
        lines = (ROOT / file).read_text().split("\n")
        return {line.removeprefix("**/").strip("/") for line in lines if line and line[0] != "#"}

    assert names(".gitignore") <= names(".dockerignore")
    assert ".git" in names(".dockerignore")


@pytest.mark.parametrize("file", DEVCONTAINERS, ids=lambda file: file.parent.name)
def test_dev_containers_use_the_services(file):
    settings = json.loads(re.sub(r"(?m)^\s*//.*$", "", file.read_text()))
    base, overlay = [(file.parent / path).resolve() for path in settings["dockerComposeFile"]]
    assert base == ROOT / "docker" / "compose.yaml"
    service = compose()[settings["service"]]
    dockerfile = ROOT / service["build"]["dockerfile"]
    assert settings["workspaceFolder"] == last(dockerfile, "WORKDIR")
    interpreter = settings["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert interpreter == environment_of(dockerfile)["AREAL_GSM8K_VENV"] + "/bin/python"
    # relative paths of an overlay count from the first file's folder
    waiting = yaml.safe_load(overlay.read_text())["services"][settings["service"]]
    source, target = waiting["volumes"][0].split(":")
    assert (base.parent / source).resolve() == ROOT and target == settings["workspaceFolder"]
    assert waiting["entrypoint"] == ["sleep", "infinity"]


def test_the_powershell_script_is_ascii():
    # Windows PowerShell 5.1 reads a file without a byte order mark in the machine's own code page
    assert (ROOT / "docker" / "train.ps1").read_bytes().isascii()


# What the pages and files tell people to type


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_pages_are_whole(file):
    text = file.read_text()
    assert re.findall(r"@[A-Z]+@", text) == []
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert links and [link for link in links if not (file.parent / link).exists()] == []


def test_enough_commands_are_found():
    assert all(commands(file) for file in [*PAGES, *SBATCH, ROOT / "docker" / "train.ps1"])
    assert sum(len(commands(file)) for file in FILES) > 40


@recipes_are_there
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_named_overlays_exist(file):
    named = re.findall(r"\b(?:configs|cluster)/[\w./-]+\.(?:yaml|sbatch|sh|py)\b", file.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


@recipes_are_there
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_commands_are_the_programs(file):
    for command in commands(file):
        verb, *arguments = shlex.split(command)
        if verb == "ray":
            from ray.scripts.scripts import cli

            parse(arguments, cli)
            continue
        if verb in ("test", "python", "hf"):  # programs of the environment
            missing = [word for word in arguments if re.fullmatch(r"[\w/]+\.py", word) and not (ROOT / word).exists()]
            assert missing == [], command
            continue
        if verb != "gsm8k":
            arguments = [verb, *arguments]
        try:
            parsed = parse(arguments)
            if arguments[0] == "train" and not parsed["resume"]:
                files = [path for path in parsed["config"] or [] if f"--out {path}" not in file.read_text()]
                make_plan(files, parsed["overrides"] or [], gpus=8)
        except Exception as mistake:
            raise AssertionError(f"./run {command}: {mistake}") from mistake
