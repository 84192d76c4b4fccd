"""What papers published, as far as it can be checked against itself."""

from math import prod

import pytest

from experiments.papers.published import Han2016, Marino2021, Martinez2021, Wang2020, interval, load


@pytest.mark.parametrize(
    ("printed", "ends"),
    [("8", (7.5, 8.5)), ("3.1", (3.05, 3.15)), ("12.70", (12.695, 12.705)), ("1070", (1069.5, 1070.5))],
)
def test_digits_say_how_far_a_number_was_rounded(printed: str, ends: tuple[float, float]) -> None:
    assert interval(printed) == pytest.approx(ends)


@pytest.mark.parametrize(
    ("name", "weights"), [("LeNet-300-100", 266.2e3), ("LeNet-5", 430.5e3), ("AlexNet", 61e6), ("VGG-16", 138e6)]
)
def test_shapes_have_the_published_number_of_weights_and_sizes_the_published_ratio(name: str, weights: float) -> None:
    network = load(Han2016, "han2016").networks[name]
    assert sum(prod(layer.shape) for layer in network.layers.values()) == pytest.approx(weights, rel=0.005)
    before, after = interval(network.table.kilobytes_before), interval(network.table.kilobytes_after)
    low, high = interval(network.table.ratio)
    assert before[0] / after[1] <= high + 0.5 and before[1] / after[0] >= low - 0.5
    assert 4 * weights / 1000 == pytest.approx(sum(before) / 2, rel=0.02)


def test_marino_has_a_network_for_every_row_and_its_sizes_are_shares() -> None:
    paper = load(Marino2021, "marino2021")
    rows = [row for table in paper.tables for row in table.rows]
    assert {row.dataset for row in rows} == set(paper.networks)
    assert all(row.psi is None or 0 < row.psi < 1 for row in rows)
    for table in paper.tables:
        asked = [(row.dataset, row.method, row.settings) for row in table.rows]
        assert len(set(asked)) == len(asked) > 10
    # The best of a method is at least as good as its smallest.
    best, smallest = ({(r.dataset, r.method): r.metric for r in paper.tables[i].rows} for i in (2, 3))
    for key, metric in smallest.items():
        assert metric >= best[key] if key[0] in ("davis", "kiba") else metric <= best[key]


def test_martinez_prints_sizes_that_its_bits_give_and_has_a_size_for_every_row() -> None:
    paper = load(Martinez2021, "martinez2021")
    for network in paper.networks.values():
        for regime in network.regimes.values():
            low, high = interval(regime.mebibytes)
            assert low <= regime.bits / 8 / 2**20 <= high
    for row in paper.rows:
        assert row.regime in paper.networks[row.network].regimes
        assert row.bgd < row.pqf < row.original


def test_wang_has_a_data_set_for_every_row() -> None:
    paper = load(Wang2020, "wang2020")
    assert {row.dataset for row in paper.rows} <= set(paper.datasets)
    assert all(0 < row.reduction < 100 for row in paper.rows)
