"""In the place of AReaL's SGLang program: takes its arguments and serves the model with the embedded server.

With SERVER_FAILS it ends at its import, with these words.
"""

import argparse
import os
import runpy
import sys

if words := os.environ.get("SERVER_FAILS"):
    raise RuntimeError(words)
parser = argparse.ArgumentParser()
for name in ("--model-path", "--host", "--port"):
    parser.add_argument(name, required=True)
given, _ = parser.parse_known_args()
sys.argv = ["serve", "--model-path", given.model_path, "--host", given.host, "--port", given.port, "--dtype", "float32"]
runpy.run_module("areal_gsm8k.serve", run_name="__main__", alter_sys=True)
