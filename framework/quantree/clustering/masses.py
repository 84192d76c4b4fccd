"""Ward's linkage of points that have masses, which SciPy has not."""

import numpy as np


def ward(distances: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """The merges [n - 1, 4] of n points, ordered by distance, in SciPy's form but with a mass in the last column.

    distances: [n, n] Euclidean, float64; it is overwritten. masses: [n] positive. The distance of two clusters is the
    square root of twice the inertia that merging them adds, m1 m2 / (m1 + m2) |c1 - c2|^2 (Ward 1963). Merging from a
    chain of nearest neighbours finds the tree in O(n^2) (Murtagh 1983), with the update of Lance and Williams (1967)
    for masses.
    """
    n = len(masses)
    masses = masses.astype(np.float64)
    costs = np.square(distances, out=distances)  # twice the inertia
    costs *= 2 * masses[:, None] / (masses[:, None] + masses[None]) * masses[None]
    np.fill_diagonal(costs, np.inf)
    merges = np.empty((n - 1, 4))
    chain: list[int] = []
    alive = np.ones(n, bool)
    for done in range(n - 1):
        if not chain:
            chain = [int(np.argmax(alive))]
        while True:
            row = costs[chain[-1]]
            nearest = int(np.argmin(row))
            # At a tie the way back is taken, or the chain would not end.
            if len(chain) > 1 and row[chain[-2]] <= row[nearest]:
                break
            chain.append(nearest)
        gone, stays = chain.pop(), chain.pop()
        cost, both = costs[gone, stays], masses[gone] + masses[stays]
        merges[done] = gone, stays, np.sqrt(max(cost, 0.0)), both
        alive[gone] = False
        sums = (masses + masses[gone]) * costs[gone] + (masses + masses[stays]) * costs[stays] - masses * cost
        new = np.where(alive, sums / (masses + both), np.inf)
        new[stays] = np.inf
        costs[stays], costs[:, stays] = new, new
        costs[gone], costs[:, gone] = np.inf, np.inf
        masses[stays] = both
    return _numbered(merges[np.argsort(merges[:, 2], kind="stable")], n)


def _numbered(merges: np.ndarray, n: int) -> np.ndarray:
    """With clusters by number (n + i: what row i has merged) in place of a point that lies in them."""
    parent = np.arange(2 * n - 1)
    for i, row in enumerate(merges):
        for side in (0, 1):
            node = int(row[side])
            while parent[node] != node:
                parent[node] = node = parent[parent[node]]
            row[side] = node
        parent[row[:2].astype(np.int64)] = n + i
        row[:2] = np.sort(row[:2])
    return merges
