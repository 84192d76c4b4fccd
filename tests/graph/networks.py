"""All networks on which the graph is tried, by name."""

from typing import Any

import pytest

from tests.graph import functions, images, linen_networks, sequences, uncommon
from tests.graph.cases import CASES, Case
from tests.graph.zoo import QUICK, ZOO

OUTSIDE: dict[str, Case] = CASES
"""Those of the tests; each of these modules has added its own."""
MODULES = (functions, uncommon, images, sequences, linen_networks)
ALL: dict[str, Case] = {**OUTSIDE, **ZOO}

_LONG = {
    "LinenTransformer",
    "LinenScannedTransformer",
    "LinenResidual",
    "LinenMobile",
    "LinenRecurrent",
    "RecurrentBothWays",
}
"""Whose parts others have too, and which take long to compile."""


def names() -> list[tuple[str, Any]]:
    """Each network with the marks of a test on it: large ones are slow."""
    slow = _LONG | (ZOO.keys() - QUICK)
    return [(name, pytest.mark.slow if name in slow else ()) for name in ALL]
