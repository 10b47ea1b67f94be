"""Supervised fine-tuning: the two baselines of GRPO, and the start model of the tiny recipe."""
