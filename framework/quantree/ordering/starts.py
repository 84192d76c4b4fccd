"""Orders to start a search from."""

import numpy as np

from quantree.ordering.children import Child
from quantree.ordering.moments import RIDGE


def scores(child: Child) -> np.ndarray:
    """Log determinant of the covariance of the weights of each channel, [G]: of its log variance where it has one."""
    groups, columns = child.places.shape
    w = child.x.shape[2]
    x = child.x[:, child.places.reshape(-1)].astype(np.float64).reshape(-1, groups, columns, w)
    x = x.transpose(1, 0, 2, 3).reshape(groups, -1, w)
    x = x / (float(np.std(x)) or 1.0)
    centred = x - x.mean(axis=1, keepdims=True)
    covariance = np.matmul(centred.swapaxes(1, 2), centred) / centred.shape[1] + RIDGE * np.eye(w)
    return np.linalg.slogdet(covariance)[1] / w


def greedy(child: Child) -> np.ndarray:
    """The start of Martinez et al. (section 3.1), an order [G]: each position of the sub-vector is a bucket.

    Channels go by their score, the highest first, each into the bucket that is not full and has the least variance so
    far, 1 at first. The i-th channel of a bucket then takes its position in the i-th sub-vector.
    """
    score = np.exp(scores(child))
    b = child.per_block
    size = len(score)
    room = np.bincount(np.arange(size) % b, minlength=b)
    filled, variance = [[] for _ in range(b)], np.ones(b)
    for channel in np.argsort(-score, kind="stable"):
        bucket = int(np.argmin(np.where(room > 0, variance, np.inf)))
        filled[bucket].append(channel)
        variance[bucket] += score[channel]
        room[bucket] -= 1
    return np.array([filled[place % b][place // b] for place in range(size)])


def by_score(child: Child) -> np.ndarray:
    """An order [G] in which each position of the sub-vector has channels of like variance.

    By Hadamard's inequality the determinant is at most the product of the variances at the positions, and that is least
    where these differ most.
    """
    b, size = child.per_block, len(child.places)
    falling = np.argsort(-scores(child), kind="stable")
    place = np.lexsort((np.arange(size) // b, np.arange(size) % b))
    order = np.empty(size, np.int64)
    order[place] = falling
    return order


def start(child: Child, number: int) -> np.ndarray:
    """Where the chain of that number starts, [G]."""
    if number < 3:
        return (by_score(child), greedy(child), np.arange(len(child.places)))[number]
    return np.random.default_rng(number).permutation(len(child.places))
