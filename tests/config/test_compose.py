import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from areal_gsm8k.config.compose import make_plan, mask_secrets
from areal_gsm8k.config.schema import ConfigError
from areal_gsm8k.paths import BASE, CPU_OVERLAY, PROJECT


def plan(*overrides, files=(CPU_OVERLAY,), gpus=0):
    return make_plan([Path(file) for file in files], list(overrides), gpus)


def test_base_holds_the_documented_defaults():
    base = make_plan([], [], gpus=1)
    expected = {
        "actor.path": "Qwen/Qwen2.5-0.5B-Instruct",
        "total_train_epochs": 5,
        "gconfig.n_samples": 4,
        "gconfig.max_new_tokens": 512,
        "train_dataset.batch_size": 8,
        "actor.optimizer.lr": 1.7e-5,
        "actor.reward_scaling": 10.0,
        "actor.mb_spec.max_tokens_per_mb": 5120,
        "actor.reward_norm.mean_level": "group",
        "actor.reward_norm.std_level": "group",
        "actor.reward_norm.group_size": 4,
        "actor.adv_norm.mean_level": "batch",
        "train_dataset.num_workers": 0,
        "rollout.backend": "sglang:d1p1t1",
        "actor.backend": "fsdp:d1p1t1",
        "stats_logger.wandb.mode": "disabled",
    }
    assert {key: base.get(key) for key in expected} == expected
    assert OmegaConf.load(BASE).actor.lr == 1.7e-5


def test_later_wins_and_interpolations_follow(tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("gconfig: {n_samples: 6}\nactor: {lr: 0.5}\nseed: 7\n")
    made = plan("actor.lr=0.25", "+seed=8", files=[CPU_OVERLAY, overlay])
    assert made.get("actor.optimizer.lr") == 0.25
    assert made.get("seed") == 8
    assert made.get("actor.reward_norm.group_size") == 6  # ${gconfig.n_samples} of the base
    assert made.get("actor.adv_norm") is None  # from configs/cpu.yaml


def test_an_overlay_is_short():
    for overlay in (PROJECT / "configs").rglob("*.yaml"):
        lines = [line for line in overlay.read_text().splitlines() if line.strip() and not line.startswith("#")]
        assert len(lines) <= 22, overlay


def test_areal_gets_names_folder_and_nothing_of_ours_it_lacks(tmp_path):
    made = plan(f"runs_dir={tmp_path}", "trial_name=t0")
    assert made.run_dir == tmp_path / "tiny-grpo" / "t0"
    for section in ("rollout", "actor", "saver", "stats_logger", "evaluator", "recover"):
        assert made.get(f"{section}.experiment_name") == "tiny-grpo"
    assert made.get("cluster.fileroot") == str(tmp_path / "tiny-grpo" / "t0" / "areal")
    assert "lr" not in made.values["actor"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("actor.lrr=1", "'actor.lr'"),
        ("answer_fromat=hash", "'answer_format'"),
        ("answer_format=xml", "boxed, tags, hash"),
        ("allocation_mode=sglang.d1+d1", "embedded.d1+fsdp.d1"),
        ("allocation_mode=d1", "These work"),
        ("gconfig.n_samples=1", "at least 2"),
        ("actor.mb_spec.max_tokens_per_mb=40", "max_new_tokens"),
        ("drop_groups_without_signal=true", "dynamic_bs=true"),
        ("cluster.fileroot=/x", "runs_dir"),
        ("runs_dir=", "runs_dir"),
        ("actor.lr=null", "actor.optimizer.lr must not be null"),
        ("actor.mb_spec.max_tokens_per_mb=null", "max_tokens_per_mb=None"),
        ("experiment_name=${nope}", "nope"),
        ("rollout.backend=5", "rollout.backend='5'"),
        ("data.dev_rows=0", "data.dev_rows=0: at least 1"),
        ("data.train_rows=-5", "data.train_rows=-5: at least 1"),
        ("preflight_prompts=0", "preflight_prompts=0: at least 1"),
        ("train_dataset.batch_size=0", "train_dataset.batch_size=0: at least 1"),
        ("loss_reduction=mean", "choose one of token_mean, sequence_mean, constant_length"),
        ("actor.ppo_n_minibatches=65", "as few as 64"),
        ("actor.overlong_tokens=49", "gconfig.max_new_tokens=48"),
        ("actor.use_sapo_loss=true", "actor.use_decoupled_loss=false"),
        ("rollout.use_lora=true", "merged"),
        ("scheduler.type=loacl", "choose one of local, ray, slurm"),
        ("scheduler.type=slurm", "embedded rollout servers"),
        ("actor.weight_update_mode=xccl", "set it to disk"),
        ("rollout.consumer_batch_size=4", "wait for ever"),
        ("embedded.restarts=-1", "embedded.restarts=-1"),
        ("collapse.reward=50", "collapse.reward=50: a share between 0 and 1"),
        ("collapse.truncated=-0.1", "collapse.truncated=-0.1: a share"),
        ("trial_name=a/b", "trial_name='a/b'"),
        ("seed", "key=value"),
        ("actor.lr=[1", "cannot be read"),
        ("gconfig.max_new_tokens=${nowhere}", "nowhere"),
        ("gconfig.max_new_tokens=-3", "gconfig.max_new_tokens=-3: at least 1"),
        ("eval_gconfig.max_new_tokens=0", "eval_gconfig.max_new_tokens=0: at least 1"),
        ("actor.dtype=int8", "actor.dtype=int8: choose one of float32, bfloat16, float16"),
        ("actor.optimizer_dtype=float16", "actor.optimizer_dtype=float16: choose one of float32, bfloat16"),
        ("actor.optimizer.type=lion", "actor.optimizer.type=lion: choose one of adam, adam_bf16, sgd"),
    ],
)
def test_a_mistake_is_named_with_its_fix(override, said):
    with pytest.raises(ConfigError) as error:
        plan(override)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("server", "override", "said"),
    [
        (
            "sglang",
            "gconfig.max_new_tokens=1100",
            "sglang.context_length=1024 must exceed",
        ),
        ("sglang", "eval_gconfig.max_new_tokens=1024", "plus eval_gconfig.max_new_tokens=1024"),
        ("sglang", "sglang.mem_fraction_static=1.5", "sglang.mem_fraction_static=1.5: a share"),
        ("sglang", "actor.dtype=bf16", "sglang.dtype=bf16: choose one of auto"),
        ("vllm", "gconfig.max_new_tokens=1100", "vllm.max_model_len=1024 must exceed"),
        (
            "vllm",
            "vllm.gpu_memory_utilization=0",
            "vllm.gpu_memory_utilization=0: a share",
        ),
    ],
)
def test_the_chosen_servers_own_settings_are_checked(server, override, said):
    files = [PROJECT / "configs/scales/12gb.yaml"]
    with pytest.raises(ConfigError) as error:
        plan(f"allocation_mode={server}.d1+d1", override, files=files, gpus=1)
    assert said in str(error.value)
    without_any = ["allocation_mode=embedded.d1+fsdp.d1", "actor.mb_spec.max_tokens_per_mb=2048"]
    plan(override, *without_any, files=files)


@pytest.mark.parametrize(
    ("gpus", "overrides", "said"),
    [
        (8, ["allocation_mode=sglang:d4+fsdp:d4"], None),
        (4, ["allocation_mode=sglang:d4+fsdp:d4"], "needs 8 GPUs, this machine has 4"),
        (1, ["allocation_mode=sglang:d1+fsdp:d1"], None),
        (1, ["actor.weight_update_mode=xccl"], "NCCL refuses"),
        (4, ["allocation_mode=sglang:d4+fsdp:d4", "cluster.n_nodes=2", "cluster.n_gpus_per_node=4"], None),
        (
            8,
            ["allocation_mode=vllm:d8+fsdp:d1", "cluster.n_nodes=2", "cluster.n_gpus_per_node=4"],
            "n_gpus_per_node=4 make 8",
        ),
        (1, ["allocation_mode=embedded:d2+fsdp:d2"], None),  # the embedded back end is for machines without
    ],
)
def test_gpus_are_counted_against_the_allocation(gpus, overrides, said):
    if said is None:
        plan(*overrides, files=[], gpus=gpus)
        return
    with pytest.raises(ConfigError) as error:
        plan(*overrides, files=[], gpus=gpus)
    assert said in str(error.value)


def test_two_names_of_one_setting_with_two_values_are_refused():
    with pytest.raises(ConfigError, match="same setting"):
        plan("actor.lr=1.0", "actor.optimizer.lr=2.0")


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "no such file"), ("a: [", "not readable YAML"), ("- 1\n", "top level"), ("defaults: [base]\n", "--config"),
     ("gconfig: {n_sampels: 2}\n", "gconfig.n_samples"), ("\x00", "not readable YAML")],
)  # fmt: skip
def test_a_bad_file_is_named(tmp_path, text, said):
    file = tmp_path / "overlay.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError) as error:
        plan(files=[CPU_OVERLAY, file])
    assert said in str(error.value) and str(file) in str(error.value)


def test_secrets_go_to_the_environment_only():
    made = plan("stats_logger.wandb.wandb_api_key=planted-key")
    assert made.environment == {"WANDB_API_KEY": "planted-key"}
    assert "planted-key" not in made.to_yaml()


def test_a_number_is_a_fine_name(tmp_path):
    assert plan(f"runs_dir={tmp_path}", "trial_name=1").run_dir == tmp_path / "tiny-grpo" / "1"


def test_several_ranks_need_batches_that_can_be_shared_out():
    two = ("allocation_mode=embedded.d2+fsdp.d2",)
    plan(*two)
    for override, said in [
        ("dynamic_bs=true", "dynamic_bs=true with 2 data-parallel trainers"),
        ("train_dataset.batch_size=7", "train_dataset.batch_size=7 must be a multiple"),
        ("valid_dataset.batch_size=7", "valid_dataset.batch_size=7 must be a multiple"),
    ]:
        with pytest.raises(ConfigError) as error:
            plan(*two, override)
        assert said in str(error.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [("actor.weight_update_mode=xccl", "set it to disk"), ("allocation_mode=sglang.d1+fsdp.d1t2", "tensor-parallel")],
)
def test_lora_is_refused_where_its_weights_could_not_be_merged(override, said):
    with pytest.raises(ConfigError) as error:
        make_plan([], ["actor.use_lora=true", override], gpus=4)
    assert said in str(error.value)


def test_an_allocation_keeps_what_a_later_one_leaves_out():
    def allocation_of(*modes):
        return str(plan(*[f"allocation_mode={mode}" for mode in modes[1:]], files=[modes[0]], gpus=8).allocation)

    backends, scales = PROJECT / "configs" / "backends", PROJECT / "configs" / "scales"
    both = [backends / "vllm.yaml", scales / "4gpus.yaml"]
    for order in (both, both[::-1]):
        assert str(plan(files=order, gpus=4).allocation) == "vllm:d2p1t1+fsdp:d2p1t1"
    assert allocation_of(backends / "vllm.yaml") == "vllm:d1p1t1+fsdp:d1p1t1"
    assert allocation_of(backends / "vllm.yaml", "sglang:d2t2+fsdp:d4") == "sglang:d2p1t2+fsdp:d4p1t1"
    assert allocation_of(scales / "4gpus.yaml", "embedded") == "embedded:d2p1t1+fsdp:d2p1t1"


@pytest.mark.parametrize("scheduler", ["ray", "slurm"])
def test_a_cluster_scheduler_may_be_asked_from_a_machine_without_a_gpu(scheduler):
    made = make_plan([], [f"scheduler.type={scheduler}", "allocation_mode=sglang.d8t1+fsdp.d8",
                          "cluster.n_nodes=2", "cluster.n_gpus_per_node=8"], gpus=0)  # fmt: skip
    assert (made.get("cluster.n_nodes"), made.get("cluster.n_gpus_per_node")) == (2, 8)
    assert made.get("actor.scheduling_spec")[0]["gpu"] == made.get("rollout.scheduling_spec")[0]["gpu"] == 1


def test_secrets_on_the_command_line_are_masked():
    typed = ["train", "stats_logger.wandb.wandb_api_key=planted", "+stats_logger.swanlab.api_key=planted", "seed=1"]
    masked = mask_secrets(typed)
    assert "planted" not in " ".join(masked) and masked[0] == "train" and masked[3] == "seed=1"


def test_composing_imports_neither_areal_nor_torch():
    code = (
        "import sys; from areal_gsm8k.config.compose import make_plan; from areal_gsm8k.paths import CPU_OVERLAY;"
        "make_plan([CPU_OVERLAY], [], 0);"
        "print(sorted({'areal', 'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=True)
    assert done.stdout.strip() == "[]"


def test_areal_accepts_the_resolved_file(tmp_path):
    pytest.importorskip("areal", reason="areal is not installed")
    from areal_gsm8k.config.compose import write
    from areal_gsm8k.training.run_config import load_config

    made = plan(f"runs_dir={tmp_path}", "trial_name=t0")
    write(made, tmp_path / "config.yaml")
    config = load_config(tmp_path / "config.yaml")
    assert config.actor.optimizer.lr == 3.0e-4
    assert config.gconfig.n_samples == 8 and config.eval_gconfig.greedy and config.eval_gconfig.n_samples == 1
    assert config.reward.accuracy == 1.0 and config.data.dev_rows == 400


def test_the_start_model_is_the_reference_policy_where_its_kl_is_measured_or_rewarded():
    assert plan("kl_reference=false").get("ref") is None
    measured, rewarded = plan("kl_reference=true"), plan("actor.kl_ctl=0.1", "kl_reference=true")
    assert 0 < measured.get("actor.kl_ctl") < 1e-6 and rewarded.get("actor.kl_ctl") == 0.1
    for one in (measured, rewarded, plan("actor.kl_ctl=0.1", "kl_reference=false")):
        assert one.get("ref.path") == one.get("actor.path") and one.get("ref.optimizer") is None
        assert one.get("ref.backend") == one.get("actor.backend")
    assert plan("actor.kl_ctl=0.1", "actor.use_lora=true").get("ref.use_lora") is False
