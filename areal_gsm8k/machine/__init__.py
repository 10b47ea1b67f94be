"""What this machine is: its host, its NVIDIA GPUs and its network. This room only reads; areal_gsm8k/doctor judges."""
