"""The benchmark of products, at tiny sizes."""

import pytest

from experiments.benchmarks import products


def test_without_a_gpu_it_says_so(capsys):
    assert products.main(["--device", "gpu"]) == 0
    assert capsys.readouterr().out == "no GPU that JAX can use: nothing was measured\n"


@pytest.mark.slow
@pytest.mark.parametrize("peer", products.PEERS)
def test_cases_give_equal_products(peer, capsys):
    assert products.main(["--smoke", "--rounds", "1", "--only", f"*{peer}"]) == 0
    assert f"| {peer} | " in capsys.readouterr().out
