"""The order of ResNet-50's channels, searched by us and by loops: `python -m experiments.benchmarks.permutation`.

Groups and shapes are those of Martinez et al. (CVPR 2021) with small blocks: what 1 x 1 convolutions and the last layer
read, in sub-vectors of 4 weights; nothing is gained before 3 x 3 kernels, which are one sub-vector each. The weights
are random, but channels are not all alike, as normal numbers would be, which have nothing to gain: a channel follows
one of 16 patterns (correlation 0.7, either sign), and its size is log-normal (deviation 0.5).

Speed: swaps whose gain is worked out in a second, tables and choices included, against two loops in NumPy. The plain
one exchanges two channels of each child and takes `cov` and `slogdet` of all sub-vectors; the incremental one has the
products of all channels in a table, as ours, and takes `slogdet` of the covariance that changes with two blocks.
Quality: the objective, mean log distortion of a weight in nats, where ours ends and where 10,000 swaps of a loop end,
one after the other from the greedy start of the paper.
"""

import argparse
import datetime
import functools
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from experiments.benchmarks.machine import description
from experiments.benchmarks.resnet50 import BLOCKS, in_new_process
from quantree import ordering
from quantree.clustering.threads import side_by_side
from quantree.ordering.starts import greedy

D = 4
SWAPS = 10_000  # of Martinez et al.
PLAIN_SWAPS = 20  # enough to time the plain loop
PATTERNS, CORRELATION, SPREAD = 16, 0.7, 0.5
FASTER = 50  # than the plain loop, at least
SECONDS = 60  # for the whole network, at most


class Channels(NamedTuple):
    """A group: how many channels, and the rows of each child that reads them."""

    name: str
    size: int
    rows: tuple[int, ...]


def groups(smoke: bool) -> Iterator[Channels]:
    """All groups of ResNet-50 that a 1 x 1 convolution or the last layer reads; for `smoke` the first two."""
    widths = [64 << stage for stage in range(len(BLOCKS))]
    found = [Channels("stem", 64, (64, 256))]
    for stage, (blocks, width) in enumerate(zip(BLOCKS, widths, strict=True)):
        found += [Channels(f"stage {stage + 1}, block {block + 1}", width, (4 * width,)) for block in range(blocks)]
        after = (widths[stage + 1], 4 * widths[stage + 1]) if stage + 1 < len(BLOCKS) else (1000,)
        found.append(Channels(f"stage {stage + 1}, stream", 4 * width, (width,) * (blocks - 1) + after))
    return iter(found[: 2 if smoke else None])


def children(group: Channels, seed: int) -> list[ordering.Child]:
    """Its children with random weights."""
    rng = np.random.default_rng(seed)
    places = np.arange(group.size)[:, None]
    size = np.exp(SPREAD * rng.standard_normal(group.size))
    of, sign = rng.integers(0, PATTERNS, group.size), rng.choice([-1, 1], group.size)
    found = []
    for rows in group.rows:
        own = rng.standard_normal((rows, group.size))
        x = CORRELATION * sign * rng.standard_normal((rows, PATTERNS))[:, of] + np.sqrt(1 - CORRELATION**2) * own
        found.append(ordering.Child((size * x)[..., None].astype(np.float32), places, D))
    return found


def plain(given: list[ordering.Child], swaps: int, seed: int = 0) -> float:
    """Seconds for a swap of the loop that computes everything anew."""
    rng = np.random.default_rng(seed)
    x, size = [child.x[:, :, 0].copy() for child in given], len(given[0].places)
    started = time.perf_counter()
    for _ in range(swaps):
        pair = rng.integers(0, size, 2)
        for each in x:
            each[:, pair] = each[:, pair[::-1]]
            np.linalg.slogdet(np.cov(each.reshape(-1, D), rowvar=False))
    return (time.perf_counter() - started) / swaps


def incremental(given: list[ordering.Child], swaps: int, seed: int = 0) -> tuple[float, np.ndarray]:
    """Seconds for a swap of the loop with a table, and the order that it ends with; from the greedy start."""
    rng = np.random.default_rng(seed)
    started = time.perf_counter()
    order = greedy(given[0])
    size, total = len(order), sum(child.x.size for child in given)
    tables = []
    for child in given:
        x = child.x[:, :, 0].astype(np.float64)
        x = (x - x.mean()) / x.std()
        count = len(x) * size // D
        tables.append((x.T @ x / count, x.sum(axis=0) / count, child.x.size / total / D))

    def sums(blocks: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(p[blocks[:, :, None], blocks[:, None]].sum(0), s[blocks].sum(0)) for p, s, _ in tables]

    def value(moments: list[tuple[np.ndarray, np.ndarray]]) -> float:
        shares = (share for _, _, share in tables)
        logs = (np.linalg.slogdet(p - np.outer(s, s))[1] for p, s in moments)
        return sum(share * log for share, log in zip(shares, logs, strict=True))

    now = sums(order.reshape(-1, D))
    least = value(now)
    for _ in range(swaps):
        pair = rng.integers(0, size, 2)
        blocks = np.unique(pair // D)
        before = order.reshape(-1, D)[blocks]
        order[pair] = order[pair[::-1]]
        changes = zip(now, sums(before), sums(order.reshape(-1, D)[blocks]), strict=True)
        new = [(p - p0 + p1, s - s0 + s1) for (p, s), (p0, s0), (p1, s1) in changes]
        found = value(new)
        if found < least:
            now, least = new, found
        else:
            order[pair] = order[pair[::-1]]
    return (time.perf_counter() - started) / swaps, order


def whole(smoke: bool) -> tuple[float, float, float]:
    """Seconds for all groups in a process that has compiled nothing yet; and the sum of objectives before and after."""
    given = [children(group, seed) for seed, group in enumerate(groups(smoke))]
    started = time.perf_counter()
    with side_by_side() as run:
        found = list(run(functools.partial(ordering.by_covariance, key=jax.random.key(0)), given))
    return time.perf_counter() - started, sum(each.before for each in found), sum(each.after for each in found)


def main() -> int:
    """Prints the table -> 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="two groups, few swaps: whether it runs, not how fast")
    smoke = parser.parse_args().smoke
    facts = {**description(), "date": datetime.date.today().isoformat()}
    print("\n".join(f"- {name}: {value}" for name, value in facts.items()), end="\n\n")
    print("| group | channels | children | swaps/s | x plain | x incremental | as it is | 10,000 swaps | ours |")
    print(f"|{'---|' * 9}", flush=True)
    faults = []
    kinds = {each[1:]: each for each in groups(smoke)}.values()
    for seed, group in enumerate(kinds):
        given = children(group, seed)
        ordering.by_covariance(given, key=jax.random.key(0))  # compiles
        started = time.perf_counter()
        found = ordering.by_covariance(given, key=jax.random.key(0))
        rate = found.tried / (time.perf_counter() - started)
        slow = rate * plain(given, PLAIN_SWAPS)
        seconds, order = incremental(given, SWAPS // 100 if smoke else SWAPS)
        theirs = ordering.gaussian(given, order)
        print(
            f"| {group.name} | {group.size} | {len(group.rows)} | {rate:,.0f} | {slow:,.0f} | {rate * seconds:.0f} | "
            f"{found.before:.4f} | {theirs:.4f} | {found.after:.4f} |",
            flush=True,
        )
        if slow < FASTER:
            faults.append(f"{group.name}: {slow:.0f} times the plain loop, not {FASTER}")
        if found.after > theirs:
            faults.append(f"{group.name}: the objective is {found.after:.4f}, a loop reaches {theirs:.4f}")
    seconds, before, after = in_new_process(functools.partial(whole, smoke))
    count = len(list(groups(smoke)))
    print(
        f"\nAll {count} groups in a new process, compilation included: {seconds:.1f} s; the objectives' sum falls from"
    )
    print(f"{before:.3f} to {after:.3f}.")
    if seconds > SECONDS:
        faults.append(f"the whole network takes {seconds:.0f} s, more than {SECONDS}")
    print(*faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
