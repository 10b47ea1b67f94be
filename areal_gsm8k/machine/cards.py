"""The cards to plan for: as written on the command line (`24`, `2x24`), or those of this machine."""

import os
import re
import subprocess

from areal_gsm8k.config import devices
from areal_gsm8k.plan.memory.plan import GPU

_CARDS = re.compile(r"(?:(?P<count>[1-9]\d*)x)?(?P<gib>\d+(?:\.\d+)?)(?:\s*gi?b)?", re.IGNORECASE)


def read(text: str, option: str) -> list[GPU]:
    """`24` or `2x24`: cards and GiB of each. Raises ValueError naming the option."""
    found = _CARDS.fullmatch(text.strip())
    if not found or not float(found["gib"]):
        raise ValueError(f"{option} {text}: give the GiB of a card, as in 24, or cards times GiB, as in 2x24.")
    return [GPU(float(found["gib"]))] * int(found["count"] or 1)


def here() -> list[GPU]:
    """The NVIDIA cards this process may use, with what is in use on them; none where no driver answers.

    In the order of CUDA_VISIBLE_DEVICES; a card whose memory nvidia-smi does not tell is left out.
    """
    visible = devices.visible(devices.listed(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    if not visible:
        return []
    query = ["nvidia-smi", "--query-gpu=index,memory.total,memory.used", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, errors="replace", timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = re.findall(r"^\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*$", answer.stdout, re.MULTILINE)
    found = {index: GPU(int(total) / 1024, int(used) / 1024) for index, total, used in rows}
    return [] if answer.returncode else [found[name] for name in visible if name in found]
