"""`look_up` against a binary search for each value."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from quantree.clustering.lookup import look_up

LIMIT = float(np.finfo(np.float32).max)
NUMBERS = st.one_of(
    st.floats(-LIMIT, LIMIT, width=32),
    st.floats(-1, 1, width=32),
    st.integers(-3, 3).map(lambda ulps: float(np.float32(1) + ulps * np.finfo(np.float32).eps)),
    st.sampled_from([0.0, -0.0, 1e-45, -1e-45, LIMIT, -LIMIT]),
)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@hypothesis.given(
    values=st.lists(NUMBERS, min_size=1, max_size=30),
    pairs=st.lists(st.tuples(NUMBERS, NUMBERS), max_size=6),
    cells=st.sampled_from([3, 20]),
)
@hypothesis.example(values=[0.0, -0.0], pairs=[(-0.0, -0.0)], cells=20)
def test_counts_the_cuts_below(dtype: type, values: list[float], pairs: list[tuple[float, float]], cells: int) -> None:
    x, cuts = np.array(values, dtype), np.sort(np.array([a / 2 + b / 2 for a, b in pairs], np.float64))
    found = np.full(x.size, -7, np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quantree.clustering.lookup.CELLS", cells)
        look_up(cuts, x.dtype, 1 << 20)(x, found)
    np.testing.assert_array_equal(found, np.searchsorted(cuts, x.astype(np.float64)))


def test_many_values_of_weights_and_of_norms(rng: np.random.Generator) -> None:
    for x in (rng.laplace(size=100_000), 1 + rng.normal(size=100_000) * 1e-4, rng.normal(size=100_000) * 1e-40):
        x = x.astype(np.float32)
        cuts = np.sort(x[:255].astype(np.float64)) * (1 + 1e-9)
        found = np.empty(x.size, np.int32)
        look_up(cuts, x.dtype, x.size)(x, found)
        np.testing.assert_array_equal(found, np.searchsorted(cuts, x.astype(np.float64)))
