"""GRPO on GSM8K with AReaL, from configuration to training.

    ./run train                                             # sets everything up, then starts this file
    ./run train --config configs/cpu.yaml total_train_steps=20

This file is what runs inside each trainer process; areal_gsm8k/loop/launch.py starts it beside a rollout server.
"""

import argparse

from areal.utils.hf_utils import load_hf_tokenizer

from areal_gsm8k.data import load_problems
from areal_gsm8k.loop.trainer import GSM8KTrainer, check_lengths, load_config
from areal_gsm8k.loop.workflow import GSM8KWorkflow


def main(config_file: str) -> None:
    config = load_config(config_file)
    tokenizer = load_hf_tokenizer(config.tokenizer_path)
    train, valid = config.train_dataset, config.valid_dataset
    train_problems = load_problems(train.path, train.split, config.data.train_rows, seed=config.seed)
    dev_problems = load_problems(valid.path, valid.split, config.data.dev_rows, seed=config.seed)
    check_lengths(config, tokenizer, train_problems)

    def workflow(gconfig):
        return GSM8KWorkflow(tokenizer, gconfig, config, config.run.records)

    with GSM8KTrainer(config, train_dataset=train_problems, valid_dataset=dev_problems) as trainer:
        trainer.train(workflow=workflow(config.gconfig), eval_workflow=workflow(config.eval_gconfig))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="One trainer process; ./run train starts it.")
    parser.add_argument("--config", required=True, help="the resolved configuration of a run, runs/*/*/config.yaml")
    main(parser.parse_args().config)
