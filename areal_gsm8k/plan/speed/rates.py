"""The speeds of a rollout server and of a trainer, and their estimate from a few measured numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ANY = 1 << 30  # rows of a server that takes any number of requests


class ScalingError(ValueError):
    """The options or the recorded run cannot be simulated; the message names the option, key or file and what to do."""


@dataclass(frozen=True)
class ServerSpeed:
    """A rollout server. One token for each of c running requests takes `floor + each * c` seconds.

    So c requests together make c / (floor + each * c) tokens a second: in proportion to c while few run (the weights
    are read once a token, however many run), saturating at 1 / each when the requests' own work outweighs it.
    """

    floor: float
    each: float
    rows: int = ANY  # requests decoded at once; more wait

    def seconds_per_token(self, running: int) -> float:
        return self.floor + self.each * running

    def tokens_per_second(self, running: int) -> float:
        return running / self.seconds_per_token(running)


@dataclass(frozen=True)
class TrainerSpeed:
    """All trainer ranks together share a step's tokens evenly: AReaL balances them (areal/infra/dist_rollout.py)."""

    per_token: float  # seconds of one rank for a completion token: logprobs, advantages, update
    update: float = 0.0  # seconds the servers stand still at each weight update
    record: float = 0.0  # seconds a step beside all the above: statistics, sample files
    handling: float = 0.0  # seconds of a rank's Python for each completion it asks for, grades and records

    def seconds(self, tokens: int, ranks: int) -> float:
        return tokens * self.per_token / ranks


def fit_server(points: Mapping[int, float], rows: int = ANY) -> ServerSpeed:
    """The server whose curve passes nearest these points: requests running at once -> completion tokens a second.

    Least squares on seconds a token, c / rate = floor + each * c. One point gives no `floor`: the rate is then the same
    however few requests run, which flatters many servers with few requests each.
    """
    seconds = {running: running / rate for running, rate in points.items()}
    if len(points) == 1:
        return ServerSpeed(0.0, 1 / next(iter(points.values())), rows)
    mean_x, mean_y = (sum(values) / len(points) for values in (seconds, seconds.values()))
    slope = sum((x - mean_x) * (y - mean_y) for x, y in seconds.items()) / sum((x - mean_x) ** 2 for x in seconds)
    floor = mean_y - slope * mean_x
    if slope <= 0 or floor < 0:
        raise ScalingError(
            f"--rollout-rate {written(points)}: tokens a second must grow with the requests running, and less than in "
            "proportion. Measure the server with one request and with as many as a run gives it."
        )
    return ServerSpeed(floor, slope, rows)


def read_points(text: str) -> dict[int, float]:
    """`1900` or `1:95,64:1900`: requests running at once, completion tokens a second. Raises ScalingError."""
    points = {}
    for point in text.split(","):
        running, _, rate = point.rpartition(":")
        try:
            number, found = int(running or 1), float(rate)
        except ValueError:
            number, found = 0, 0.0
        if number < 1 or not 0 < found < float("inf") or number in points:
            raise ScalingError(
                f"--rollout-rate {text}: give completion tokens a second of one server, as in 1900, or better "
                "requests:tokens pairs, as in 1:95,64:1900."
            )
        points[number] = found
    return points


def written(points: Mapping[int, float]) -> str:
    return ",".join(f"{running}:{rate:g}" for running, rate in points.items())
