"""Embedded rollout server: a Hugging Face causal LM behind SGLang's HTTP interface, on CPU or CUDA.

The server knows nothing of training, GSM8K or AReaL. ``python -m areal_gsm8k.serve --model-path M`` starts it, or, as a
child that dies with its parent, ``process.ServerProcess``; ``engine.Engine`` is the same machinery in-process.
"""
