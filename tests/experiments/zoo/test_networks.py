import jax
import numpy as np
import pytest

from experiments.zoo import MLP, LeNet5, LeNet300, Network
from quantree.errors import ConfigError
from quantree.model import flatten


def test_lenet5_is_the_431k_form_of_caffe() -> None:
    shapes = {path: leaf.shape for path, leaf in flatten(LeNet5().abstract((28, 28, 1), 10).params).items()}
    assert shapes == {
        "conv1/kernel": (5, 5, 1, 20),
        "conv1/bias": (20,),
        "conv2/kernel": (5, 5, 20, 50),
        "conv2/bias": (50,),
        "fc1/kernel": (800, 500),
        "fc1/bias": (500,),
        "fc2/kernel": (500, 10),
        "fc2/bias": (10,),
    }
    assert sum(np.prod(shape) for shape in shapes.values()) == 431_080


@pytest.mark.parametrize(
    ("network", "shape", "weights"),
    [(LeNet300(), (28, 28, 1), 266_610), (MLP(), (8, 8, 1), 6_570), (MLP(hidden=()), (8, 8, 1), 650)],
)
def test_parameters_are_counted_as_published(network: Network, shape: tuple[int, ...], weights: int) -> None:
    model = network.abstract(shape, 10)
    assert model.dense_bytes == 4 * weights
    assert not model.state


def test_networks_run_and_depend_on_the_seed_alone() -> None:
    images = np.ones((2, 28, 28, 1), np.float32)
    first, again, other = (LeNet5().model(seed, (28, 28, 1), 10) for seed in (0, 0, 1))
    assert first.apply is not None
    outputs = [np.asarray(first.apply(model.params, model.state, images)[0]) for model in (first, again, other)]
    assert outputs[0].shape == (2, 10)
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert np.abs(outputs[0] - outputs[2]).max() > 1e-3
    assert hash(first.apply) == hash(other.apply) and first.apply == other.apply


def test_abstract_model_has_the_shapes_of_the_real_one() -> None:
    real, abstract = MLP().model(0, (8, 8, 1), 10), MLP().abstract((8, 8, 1), 10)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), real.params) == jax.tree.map(
        lambda x: (x.shape, x.dtype), abstract.params
    )


def test_lenet5_refuses_what_its_filters_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"'lenet5' takes inputs of shape .* not \[8, 8, 1\]"):
        LeNet5().abstract((8, 8, 1), 10)
