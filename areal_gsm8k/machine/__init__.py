"""What this machine is: its host, its NVIDIA GPUs and its network. Nothing here judges; areal_gsm8k/doctor does."""
