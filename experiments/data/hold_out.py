"""Cutting a held-out part from a split."""

import numpy as np


def hold_out(examples: int, count: int, seed: int, labels: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Ascending indices (kept [examples - count], held [count]) of a random cut that `seed` fixes.

    labels: int [examples]; with them, every class gives its share of `count`, rounded up or down.
    """
    order = np.random.default_rng(seed).permutation(examples)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]  # class by class, shuffled within each
    chosen = np.zeros(examples, bool)
    chosen[order[np.arange(count) * examples // count]] = True  # evenly spaced over the order
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
