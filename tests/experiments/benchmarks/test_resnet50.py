"""The layers of ResNet-50 against published numbers, and both programs on the first few."""

import pytest

from experiments.benchmarks.case import equal
from experiments.benchmarks.resnet50 import Layer, in_new_process, layers, network


def test_layers_hold_the_weights_of_resnet50():
    # 25,557,032 parameters (torchvision) less 53,120 of batch normalization, 1,000 biases, the first convolution.
    found = layers()
    assert len(found) == 53
    assert sum(layer.n * layer.d for layer in found) == 25_557_032 - 53_120 - 1_000 - 64 * 3 * 7 * 7


def test_vectors_are_kernels_or_four_weights():
    found = layers()
    assert found[:3] == [Layer(1024, 4, 256), Layer(4096, 9, 256), Layer(4096, 4, 256)]
    assert found[-1] == Layer(512_000, 4, 1024)
    assert sum(layer.d == 9 for layer in found) == 16
    assert all(layer.n >= 4 * layer.k for layer in found)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [False, True])
def test_both_programs_in_processes_of_their_own(kept):
    case = network(smoke=True, kept=kept)
    assert case.theirs is not None
    (seconds, ours), (their_seconds, theirs) = in_new_process(case.ours), in_new_process(case.theirs)
    assert seconds > 0 and their_seconds > 0 and equal(ours, theirs)
