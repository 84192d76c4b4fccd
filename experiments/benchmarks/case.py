"""A job that two programs do, and how they are compared: in turns, in one process, at equal quality.

`experiments.benchmarks.command.run` makes a command of a few cases.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

ROUNDS = 5
EQUAL = 0.01  # share by which the qualities of two programs may differ that count as equal


@dataclass(frozen=True)
class Work:
    """What a run must do at the very least: floating-point operations, and bytes moved to and from memory."""

    flops: float
    bytes: float


def stopwatch(program: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a program takes, and what it returns."""
    started = time.perf_counter()
    result = program()
    return time.perf_counter() - started, result


@dataclass(frozen=True)
class Case:
    """One job. Both programs begin with the same data, which exist before the case does, and the same start."""

    name: str
    peer: str
    """The other program; empty where there is none."""
    ours: Callable[[], Any]
    """Does the job to its end (no result is still being computed when it returns)."""
    theirs: Callable[[], Any] | None
    """The same by the peer; None where it is not installed."""
    quality: Callable[[Any], float] = float
    """What a program returned -> its loss, such as the inertia. Not part of the time."""
    lower_is_equal: bool = False
    """Whether a loss of ours that is far below the peer's is fair too: where the job is a better answer."""
    work: Work | None = None
    """Of one run, for the roofline."""
    memory_limit: int | None = None
    """Bytes that ours may take, data apart."""
    clock: Callable[[Callable[[], Any]], tuple[float, Any]] = stopwatch
    """Runs a program -> (seconds, what it returned)."""


@dataclass(frozen=True)
class Row:
    """What was measured of a case. Times in seconds: medians of `rounds` runs; compiling is the first run less that."""

    case: str
    peer: str
    rounds: int
    seconds: float
    compile_seconds: float
    loss: float
    peer_seconds: float | None = None
    peer_loss: float | None = None
    comparable: bool = True
    peak_bytes: int | None = None
    """The most memory that ours took, compilation included, data apart."""
    roofline: float | None = None
    """Least time that this machine's arithmetic or memory allows for the job without skipping any of it, over ours."""

    @property
    def ratio(self) -> float | None:
        """The peer's time over ours; above 1 ours is faster."""
        return None if self.peer_seconds is None else self.peer_seconds / self.seconds


def compare(case: Case, rounds: int = ROUNDS) -> Row:
    """Runs both programs once, then in turns, `rounds` times each."""
    programs = [case.ours] if case.theirs is None else [case.ours, case.theirs]
    firsts = [case.clock(program) for program in programs]
    losses = [case.quality(result) for _, result in firsts]
    times: list[list[float]] = [[] for _ in programs]
    for _ in range(rounds):
        for program, taken in zip(programs, times, strict=True):
            taken.append(case.clock(program)[0])
    medians = [statistics.median(taken) for taken in times]
    row = Row(case.name, case.peer, rounds, medians[0], max(0.0, firsts[0][0] - medians[0]), losses[0])
    if case.theirs is None:
        return row
    comparable = equal(losses[0], losses[1], case.lower_is_equal)
    return replace(row, peer_seconds=medians[1], peer_loss=losses[1], comparable=comparable)


def equal(ours: float, theirs: float, lower_is_equal: bool = False) -> bool:
    """Whether two losses are within 1 % of the peer's; NaN equals nothing."""
    least = -float("inf") if lower_is_equal else -EQUAL * abs(theirs)
    return least <= ours - theirs <= EQUAL * abs(theirs)
