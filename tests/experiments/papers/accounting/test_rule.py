"""Which part of a model a rule counts."""

from collections.abc import Callable

import numpy as np
import pytest

from experiments.papers import PaperRule
from experiments.papers.accounting import Marino2021
from quantree.encodings import Compressed
from quantree.errors import ConfigError
from quantree.registry import registered

LEAVES = {
    "conv1/kernel": np.ones((3, 3, 2, 5)),
    "conv1/bias": np.ones(5),
    "embed/embedding": np.ones((7, 2)),
    "fc1/kernel": np.ones((6, 4)),
    "kernel": np.ones((4, 1)),
    "bn/scale": np.ones(4),
}
OTHERS = 5 + 14 + 4  # what is in no kernel
WHOLE = {"martinez2021"}  # rules that count all of a whole network


@pytest.mark.parametrize("name", sorted(registered("paper_rule")))
@pytest.mark.parametrize(("part", "weights"), [("whole", 90 + 24 + 4), ("dense", 24 + 4), ("conv", 90)])
def test_an_untouched_model_is_as_large_as_it_was(
    model: Callable[..., Compressed], name: str, part: str, weights: int
) -> None:
    count = PaperRule.from_config({"kind": name, "part": part}).count(model(LEAVES))
    weights += OTHERS if part == "whole" and name in WHOLE else 0
    assert (count.dense, count.stored, count.ratio, count.psi) == (32 * weights, 32 * weights, 1, 1)


@pytest.mark.parametrize("name", sorted(registered("paper_rule")))
def test_a_model_without_such_kernels_is_an_error_and_one_of_zeros_is_not(
    model: Callable[..., Compressed], name: str
) -> None:
    rule = PaperRule.from_config({"kind": name, "part": "conv"})
    with pytest.raises(ConfigError, match=f"{name}: in part 'conv' the network has no kernel"):
        rule.count(model({"fc/kernel": np.ones((2, 2)), "conv/bias": np.ones(3)}))
    zeros = {"conv/kernel": np.zeros((3, 2, 2))}
    for made in (model(zeros, pruned=("conv/kernel",)), model(zeros, coded={"conv/kernel": "a"})):
        assert 1 < rule.count(made).ratio < np.inf


def test_ratio_and_psi_are_one_thing(model: Callable[..., Compressed]) -> None:
    count = Marino2021().count(model({"fc/kernel": np.tile([1.0, 2.0], (50, 20))}, coded={"fc/kernel": "a"}))
    assert count.ratio == pytest.approx(1 / count.psi) and count.ratio > 1
