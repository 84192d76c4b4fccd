"""Peak memory against allocations of known size."""

import numpy as np

from experiments.benchmarks.memory import peak

SIZE = 64_000_000  # bytes


def test_peak_counts_what_was_freed_again():
    assert 0.9 * SIZE < peak(lambda: np.ones(SIZE // 8).sum()) < 1.5 * SIZE


def test_peak_leaves_out_what_was_there_before():
    np.ones(SIZE // 2).sum()  # a higher peak, long past
    held = np.ones(SIZE // 8)
    assert peak(lambda: held[:1000].sum()) < SIZE / 4
