"""Weights whose channels are worth putting in order, and what orders are held against."""

import numpy as np

from quantree.ordering import Child


def weights(rng: np.random.Generator, rows: int, channels: int, w: int = 1) -> np.ndarray:
    """Some channels follow the same pattern, and they differ in size and mean."""
    of = rng.integers(0, 3, channels)
    x = 0.8 * rng.normal(size=(rows, 3, w))[:, of] + 0.6 * rng.normal(size=(rows, channels, w))
    size, mean = np.exp(0.5 * rng.normal(size=(channels, 1))), 0.3 * rng.normal(size=(1, channels, 1))
    return (x * size + mean).astype(np.float32)


def child(rng: np.random.Generator, rows: int, channels: int, d: int, w: int = 1, first: int = 0, after: int = 0):
    """A child that has these channels behind `first` others and before `after`."""
    return Child(weights(rng, rows, first + channels + after, w), np.arange(channels)[:, None] + first, d)


def vectors(given: Child, order: np.ndarray) -> np.ndarray:
    """Sub-vectors [n, d] under an order, channel by channel."""
    source = list(range(given.x.shape[1]))
    for column in given.places.T:
        for place, channel in enumerate(order):
            source[column[place]] = column[channel]
    rows = [np.concatenate([row[i] for i in source]) for row in given.x]
    d = min(given.d, len(rows[0]))
    filled = [np.append(row, np.zeros(-len(row) % d, np.float32)) for row in rows]
    return np.concatenate([row.reshape(-1, d) for row in filled]).astype(np.float64)
