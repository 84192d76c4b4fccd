"""How many distances exact bounds leave to Lloyd's iterations: `python -m experiments.benchmarks.pruning`.

Three ways to prove that a point keeps its centroid are followed beside plain iterations from the same start, with every
point's distance to its own centroid known exactly, as the engine computes it anyway for the inertia:

- Hamerly (SDM 2010): one lower bound per point, on its second nearest centroid; where it fails all k are searched.
- Yinyang (Ding et al., ICML 2015): one per point and group of some 10 centroids; the groups that fail are searched.
- Elkan (ICML 2003): one per point and centroid, and half the distance between centroids; the pairs that fail count.

What is printed is the share of all n x k distances. A bound costs memory and a pass over itself too, and the points
that fail it must be collected; so a share is a lower bound on the time, in units of the full search.
"""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console

from quantree import clustering

SHAPES = ((4, 16), (4, 256), (8, 256), (9, 256), (16, 256), (16, 1024))
POINTS, ITERATIONS, GROUP = 32_768, 25, 10
SHOWN = (1, 2, 5, 10, 25)


class Shares(NamedTuple):
    """Of the n x k distances of one iteration: those that each bound leaves; and the share of points that changed."""

    hamerly: float
    yinyang: float
    elkan: float
    changed: float


def shares(x: np.ndarray, start: np.ndarray, iterations: int) -> Iterator[Shares]:
    """One entry for each iteration after the first assignment, which nothing can prune; x [n, d], start [k, d]."""
    n, k = len(x), len(start)
    centroids, rows = start.astype(np.float64), np.arange(n)
    groups = np.arange(k) // GROUP
    firsts = np.flatnonzero(np.diff(groups, prepend=-1))
    exact = _distances(x, centroids)
    codes = exact.argmin(axis=1)
    elkan, yinyang, hamerly = exact.copy(), _least(exact, codes, firsts), _least(exact, codes, firsts[:1])
    for _ in range(iterations):
        moved = _means(x, codes, centroids)
        drift = np.linalg.norm(moved - centroids, axis=1)
        centroids = moved
        elkan -= drift
        yinyang -= np.maximum.reduceat(drift, firsts)
        hamerly -= drift.max()
        exact = _distances(x, centroids)
        own = exact[rows, codes]
        apart = _distances(centroids, centroids)
        np.fill_diagonal(apart, np.inf)
        half = apart / 2
        others = (elkan < own[:, None]) & (half[codes] < own[:, None])
        others[rows, codes] = False
        open_points = (own > half.min(axis=1)[codes]) & (hamerly[:, 0] < own)
        open_groups = (yinyang < own[:, None]) & (own > half.min(axis=1)[codes])[:, None]
        sizes = np.diff(np.append(firsts, k))
        nearest = exact.argmin(axis=1)
        yield Shares(
            open_points.mean(), float((open_groups @ sizes).sum()) / (n * k), others.mean(), (nearest != codes).mean()
        )
        elkan = np.where(others, exact, elkan)
        elkan[rows, codes], elkan[rows, nearest] = own, exact[rows, nearest]
        yinyang = np.where(open_groups | (nearest != codes)[:, None], _least(exact, nearest, firsts), yinyang)
        hamerly = np.where(open_points[:, None], _least(exact, nearest, firsts[:1]), hamerly)
        codes = nearest


def _least(distances: np.ndarray, codes: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    """The least distance to any centroid but a point's own, for each group of centroids: [n, groups]."""
    others = distances.copy()
    others[np.arange(len(codes)), codes] = np.inf
    return np.minimum.reduceat(others, firsts, axis=1)


def _distances(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    squares = (x**2).sum(axis=1)[:, None] + (centroids**2).sum(axis=1) - 2 * x @ centroids.T
    return np.sqrt(np.maximum(squares, 0))


def _means(x: np.ndarray, codes: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    counts = np.bincount(codes, minlength=len(centroids))
    sums = np.stack([np.bincount(codes, column, len(centroids)) for column in x.T], axis=1)
    return np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centroids)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes")
    n = 1024 if parser.parse_args().smoke else POINTS
    console = Console(soft_wrap=True)
    console.print("| d | k | bound | " + " | ".join(f"iteration {i}" for i in SHOWN) + " | mean |", markup=False)
    console.print("|---" * (len(SHOWN) + 4) + "|", markup=False)
    for d, k in SHAPES:
        x = np.random.default_rng(n + d).standard_normal((n, d))
        key = jax.random.key(0)
        start = np.asarray(clustering.kmeans(x, k, key=key, init="random", iterations=0).centroids)
        found = list(shares(x, start, ITERATIONS))
        for name in Shares._fields:
            each = np.asarray([getattr(one, name) for one in found])
            label = "points that change" if name == "changed" else name.capitalize()
            cells = [f"{each[i - 1]:.1%}" for i in SHOWN] + [f"{each.mean():.1%}"]
            console.print(f"| {d} | {k} | {label} | " + " | ".join(cells) + " |", markup=False)


if __name__ == "__main__":
    main()
