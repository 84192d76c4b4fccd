"""The benchmark for GPUs, as far as a CPU can tell."""

import numpy as np
import pytest

from experiments.benchmarks import gpu
from experiments.benchmarks.clustering import points
from experiments.benchmarks.peers import sklearn_kmeans


def test_without_a_gpu_it_says_so(capsys):
    assert gpu.main([]) == 0
    assert capsys.readouterr().out == "no GPU that JAX can use: nothing was measured\n"


@pytest.mark.parametrize(
    "only",
    [
        pytest.param("Lloyd*torch", marks=pytest.mark.slow),
        pytest.param("*problems*", marks=pytest.mark.slow),
        "scalar*",
    ],
)
def test_cases_run_on_a_cpu(only, capsys):
    assert gpu.main(["--smoke", "--device", "cpu", "--rounds", "1", "--only", only]) == 0
    assert "| torch | " in capsys.readouterr().out


def test_plain_pytorch_kmeans_is_that_of_sklearn():
    torch = pytest.importorskip("torch")
    from experiments.benchmarks.torch_kmeans import torch_kmeans

    x = points(3000, 4).reshape(3, 1000, 4)
    start = x[:, :8]
    found = torch_kmeans(torch.from_numpy(x), torch.from_numpy(start.copy()), 10).numpy()
    for problem, begin, centroids in zip(x, start, found, strict=True):
        np.testing.assert_allclose(centroids, sklearn_kmeans(problem, begin, 10), rtol=1e-4, atol=1e-4)
