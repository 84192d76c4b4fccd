"""What k-means loses under an order, and the search that lowers it."""

import jax
import numpy as np
import pytest

from quantree.clustering import kmeans
from quantree.ordering import Child, by_covariance, by_distortion, distortion
from tests.compilations import compilations
from tests.ordering.cases import child, vectors

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("given", [child(RNG, 20, 14, 4), child(RNG, 12, 9, 8, w=4)])
def test_it_is_the_error_of_kmeans(given: Child) -> None:
    order = RNG.permutation(len(given.places))
    x = vectors(given, order)
    # In other units, so another clustering, as good as the other.
    error = float(kmeans(x.astype(np.float32), 8, key=KEY, restarts=8).inertia) / given.x.size
    assert distortion([given], 8, key=KEY, order=order) == pytest.approx(np.log(error), abs=0.1)
    scaled = Child(given.x * 1e10, given.places, given.d)
    assert distortion([scaled], 8, key=KEY) == pytest.approx(
        distortion([given], 8, key=KEY) + 2 * np.log(1e10), rel=1e-5
    )


@pytest.mark.slow
def test_it_lowers_the_error_and_keeps_the_identity_where_it_does_not() -> None:
    rng = np.random.default_rng(0)  # of its own: whichever tests run before it
    children = [child(rng, 200, 64, 4)]
    found = by_distortion(children, 16, key=KEY, steps=100)
    assert found.before == distortion(children, 16, key=KEY)
    assert found.after == distortion(children, 16, key=KEY, order=found.order)
    assert found.after < found.before - 0.3
    assert found.tried > 500
    zeros = [Child(np.zeros_like(each.x), each.places, each.d) for each in children]
    same = by_distortion(zeros, 16, key=KEY, steps=3)
    np.testing.assert_array_equal(same.order, np.arange(64))
    assert np.isfinite(same.after)
    ordered = [Child(each.moved(found.order), each.places, each.d) for each in children]
    kept = by_distortion(ordered, 16, key=KEY, steps=0, start=rng.permutation(64))
    np.testing.assert_array_equal(kept.order, np.arange(64))
    assert kept.before == kept.after == found.after


@pytest.mark.slow
def test_it_starts_where_it_is_told_and_is_deterministic() -> None:
    children = [child(RNG, 24, 7, 4)]
    start = by_covariance(children, key=KEY, steps=40, chains=16).order
    first = by_distortion(children, 16, key=KEY, steps=20, start=start)
    assert first.after <= distortion(children, 16, key=KEY, order=start)
    with compilations() as compiled:
        again = by_distortion(children, 16, key=KEY, steps=20, start=start)
    assert compiled == []
    np.testing.assert_array_equal(first.order, again.order)


def test_no_order_of_these_matters() -> None:
    found = by_distortion([child(RNG, 10, 6, 9, w=9)], 4, key=KEY)
    np.testing.assert_array_equal(found.order, np.arange(6))
