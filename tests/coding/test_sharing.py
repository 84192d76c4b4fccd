"""One table for streams that are alike."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantree.coding import (
    Adaptive,
    Ans,
    Coded,
    Coder,
    Huffman,
    Live,
    Relative,
    Shac,
    Symbols,
    share,
    sharing,
    smallest,
)
from quantree.errors import LeafError

SKEWED, EVEN = [0.93, *[0.01] * 7], [0.125] * 8


def drawn(shares: list[float], seed: int, count: int = 400) -> Symbols:
    return Symbols(np.random.default_rng(seed).choice(len(shares), count, p=shares), len(shares))


def decoded(streams: list[Symbols], coded: list[Coded]) -> list[np.ndarray]:
    """As a file's reader finds the tables."""
    tables = [one.table for one in coded if one.shared is None and one.table]
    found = []
    for symbols, one in zip(streams, coded, strict=True):
        table = one.table if one.shared is None else tables[one.shared]
        found.append(Coder.named(one.coder)().decode(one.payload, table, symbols.values.shape, symbols.alphabet))
    return found


@pytest.mark.parametrize("coder", [Ans(), Huffman(), Live(), Relative(), Shac()], ids=lambda coder: coder.name)
def test_streams_that_are_alike_share_and_come_back(coder: Coder) -> None:
    streams = [drawn(SKEWED, 0), drawn(EVEN, 1), drawn(SKEWED, 2), drawn(EVEN, 3), drawn(SKEWED, 4)]
    alone = [smallest(symbols, [coder]) for symbols in streams]
    coded = share(streams, alone)
    assert sum(one.size for one in coded) < sum(one.size for one in alone)
    assert coded[2].shared == coded[4].shared == 0 and coded[0].shared is None
    for symbols, values in zip(streams, decoded(streams, coded), strict=True):
        np.testing.assert_array_equal(values, symbols.values)


def test_a_shared_table_is_the_best_for_all_of_them() -> None:
    """Each stream alone lacks what another needs; one table has both."""
    streams = [Symbols(np.array([0, 1] * 30), 9), Symbols(np.array([0, 2] * 30), 9)]
    coded = share(streams, [smallest(symbols, [Huffman()]) for symbols in streams])
    assert coded[1].shared is None or coded[1].table == coded[0].table
    for symbols, values in zip(streams, decoded(streams, coded), strict=True):
        np.testing.assert_array_equal(values, symbols.values)


def test_streams_that_differ_do_not_share() -> None:
    streams = [drawn(SKEWED, 0, 20_000), drawn(EVEN, 1, 20_000)]
    alone = [smallest(symbols, [Ans()]) for symbols in streams]
    assert share(streams, alone) == alone


def test_other_alphabets_and_coders_keep_their_tables() -> None:
    streams = [drawn(SKEWED, 0), Symbols(drawn(SKEWED, 1).values, 9), drawn(SKEWED, 2)]
    alone = [smallest(symbols, [coder]) for symbols, coder in zip(streams, (Ans(), Ans(), Huffman()), strict=True)]
    assert share(streams, alone) == alone
    with pytest.raises(LeafError, match="different alphabets"):
        Ans().table(*streams)


@given(st.integers(0, 2**32), st.sampled_from([Ans(), Huffman(), Relative(), None]))
@settings(max_examples=25)
def test_whatever_shares_comes_back(seed: int, coder: Coder | None) -> None:
    """Small streams of a few kinds, so that clusters join more than once."""
    rng = np.random.default_rng(seed)
    kinds = [rng.dirichlet(np.full(int(rng.integers(2, 33)), 0.3)) for _ in range(3)]
    streams = []
    for _ in range(int(rng.integers(2, 10))):
        shares = kinds[int(rng.integers(3))]
        streams.append(Symbols(rng.choice(len(shares), int(rng.integers(1, 3000)), p=shares), len(shares)))
    coders = None if coder is None else [coder]
    alone = [smallest(symbols, coders) for symbols in streams]
    coded = share(streams, alone, [coders] * len(streams))
    assert sum(one.size for one in coded) <= sum(one.size for one in alone)
    for symbols, values in zip(streams, decoded(streams, coded), strict=True):
        np.testing.assert_array_equal(values, symbols.values)


def test_a_cluster_that_has_moved_does_not_move_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three streams of which each would rather have another's table: none may end up in two clusters."""
    streams = [drawn(SKEWED, seed, 60) for seed in range(3)]
    chain = sharing._Chain(
        Ans(), streams, [smallest(symbols, [Ans()]) for symbols in streams], dict.fromkeys(range(3), b"x" * 9)
    )
    monkeypatch.setattr(Ans, "cost", lambda self, symbols, table: 8.0)
    chain.join_the_small()
    assert sorted(i for cluster in chain.clusters for i in cluster.members) == [0, 1, 2]


def test_no_streams_no_tables() -> None:
    assert share([], []) == []


def test_a_shared_table_may_beat_the_coder_that_is_best_alone() -> None:
    """Each is a byte or two smaller without a table; together a table costs less than that."""
    streams = [drawn([0.3, 0.25, 0.2, 0.1, 0.05, 0.05, 0.03, 0.02], seed, 500) for seed in range(8)]
    coders = [Adaptive(), Ans()]
    alone = [smallest(symbols, coders) for symbols in streams]
    coded = share(streams, alone, [coders] * 8)
    assert any(one.coder == "adaptive" for one in alone) and {one.coder for one in coded[1:]} == {"ans"}
    assert sum(one.size for one in coded) < sum(one.size for one in alone)
    for symbols, values in zip(streams, decoded(streams, coded), strict=True):
        np.testing.assert_array_equal(values, symbols.values)
