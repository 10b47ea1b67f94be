"""The overlays under configs/: each says what it is, and all combine."""

import itertools
import random
import re
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from typer.testing import CliRunner

from areal_gsm8k.cli import app
from areal_gsm8k.config import recipes
from areal_gsm8k.config.compose import ALIASES, make_plan, write
from areal_gsm8k.config.schema import ConfigError, known_keys
from areal_gsm8k.paths import CPU_OVERLAY, PROJECT

GPUS = 16
ALL = recipes.all_recipes()
OF_KIND = {kind: [recipe.name for recipe in ALL if recipe.kind == kind] for kind in recipes.KINDS}


def plan(*names):
    return make_plan([recipes.find(name) for name in names], ["trial_name=t0"], GPUS)


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_a_recipe_says_what_it_is_and_is_short(recipe):
    text = recipe.path.read_text()
    assert len([line for line in text.splitlines() if line.strip() and not line.startswith("#")]) <= 20
    assert all(len(line) <= 120 for line in text.splitlines())
    assert recipe.title.endswith(".") or recipe.title.endswith(":")
    assert any(line.startswith("Source: ") for line in recipe.head)
    assert any(line.startswith("Needs: ") for line in recipe.head)
    for file in re.findall(r"configs/\S+\.yaml", "\n".join(recipe.head)):
        assert (PROJECT / file).exists(), file


def test_every_model_has_a_published_result_marked_theirs():
    for recipe in ALL:
        if recipe.kind == "models":
            assert any(line.startswith("Theirs: ") for line in recipe.head), recipe.name
        if recipe.name.startswith("qwen3"):
            assert "saturated" in "".join(recipe.head)


def test_recipes_are_found_by_name_and_names_are_unique():
    for recipe in ALL:
        assert recipes.find(recipe.name) == recipes.find(f"{recipe.kind}/{recipe.path.stem}") == recipe.path
    assert len({recipe.name for recipe in ALL}) == len(ALL)
    assert recipes.find("configs/models/llama-3.2-1b.yaml") == recipes.find("Llama-3.2-1B")
    assert recipes.find("cpu") == CPU_OVERLAY


@pytest.mark.parametrize(
    "typed",
    ["llama-3.2-1b", "Llama-3.2-1B.yaml", "models/llama-3.2-1b", "configs/models/llama-3.2-1b.yaml",
     "./configs/models/llama-3.2-1b.yaml"],
)  # fmt: skip
def test_an_overlay_is_found_from_any_directory(tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    assert make_plan([Path(typed)], [], GPUS).get("actor.path") == "meta-llama/Llama-3.2-1B-Instruct"


def test_the_base_and_the_cpu_overlay_are_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = make_plan([CPU_OVERLAY], ["trial_name=t0"], GPUS).values
    for typed in ("cpu", "cpu.yaml", "configs/cpu.yaml"):
        assert make_plan([Path("train_grpo.yaml"), Path(typed)], ["trial_name=t0"], GPUS).values == there


def test_a_file_of_the_working_directory_goes_before_the_projects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "cpu.yaml").write_text("seed: 77\n")
    (tmp_path / "dapo").mkdir()  # a folder is no overlay
    made = make_plan([Path("configs/cpu.yaml"), Path("dapo")], [], GPUS)
    assert made.get("seed") == 77 and made.get("actor.path") == "Qwen/Qwen2.5-0.5B-Instruct"
    assert made.get("dynamic_bs") is True


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("llama-3.2-1", "llama-3.2-1b"), ("Qwen/Qwen2.5-3B-Instruct", "qwen2.5-3b"), ("drgrpo", "dr_grpo")],
)
def test_a_wrong_name_names_the_right_one(typed, meant):
    with pytest.raises(recipes.RecipeError, match=f"Did you mean {meant}"):
        recipes.find(typed)
    with pytest.raises(ConfigError, match=f"no such file. Did you mean configs/[a-z]+/{meant}.yaml"):
        make_plan([Path(f"configs/algorithms/{typed}.yaml")], [], GPUS)
    with pytest.raises(recipes.RecipeError, match=r"no recipe 'xyzzy'. `gsm8k recipes` lists them"):
        recipes.find("xyzzy")


def test_what_several_overlays_set_to_different_values_is_said():
    lora_first = [recipes.find(name) for name in ("lora", "llama-3.2-1b", "2gpus", "embedded")]
    assert recipes.set_twice(lora_first) == {("lora", "llama-3.2-1b"): ["actor.lr"]}
    clips = recipes.set_twice([recipes.find("gspo"), CPU_OVERLAY])
    assert clips == {("gspo", "cpu"): ["actor.eps_clip"]}  # adv_norm is null in both


def reason_against(names) -> str | None:
    """What is said against a combination that cannot run."""
    names = set(names)
    if names & {"4gpus", "8gpus", "2nodes"} and names & {"dapo", "drop_groups_without_signal"}:
        return "dynamic_bs=true"  # AReaL cannot share out batches of different sizes
    if "2nodes" in names and "embedded" in names:
        return "scheduler.type=slurm"  # embedded servers are on the launcher's machine
    return None


def combinations():
    """One recipe of every kind and an addition to the algorithm: each recipe several times, the company drawn."""
    draw = random.Random(0)
    for index in range(4 * len(OF_KIND["models"])):
        model, algorithm = (OF_KIND[kind][index % len(OF_KIND[kind])] for kind in ("models", "algorithms"))
        others = [draw.choice(OF_KIND[kind]) for kind in ("rewards", "backends", "scales")]
        yield model, algorithm, draw.choice(["kl", "lora"]), *others


def test_recipes_of_different_kinds_share_few_keys():
    """What one kind sets, no other does; of these the later file wins, and the back end and sizes are put together."""
    own = {recipe: recipes.settings(recipe.path).keys() for recipe in ALL}
    shared = {key for a in ALL for b in ALL if a.kind < b.kind for key in own[a] & own[b]}
    assert shared == {"allocation_mode", "actor.lr", "actor.mb_spec.max_tokens_per_mb", "actor.weight_update_mode"}


def test_combinations_resolve_or_say_why_not():
    refused = 0
    for names in combinations():
        if reason := reason_against(names):
            refused += 1
            with pytest.raises(ConfigError, match=reason):
                plan(*names)
            continue
        made = plan(*names)
        own = OmegaConf.load(recipes.find(names[0]))
        assert made.get("actor.path") == own.actor.path, names
        backend = "embedded" if names[5] == "scales/cpu" else names[4]
        assert made.allocation.rollout.backend == backend, names
        assert made.get("actor.kl_ctl") > 0 or made.get("actor.use_lora"), names
    assert 0 < refused < 20


def test_areal_builds_its_typed_configuration_from_every_recipe(tmp_path):
    pytest.importorskip("areal", reason="areal is not installed")
    from areal_gsm8k.training.run_config import load_config

    longest = max(map(len, OF_KIND.values()))
    for index in range(longest):
        names = [of_kind[index % len(of_kind)] for of_kind in OF_KIND.values()]
        if reason_against(names):
            names[-1] = "24gb"
        write(plan(*names), tmp_path / "config.yaml")
        config = load_config(tmp_path / "config.yaml")
        assert config.actor.path == OmegaConf.load(recipes.find(names[0])).actor.path
        assert config.reward.accuracy + config.reward.ternary > 0


def test_dapo_penalises_the_same_share_of_any_length():
    for overlay, limit, tokens in ((CPU_OVERLAY, 48, 9), (recipes.find("80gb"), 1024, 204)):
        made = make_plan([overlay, recipes.find("dapo")], [], GPUS)
        assert (made.get("gconfig.max_new_tokens"), made.get("actor.overlong_tokens")) == (limit, tokens)


def test_the_verb_lists_recipes_and_shows_what_they_change():
    listed = CliRunner().invoke(app, ["recipes"])
    assert listed.exit_code == 0 and all(recipe.title in listed.output for recipe in ALL)
    shown = CliRunner().invoke(app, ["recipes", "show", "llama-3.2-1b", "dr_grpo", "24gb"])
    assert shown.exit_code == 0
    assert "actor.reward_norm.std_level: group -> null" in shown.output
    assert "loss_reduction: token_mean -> constant_length" in shown.output
    assert shown.output.splitlines()[-1] == (
        "./run train --config configs/models/llama-3.2-1b.yaml --config configs/algorithms/dr_grpo.yaml "
        "--config configs/scales/24gb.yaml"
    )
    assert CliRunner().invoke(app, ["recipes", "show", "no-such"]).exit_code == 2
    shown = CliRunner().invoke(app, ["recipes", "show", "gspo", "cpu"])
    assert "Set by gspo, then cpu, and the last wins: actor.eps_clip\n" in shown.output


@pytest.mark.parametrize("page", ["coming-from.md", "algorithms/README.md"])
def test_the_commands_of_these_pages_resolve(page):
    commands = re.findall(r"^    \./run train ((?:.*\\\n)*.*)$", (PROJECT / "docs" / page).read_text(), re.M)
    assert len(commands) == 2
    for command in commands:
        words = shlex.split(command.replace("\\\n", " "), comments=True)
        files = [PROJECT / file for option, file in itertools.pairwise(words) if option == "--config"]
        make_plan(files, [*(word for word in words if "=" in word), "trial_name=t0"], GPUS)


def test_every_key_of_ours_in_coming_from_exists():
    rows = [line.split(" | ") for line in (PROJECT / "docs" / "coming-from.md").read_text().splitlines()]
    ours = [row[2] for row in rows if len(row) == 4 and not row[0].startswith("| what")]
    keys = {key.split("=")[0] for cell in ours for key in re.findall(r"`([^`]+)`", cell)}
    assert len(ours) > 100 and len(keys) > 50
    assert keys - set(known_keys()) - set(ALIASES) == set()
