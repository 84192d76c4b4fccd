"""The cases of the benchmark at tiny sizes: ours and every peer that is installed end at the same inertia."""

import argparse

import faiss
import numpy as np
import pytest

from experiments.benchmarks.case import compare
from experiments.benchmarks.clustering import cases, inertia, points

SMOKE = cases(argparse.Namespace(smoke=True))
# ott-jax mixes dtypes, which the strict environment of the tests forbids.
BUILT = {f"{case.name} {case.peer}": case for case in (build() for build in SMOKE) if case.peer != "ott-jax"}


@pytest.mark.parametrize("name", BUILT)
def test_ours_and_the_peer_are_equally_good(name):
    row = compare(BUILT[name], rounds=1)
    assert row.comparable and row.loss > 0 and row.ratio is not None


def test_full_sizes_are_those_that_are_reported():
    assert len(cases(argparse.Namespace(smoke=False))) == 4 + 4 + 8 + 2 + 2


def test_inertia_is_that_of_faiss():
    x, centroids = points(5000, 6), points(2000, 6)
    index = faiss.IndexFlatL2(6)
    index.add(centroids)  # pyright: ignore[reportCallIssue]
    wanted = index.search(x, 1)[0].sum(dtype=np.float64)  # pyright: ignore[reportCallIssue]
    assert inertia(x, centroids) == pytest.approx(wanted, rel=1e-5)
