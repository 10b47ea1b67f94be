"""A driver tool that lists made-up GPUs, as `nvidia-smi --query-gpu=... --format=csv,noheader,nounits` does."""

import sys
from pathlib import Path

SMI = """#!{python}
import sys
if {status}:
    sys.exit({status})
asked = next(word.partition("=")[2].split(",") for word in sys.argv if word.startswith("--query-gpu="))
for gpu in {gpus}:
    print(", ".join(str(gpu[name]) for name in asked))
"""
CARD = {
    "name": "NVIDIA H100", "compute_cap": "9.0", "memory.total": 81559, "memory.used": 0, "compute_mode": "Default",
}  # fmt: skip


def write(folder: Path, *cards: dict, status: int = 0) -> Path:
    """Put the tool into a folder: it lists these GPUs, each a CARD with what is said, or ends with `status`."""
    gpus = [CARD | {"index": number, "uuid": f"GPU-{number}"} | card for number, card in enumerate(cards)]
    tool = folder / "nvidia-smi"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(SMI.format(python=sys.executable, gpus=gpus, status=status))
    tool.chmod(0o755)
    return folder
