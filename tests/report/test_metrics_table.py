import re

from areal_gsm8k.grading.rewards import PARTS
from areal_gsm8k.paths import PROJECT
from areal_gsm8k.training.batch_rows import AREAL_STATS, evaluation_metrics, step_metrics


def test_the_table_names_every_metric_and_no_other():
    table = re.findall(r"^\| `([^`]+)` \|", (PROJECT / "docs" / "metrics.md").read_text(), flags=re.MULTILINE)
    areal = dict.fromkeys(AREAL_STATS.values(), 1.0)
    parts = dict.fromkeys(PARTS, 1.0)
    sample = {"group": "a", "reward": 1.0, "lenient": True, "strict": True, "formatted": True, "truncated": False,
              "completion_tokens": 3, "versions": [0], "parts": parts, "kl": 0.1}  # fmt: skip
    produced = ["step", "epoch", *step_metrics([sample], [], areal, version=0, seconds=1.0), *evaluation_metrics([])]
    assert sorted(table) == sorted(produced)
