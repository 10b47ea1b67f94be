"""Stands in for sglang-kernel, which is built for NVIDIA GPUs; sglang imports kvcacheio by name wherever it runs."""
