"""Description and best rates of the machine."""

import pytest

from experiments.benchmarks.case import Work
from experiments.benchmarks.machine import best_rates, description, roofline


def test_description_names_what_figures_depend_on():
    found = description()
    assert {"processor", "device", "python", "jax", "faiss-cpu", "scikit-learn"} <= set(found)
    assert all(found.values())


def test_rates_are_measured():
    rates = best_rates(small=True)
    assert 1e6 < rates.flops < 1e16 and 1e6 < rates.bytes < 1e14


@pytest.mark.parametrize(("work", "share"), [(Work(100, 1), 0.5), (Work(1, 30), 0.75)])
def test_roofline_is_set_by_the_scarcer_of_the_two(work, share):
    assert roofline(work, Work(flops=100, bytes=20), seconds=2) == share
