"""`gsm8k replay RUN --sample K` against samples that the engine drew in a crowd, as a rollout server does."""

import json
import shutil

import pytest
import torch
from typer.testing import CliRunner
from written_run import sample, write_run

from areal_gsm8k.cli import app
from areal_gsm8k.data import prompts
from areal_gsm8k.replay import kept_models, replay
from areal_gsm8k.replay.replay import ReplayError
from areal_gsm8k.runs import checkpoints, recovery, samples
from areal_gsm8k.runs.files import to_lines, write_atomically
from areal_gsm8k.runs.records import sampling_seed
from areal_gsm8k.serve.engine import Engine
from areal_gsm8k.serve.params import SamplingParams

QUESTIONS = ("2 + 3?", "Ana has 4 boxes of 6 eggs and loses 5. How many eggs does Ana have?")


@pytest.fixture(scope="module")
def another_model(untrained_model, tmp_path_factory):
    """The untrained model after an update: other weights, the same tokenizer."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("models") / "another"
    shutil.copytree(untrained_model, folder)
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    changed = {name: value + 0.05 * torch.randn(value.shape, generator=generator) for name, value in weights.items()}
    save_file(changed, folder / "model.safetensors", {"format": "pt"})
    return folder


def drawn(model, version, first_id, seed=1, **gconfig):
    """Eight samples of two questions by the run's sampling, all in one batch, as their step's rows."""
    engine = Engine.from_pretrained(str(model), device="cpu")
    tokenizer = kept_models.Model(str(model), model).tokenizer
    ids = range(first_id, first_id + 8)
    asked = [prompts.prompt_ids(tokenizer, QUESTIONS[id_ % 2], "hash") for id_ in ids]
    sampling = {"max_new_tokens": 12, "stop_token_ids": tuple(prompts.stop_ids(tokenizer))} | gconfig
    params = [SamplingParams(seed=sampling_seed(seed, id_), **sampling) for id_ in ids]
    rows = []
    for id_, prompt, answer in zip(ids, asked, engine.generate(asked, params), strict=True):
        text = tokenizer.decode(answer.token_ids, skip_special_tokens=True)
        row = sample(id_, text, question=QUESTIONS[id_ % 2], versions=[version], prompt_tokens=len(prompt))
        row |= {"completion_tokens": len(answer.token_ids), "truncated": answer.finish_reason == "length"}
        if prompts.sampled_ids(tokenizer, text, not row["truncated"]) != answer.token_ids:
            row["completion_ids"] = answer.token_ids
        rows.append(row)
    return rows


@pytest.fixture(scope="module")
def steps(untrained_model, another_model):
    return {1: drawn(untrained_model, 0, 0), 4: drawn(another_model, 3, 16)}


@pytest.fixture
def run(tmp_path, untrained_model, another_model, steps):
    """Version 0 is the start model, version 3 is kept as `last`."""
    run = write_run(tmp_path, steps, f"actor.path={untrained_model}", "gconfig.max_new_tokens=12")
    shutil.copytree(another_model, run.checkpoints / "last")
    checkpoints.note_version(run.checkpoints / "last", 3)
    return run


def again(run, sample_id, engine="auto"):
    return replay.replay(run, samples.configuration(run), samples.find(run, sample_id)[1], engine)


def shown(run, *options):
    return CliRunner().invoke(app, ["replay", str(run.root), *map(str, options)])


def test_the_version_that_drew_a_sample_gives_it_again_token_for_token(run):
    for engine in ("embedded", "hf"):
        for sample_id, version in ((0, 0), (3, 0), (16, 3), (21, 3)):
            replayed = again(run, sample_id, engine)
            assert (replayed.same, replayed.policy.version, replayed.engine) == (True, version, engine)
            assert replayed.recorded == replayed.regenerated and replayed.reasons == []
    output = shown(run, "--sample", 16, "--step", 4).output
    assert f"The same, token for token ({len(replayed.regenerated)} tokens)." in output
    assert f"again by policy version 3: {run.checkpoints / 'last'}\n" in output


def test_the_runs_sampling_settings_are_used(tmp_path, untrained_model):
    """Each of these changes the draw; with the defaults the replay would differ."""
    sampling = {"temperature": 0.5, "top_p": 0.6, "top_k": 7, "frequency_penalty": 0.4}
    rows = drawn(untrained_model, 0, 0, seed=9, **sampling)
    given = [f"gconfig.{key}={value}" for key, value in sampling.items()]
    given += [f"actor.path={untrained_model}", "gconfig.max_new_tokens=12"]
    run = write_run(tmp_path, {1: rows}, *given, "seed=9")
    assert all(again(run, row["id"]).same for row in rows[:3])
    other = write_run(tmp_path / "other", {1: rows}, *given, "seed=8")
    assert not any(again(other, row["id"]).same for row in rows[:3])


def test_where_another_model_departs_is_shown_with_what_it_holds_likely(run, untrained_model):
    (run.checkpoints / "last" / "policy_version.json").unlink()  # so that version 3 is the start model's to replay
    row = samples.read(run, 4)[0]
    replayed = again(run, row["id"])
    departure, recorded = replayed.departure, replayed.recorded
    assert not replayed.same and replayed.policy.version == 0
    assert replayed.reasons == [
        "policy version 3 was not kept, and 0 is the nearest that was (saver.freq_steps=1 keeps every one)"
    ]
    index = departure.index
    assert recorded[:index] == replayed.regenerated[:index] and recorded[index] != replayed.regenerated[index]
    assert (departure.recorded.id, departure.regenerated.id) == (recorded[index], replayed.regenerated[index])
    model = kept_models.Model("", untrained_model)
    import transformers

    prompt = prompts.prompt_ids(model.tokenizer, row["question"], "hash")
    with torch.inference_mode():
        reference = transformers.AutoModelForCausalLM.from_pretrained(untrained_model, dtype=torch.float32)
        probs_V = reference(torch.tensor([prompt + recorded[:index]])).logits[0, -1].softmax(-1)
    best = probs_V.topk(5)
    assert [token.id for token in departure.alternatives] == best.indices.tolist()
    for token in [*departure.alternatives, departure.recorded, departure.regenerated]:
        assert token.probability == pytest.approx(probs_V[token.id].item(), abs=1e-6)
    output = shown(run, "--sample", row["id"]).output
    assert "A departure is to be expected: policy version 3 was not kept" in output
    assert f"The first {index} tokens are the same." in output and "more than rounding" not in output
    assert (
        f"{departure.recorded.text!r:<16} recorded\n" in output
        and f"{departure.regenerated.text!r:<16} again\n" in output
    )


def test_a_departure_of_the_right_version_is_told_apart_from_rounding(run):
    rows = samples.read(run, 1)
    first, other = again(run, 0).recorded, again(run, 2).recorded
    forged = rows[0] | {"completion_ids": other, "completion_tokens": len(other), "completion": rows[2]["completion"]}
    assert first != other
    write_atomically(run.samples(1), to_lines([forged]))
    departure = again(run, 0).departure
    assert departure.missed_by > 1e-4
    assert "more than rounding" in shown(run, "--sample", 0).output.replace("\n", " ")
    probs_V = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    missed = [replay._distance(probs_V, token, 0.75 - 1e-8) for token in (0, 1, 2)]  # noqa: SLF001 - the arithmetic by itself
    assert missed == [pytest.approx(0.5), 0.0, pytest.approx(1e-8)]


def test_why_a_departure_is_to_be_expected(run):
    config, row, policy = samples.configuration(run), sample(0), kept_models.Policy(2, "folder")

    def reasons(versions, allocation="embedded:d1p1t1+fsdp:d1p1t1"):
        return replay.departure_reasons(config | {"allocation_mode": allocation}, row | {"versions": versions}, policy)

    assert reasons([2]) == []
    assert reasons([2, 3]) == ["a weight update interrupted it: it begins by policy version 2 and ends by 3"]
    assert reasons([2], "sglang:d1p1t1+fsdp:d1p1t1") == ["it was sampled by sglang, which draws from a seed otherwise"]
    assert len(reasons([1, 2], "vllm.d1+fsdp.d1")) == 3


def test_every_place_that_keeps_a_version_is_looked_at(run, untrained_model):
    for name, version in (("best", 5), ("step_00007", 7), (".step_00008.partial", 8), ("strange", None)):
        folder = run.checkpoints / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        if version:
            checkpoints.note_version(folder, version)
    (run.checkpoints / ".step_00008.partial" / "config.json").unlink()  # not whole yet
    served = run.areal / "checkpoints" / "root" / "weight_update_v9"
    served.mkdir(parents=True)
    (served.parent / "weight_update_v10").mkdir()  # being written
    run.set_served_weights(f"elsewhere/before/the/run/was/moved/{served.name}")
    for step, whole in ((11, True), (12, False)):
        (run.recovery / f"step_{step:05d}").mkdir(parents=True)
        if whole:
            (run.recovery / f"step_{step:05d}" / recovery.STATE).write_text("{}")
    kept = {policy.version: policy.folder for policy in kept_models.kept(run, samples.configuration(run))}
    assert sorted(kept) == [0, 3, 5, 7, 9, 11]
    assert kept[0] == str(untrained_model) and kept[9] == str(served)
    assert kept_models.nearest(run, samples.configuration(run), 6).version in (5, 7)
    assert kept_models.nearest(run, samples.configuration(run), 100).is_recovery_point


def test_a_recovery_points_model_is_used(run, another_model):
    """Saved the way AReaL's engine saves it (areal/engine/fsdp_engine.py, `_save_to_dcp`)."""
    import torch.distributed.checkpoint as dcp
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(another_model)
    point = run.recovery / "step_00003"
    state = {"model": model.state_dict(), "optim": {"state": {"step": torch.ones(1)}}}
    dcp.save({"dcp": state}, checkpoint_id=point, no_dist=True)
    (point / recovery.STATE).write_text("{}")
    shutil.rmtree(run.checkpoints / "last")
    for sample_id in (16, 21):
        replayed = again(run, sample_id)
        assert replayed.same and replayed.policy.is_recovery_point and replayed.reasons == []
    (point / ".metadata").write_bytes(b"broken")
    result = shown(run, "--sample", 16)
    assert result.exit_code == 1 and f"{point}: not a readable recovery point" in result.output


def test_a_run_that_was_moved_away_from_its_start_model_uses_its_checkpoints(run, untrained_model):
    config = samples.configuration(run)
    config["actor"]["path"] = config["tokenizer_path"] = "/gone/with/the/old/machine"
    write_atomically(run.config, json.dumps(config))  # YAML as well
    assert again(run, 16).same
    assert shown(run, "--sample", 0).exit_code == 0  # by the only model there is, and saying so
    shutil.rmtree(run.checkpoints / "last")
    result = shown(run, "--sample", 16)
    assert result.exit_code == 1
    assert "no model of this run is there: neither its start model, /gone/with/the/old/machine" in result.output


def test_what_cannot_be_replayed_says_why(run):
    failed = {"id": 99, "step": 1, "error": "TimeoutError: late", "rejected": "late"}
    write_atomically(run.rejected, to_lines([failed]))
    with pytest.raises(ReplayError, match="sample 99 has no completion to compare with: TimeoutError: late"):
        again(run, 99)
    (run.checkpoints / "last" / "model.safetensors").write_bytes(b"broken")
    result = shown(run, "--sample", 16)
    assert result.exit_code == 1
    assert f"{run.checkpoints / 'last'}: cannot be loaded as a causal language model" in result.output
    for options, message in (
        ((), "give --sample, to generate one again, or --reward"),
        (("--sample", 1, "--out", "x"), "--steps and --out go with --reward"),
        (("--sample", 1, "--step", 7), "no samples of step 7; there are steps 1, 4"),
    ):
        result = shown(run, *options)
        assert result.exit_code == 1 and result.output.startswith("error: ") and message in result.output


def test_an_old_record_without_its_tokens_is_compared_by_its_text(run):
    rows = samples.read(run, 1)
    rows[0].pop("completion_ids", None)
    write_atomically(run.samples(1), to_lines([rows[0] | {"completion_tokens": 99}]))
    assert again(run, 0).recorded is None and "The same text." in shown(run, "--sample", 0).output
    write_atomically(run.samples(1), to_lines([rows[0] | {"completion_tokens": 99, "completion": "other"}]))
    assert "its record does not hold the tokens" in shown(run, "--sample", 0).output
