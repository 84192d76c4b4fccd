import math

import jax
import numpy as np
import pytest

from experiments.zoo import Network


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        # He et al. 2015, table 6, in millions: 0.27, 0.46, 0.66, 0.85, 1.7; VGG: Simonyan and Zisserman's widths.
        *(("resnet20", 269_722), ("resnet32", 464_154), ("resnet44", 658_586), ("resnet56", 853_018)),
        *(("resnet110", 1_727_962), ("resnet8", 78_186), ("vgg_small", 242_474)),
        *(("vgg16", 14_724_042), ("vgg19", 20_035_018)),
    ],
)
def test_parameters_are_counted_as_published(name: str, weights: int) -> None:
    model = Network.named(name)().abstract((32, 32, 3), 10)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model.params)) == weights


@pytest.mark.parametrize(
    "name", ["resnet8", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet20", "vgg_small"))]
)
def test_networks_run_and_training_moves_their_statistics(name: str) -> None:
    model = Network.named(name)().model(0, (8, 8, 3), 5)
    assert model.apply is not None
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    outputs, same = model.apply(model.params, model.state, images)
    assert outputs.shape == (4, 5) and np.isfinite(np.asarray(outputs)).all()
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(model.state), strict=True))
    _, moved = model.apply(model.params, model.state, images, train=True, key=jax.random.key(0))
    assert all(not (a == b).all() for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(model.state), strict=True))
