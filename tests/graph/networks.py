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


def names() -> list[tuple[str, Any]]:
    """Each network with the marks of a test on it: the large ones of the zoo are slow."""
    return [(name, pytest.mark.slow if name in ZOO and name not in QUICK else ()) for name in ALL]
