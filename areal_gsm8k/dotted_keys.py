"""Dotted keys, as people write them (`actor.optimizer.lr`), and nested sections, as YAML files hold them.

lookup(config, "actor.optimizer.lr")     # 0.0003
leaves({"actor": {"lr": 1.0}})           # {"actor.lr": 1.0}
"""

from collections.abc import Mapping
from typing import Any


def lookup(values: Any, key: str) -> Any:
    """The value at a dotted key of nested sections; None where it is missing."""
    for name in key.split("."):
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def leaves(values: Any, key: str = "") -> dict[str, Any]:
    """{dotted key: value} of everything in `values` that is no section, each key behind `key`."""
    if not isinstance(values, Mapping):
        return {key: values}
    prefix = f"{key}." if key else ""
    return {found: leaf for name, inner in values.items() for found, leaf in leaves(inner, f"{prefix}{name}").items()}
