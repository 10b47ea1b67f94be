"""The cards to plan for: as written on the command line (`24`, `2x24`), or those of this machine."""

import re
import shutil
import subprocess

from areal_gsm8k.memory.plan import GPU

_CARDS = re.compile(r"(?:(?P<count>[1-9]\d*)x)?(?P<gib>\d+(?:\.\d+)?)(?:\s*gi?b)?", re.IGNORECASE)


def read(text: str, option: str) -> list[GPU]:
    """`24` or `2x24`: cards and GiB of each. Raises ValueError naming the option."""
    found = _CARDS.fullmatch(text.strip())
    if not found or not float(found["gib"]):
        raise ValueError(f"{option} {text}: give the GiB of a card, as in 24, or cards times GiB, as in 2x24.")
    return [GPU(float(found["gib"]))] * int(found["count"] or 1)


def here() -> list[GPU]:
    """This machine's NVIDIA cards with what is in use on them; none where no driver answers."""
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=memory.total,memory.used", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = re.findall(r"^\s*(\d+)\s*,\s*(\d+)\s*$", answer.stdout, re.MULTILINE)
    return [GPU(int(total) / 1024, int(used) / 1024) for total, used in rows] if not answer.returncode else []
