"""Embedded rollout server: a Hugging Face causal LM behind SGLang's HTTP interface, on CPU or CUDA.

Knows nothing of training, GSM8K or AReaL. Started by ``python -m areal_gsm8k.serve --model-path M`` or, as a child that
dies with its parent, by ``process.ServerProcess``; ``engine.Engine`` is the same machinery in-process.
"""
