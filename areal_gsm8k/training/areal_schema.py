"""The key schema of the installed AReaL, which config/schema.py reads without importing it.

python -m areal_gsm8k.training.areal_schema      # writes areal_gsm8k/config/areal_schema.json anew
"""

import json

from areal.api.cli_args import GRPOConfig

from areal_gsm8k.config.schema import SCHEMA_FILE, describe
from areal_gsm8k.runs.files import write_atomically


def generate() -> dict[str, str]:
    """{dotted key: type} of AReaL's GRPOConfig (areal/api/cli_args.py)."""
    return describe(GRPOConfig)


if __name__ == "__main__":
    write_atomically(SCHEMA_FILE, json.dumps(generate(), indent=0, sort_keys=True) + "\n")
    print(f"wrote {SCHEMA_FILE}")
