"""Points in a file, and the run over them."""

import math

import numpy as np

from experiments.benchmarks.case import compare
from experiments.benchmarks.streaming import points_in_file, streamed


def test_points_are_drawn_to_the_end():
    x = points_in_file(300_000, 2)
    assert isinstance(x, np.memmap) and x.shape == (300_000, 2) and x.dtype == np.float32
    for part in (x[:1000], x[-1000:]):
        assert abs(part.mean()) < 0.2 and abs(part.std() - 1) < 0.2


def test_it_runs():
    row = compare(streamed(20_000, 8, 64, 1), rounds=1)
    assert math.isfinite(row.loss) and row.loss > 0
