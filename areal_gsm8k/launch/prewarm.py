"""Start a trainer before its model exists: import AReaL (10 s and more) now, run the script on a go.

    python -m areal_gsm8k.launch.prewarm train_grpo.py --config runs/x/y/config.yaml

The launcher writes one JSON line, {"environment": {...}}, to standard input once the rollout servers answer; when
standard input ends instead, the launcher is gone or gave up, and this process ends.
"""

import gc
import json
import os
import runpy
import sys
from pathlib import Path

from areal_gsm8k.children import die_with_parent
from areal_gsm8k.training import areal_contract


def main() -> None:
    die_with_parent(take_children=os.environ["AREAL_SPMD_MODE"] == "0")  # the single controller's workers
    script, *arguments = sys.argv[1:]
    # The slow part, done while the launcher prepares model and servers.
    areal_contract.refuse_another_areal()
    import areal_gsm8k.training.trainer
    import areal_gsm8k.training.workflow  # noqa: F401

    # Half a million objects that never die: each collection would take half a second longer, the exit three seconds.
    gc.freeze()
    go = sys.stdin.buffer.raw.readline()
    if not go:
        sys.exit("the launcher ended before training could start")
    os.environ |= json.loads(go)["environment"]
    sys.path.insert(0, str(Path(script).resolve().parent))
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
