"""GRPO on GSM8K with AReaL, from configuration to training.

    ./run train                                             # sets everything up, then starts this file
    python train_grpo.py --config configs/cpu.yaml total_train_steps=20
    python -m areal.launcher.local train_grpo.py --config train_grpo.yaml actor.path=Qwen/Qwen2.5-1.5B-Instruct

All three compose the configuration and start the processes of a run (areal_gsm8k/launch/train.py); each trainer process
among them runs `main`. A training step, GRPO as in the paper, reads as follows, with the functions and the shapes of
areal_gsm8k/grading/algorithms.py; behind each line stands the place that does it in a run:

    behave_BT, rewards_PG = rollout(prompts_P)                     # areal_gsm8k.training.workflow.GSM8KWorkflow
    prox_BT = logprobs(policy)                                     # areal.engine.FSDPPPOActor.compute_logp
    advantages_B1 = normalise_by_group(rewards_PG).reshape(-1, 1)  # areal.utils.data.Normalization
    weight_BT = staleness_weight(token_ratio(prox_BT, behave_BT))  # areal.utils.functional.ppo_actor_loss_fn
    for minibatch in batch:                                        # areal.engine.FSDPPPOActor.ppo_update
        theta_BT = logprobs(policy)                                # areal.engine.FSDPEngine.train_batch
        ratio_BT = token_ratio(theta_BT, prox_BT)                  # areal.utils.functional.ppo_actor_loss_fn
        surrogate_BT = clip(ratio_BT, advantages_B1, 0.2)          # areal.utils.functional.ppo_actor_loss_fn
        loss = -sequence_mean(weight_BT * surrogate_BT, mask_BT)   # areal_gsm8k.training.actor.PackedActor.train_batch
        loss.backward(), optimizer.step()                          # areal.engine.FSDPEngine.optimizer_step
    rollout.load(policy)                                           # areal.engine.FSDPEngine.update_weights
"""

import os
import sys

from areal_gsm8k import cli


def main(config_file: str) -> None:
    from areal.utils.hf_utils import load_hf_tokenizer  # AReaL's import takes 10 s: not before it is needed

    from areal_gsm8k.data.problems import load_problems
    from areal_gsm8k.training.run_config import check_lengths, load_config
    from areal_gsm8k.training.trainer import GSM8KTrainer

    config = load_config(config_file)
    tokenizer = load_hf_tokenizer(config.tokenizer_path)
    train, valid = config.train_dataset, config.valid_dataset
    train_problems = load_problems(train.path, train.split, config.data.train_rows, seed=config.seed)
    dev_problems = load_problems(valid.path, valid.split, config.data.dev_rows, seed=config.seed)
    check_lengths(config, tokenizer, train_problems, dev_problems)

    def arguments(gconfig):  # of GSM8KWorkflow, all plain values: AReaL may make it in another process
        return {
            "tokenizer": config.tokenizer_path, "gconfig": gconfig, "group_size": config.gconfig.n_samples,
            "settings": config.settings, "records": str(config.run.records), "seed": config.seed,
        }  # fmt: skip

    with GSM8KTrainer(config, train_dataset=train_problems, valid_dataset=dev_problems) as trainer:
        trainer.train(
            workflow="areal_gsm8k.training.workflow.GSM8KWorkflow",
            workflow_kwargs=arguments(config.gconfig),
            eval_workflow="areal_gsm8k.training.workflow.GSM8KWorkflow",
            eval_workflow_kwargs=arguments(config.eval_gconfig),
            dynamic_filter_fn="areal_gsm8k.training.workflow.accept_group",
        )


if __name__ == "__main__":
    if "AREAL_SPMD_MODE" in os.environ:  # a trainer process: --config names the run's resolved file
        from torch.distributed.elastic.multiprocessing.errors import record  # torchrun then shows our traceback

        record(main)(sys.argv[sys.argv.index("--config") + 1])
    else:
        cli.start_script(sys.argv)
