"""How two programs are compared, with times that are given instead of taken."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from experiments.benchmarks.case import Case, compare, equal, stopwatch


def case(
    ours: Sequence[float], theirs: Sequence[float] | None, losses: tuple[float, float] = (1, 1), **settings: Any
) -> Case:
    """Programs that take these seconds, one after the other, and a log of who ran."""
    left = {"ours": list(ours), "theirs": list(theirs or [])}

    def program(name: str, loss: float) -> Any:
        return lambda: (left[name].pop(0), loss, name)

    order = settings.pop("order", [])

    def clock(run: Any) -> tuple[float, float]:
        seconds, loss, name = run()
        order.append(name)
        return seconds, loss

    second = None if theirs is None else program("theirs", losses[1])
    return Case("a", "peer", program("ours", losses[0]), second, clock=clock, **settings)


def test_ratio_is_of_medians_and_the_first_run_is_compilation():
    row = compare(case([10, 1, 2, 50], [9, 8, 4, 4]), rounds=3)
    assert (row.seconds, row.peer_seconds, row.compile_seconds, row.ratio) == (2, 4, 8, 2)


def test_programs_take_turns():
    order: list[str] = []
    compare(case([1] * 4, [1] * 4, order=order), rounds=3)
    assert order == ["ours", "theirs"] * 4


def test_without_a_peer_there_is_no_ratio():
    row = compare(case([1] * 2, None), rounds=1)
    assert row.ratio is None and row.comparable


@pytest.mark.parametrize(
    ("ours", "theirs", "lower", "wanted"),
    [
        (1.009, 1.0, False, True),
        (1.011, 1.0, False, False),
        (0.989, 1.0, False, False),
        (0.5, 1.0, True, True),
        (1.011, 1.0, True, False),
        (math.nan, 1.0, True, False),
        (1.0, math.nan, False, False),
        (0.0, 0.0, False, True),
    ],
)
def test_equal_is_within_one_percent(ours, theirs, lower, wanted):
    assert equal(ours, theirs, lower) == wanted
    assert compare(case([1] * 2, [1] * 2, (ours, theirs), lower_is_equal=lower), 1).comparable == wanted


def test_quality_takes_what_a_program_returned():
    row = compare(Case("a", "peer", lambda: [1.0, 2.0], lambda: [3.0], quality=sum), 1)
    assert (row.loss, row.peer_loss, row.comparable) == (3.0, 3.0, True)


def test_stopwatch_returns_the_result():
    seconds, result = stopwatch(lambda: "done")
    assert result == "done" and 0 <= seconds < 1
