"""Runs every check. A check that breaks is itself a finding: a warning with the reason."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from areal_gsm8k.doctor import disk, gpu, host, network, packages
from areal_gsm8k.doctor.finding import FAIL, WARN, Finding, fail, ok, warn
from areal_gsm8k.doctor.requested import Requested
from areal_gsm8k.machine.facts import Machine

Check = Callable[[Machine, Requested], Finding | None]


@dataclass(frozen=True)
class Line:
    group: str
    name: str
    finding: Finding

    def to_json(self) -> dict[str, str]:
        return {"group": self.group, "name": self.name, **asdict(self.finding)}


def configuration(machine: Machine, requested: Requested) -> Finding:
    if requested.mistake:
        return fail(requested.mistake, "Correct it; ./run train --dry-run with the same arguments checks it again.")
    model = Path(requested.model).name if requested.model.startswith(("/", ".")) else requested.model
    return ok(f"{requested.get('allocation_mode')}, {model} on {requested.get('train_dataset.path')}")


GROUPS: dict[str, dict[str, Check]] = {
    "host": host.CHECKS,
    "GPU": gpu.CHECKS,
    "packages": packages.CHECKS,
    "disk": disk.CHECKS,
    "network": network.CHECKS,
    "run": {"configuration": configuration},
}


def examine(machine: Machine, requested: Requested) -> list[Line]:
    """Every line that applies to this machine and configuration, in the order of GROUPS."""
    lines = []
    for group, checks in GROUPS.items():
        for name, check in checks.items():
            try:
                finding = check(machine, requested)
            except Exception as broken:
                reason = " ".join(str(broken).split())[:200]
                finding = warn(f"could not be checked: {type(broken).__name__}: {reason}", "Look at it by hand.")
            if finding:
                lines.append(Line(group, name, finding))
    return lines


def failed(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line.finding.level == FAIL]


def warned(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line.finding.level == WARN]
