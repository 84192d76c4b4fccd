"""ResNets in their form for ImageNet, against a forward pass over the arrays of a PyTorch checkpoint."""

import functools
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

from experiments.zoo import ImageNetResNet, Network, ResNet18, ResNet50
from quantree.checkpoints.layouts import from_layout, to_layout
from quantree.errors import ConfigError
from quantree.model import Flat, Model, flatten, unflatten

SHAPE = (64, 64, 3)
IMAGES = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
SIZES = {"resnet18": 11_689_512, "resnet50": 25_557_032}  # as torchvision's documentation has them


class Short18(ResNet18):
    """Few layers: what takes long is compiling them."""

    blocks: ClassVar = (1, 2, 1, 1)


class Short50(ResNet50):
    """Likewise."""

    blocks: ClassVar = (1, 2, 1, 1)


def drawn(network: ImageNetResNet, classes: int = 5) -> Model:
    """The network with everything at random, statistics too: fresh ones would hide a norm that is left out."""
    found: list[Model] = []

    def trees() -> tuple[dict, dict]:
        found.append(network.model(0, SHAPE, classes))
        return found[0].params, found[0].state

    shapes, rng = jax.eval_shape(trees), np.random.default_rng(0)

    def leaf(path: str, shape: tuple[int, ...]) -> Array:
        if path.endswith("kernel"):
            return jnp.asarray(rng.normal(size=shape) / math.sqrt(math.prod(shape[:-1])), jnp.float32)
        low, high = (0.5, 1.5) if path.endswith(("scale", "var")) else (-0.5, 0.5)
        return jnp.asarray(rng.uniform(low, high, shape), jnp.float32)

    params, state = ({path: leaf(path, x.shape) for path, x in flatten(tree).items()} for tree in shapes)
    return Model(unflatten(params), unflatten(state), found[0].apply)


def logits(model: Model, params: Flat, state: Flat) -> np.ndarray:
    assert model.apply is not None
    return np.asarray(jax.jit(model.apply)(unflatten(params), unflatten(state), IMAGES)[0])


@functools.partial(jax.jit, static_argnums=0)
def forward(blocks: tuple[int, ...], arrays: Mapping[str, Array], images: Array) -> Array:
    """Logits by torchvision's own names: images [n, 3, h, w], kernels [outputs, inputs, h, w]."""

    def conv(at: str, x: Array, stride: int = 1) -> Array:
        kernel = arrays[f"{at}.weight"]
        around = [(kernel.shape[2] // 2, kernel.shape[2] // 2)] * 2
        axes = ("NCHW", "OIHW", "NCHW")
        return lax.conv_general_dilated(x, kernel, (stride, stride), around, dimension_numbers=axes)

    def norm(at: str, x: Array) -> Array:
        parts = ("weight", "bias", "running_mean", "running_var")
        weight, bias, mean, var = (arrays[f"{at}.{part}"][None, :, None, None] for part in parts)
        return (x - mean) / jnp.sqrt(var + 1e-5) * weight + bias

    def block(at: str, x: Array, stride: int) -> Array:
        convs, y = [i for i in (1, 2, 3) if f"{at}.conv{i}.weight" in arrays], x
        for i in convs:
            strided = i == convs[-2]  # the 3 x 3 of a bottleneck, the first of two otherwise
            y = norm(f"{at}.bn{i}", conv(f"{at}.conv{i}", y, stride if strided else 1))
            y = y if i == convs[-1] else jax.nn.relu(y)
        if f"{at}.downsample.0.weight" in arrays:
            x = norm(f"{at}.downsample.1", conv(f"{at}.downsample.0", x, stride))
        return jax.nn.relu(y + x)

    x = jax.nn.relu(norm("bn1", conv("conv1", images, 2)))
    around = ((0, 0), (0, 0), (1, 1), (1, 1))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 3, 3), (1, 1, 2, 2), around)
    for stage, count in enumerate(blocks, 1):
        for i in range(count):
            x = block(f"layer{stage}.{i}", x, 2 if stage > 1 and i == 0 else 1)
    return x.mean((2, 3)) @ arrays["fc.weight"].T + arrays["fc.bias"][None]


@pytest.mark.parametrize("name", SIZES)
def test_parameters_are_counted_as_published(name: str) -> None:
    model = Network.named(name)().abstract((224, 224, 3), 1000)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model.params)) == SIZES[name]


@pytest.mark.parametrize(
    "network",
    [Short18(), Short50(), *(pytest.param(each(), marks=pytest.mark.slow) for each in (ResNet18, ResNet50))],
    ids=lambda network: type(network).__name__,
)
def test_a_checkpoint_in_the_names_of_torchvision_gives_what_these_stand_for(network: ImageNetResNet) -> None:
    model = drawn(network)
    arrays = to_layout(flatten(model.params), flatten(model.state), "torch")
    expected = np.asarray(forward(network.blocks, arrays, IMAGES.transpose(0, 3, 1, 2)))
    assert np.abs(expected).max() > 0.1
    split = from_layout(arrays, "torch")
    found = logits(model, split.params, split.state)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("network", [ResNet18(), ResNet50()], ids=lambda network: network.name)
def test_torchvision_has_the_same_leaves_and_logits(network: ImageNetResNet) -> None:
    torch, models = pytest.importorskip("torch"), pytest.importorskip("torchvision.models")
    model = drawn(network, classes=1000)
    params, state = flatten(model.params), flatten(model.state)
    arrays, theirs = to_layout(params, state, "torch"), getattr(models, network.name)().eval()
    shapes = {key: tuple(x.shape) for key, x in theirs.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert shapes == {key: x.shape for key, x in arrays.items()}
    theirs.load_state_dict({key: torch.from_numpy(x.copy()) for key, x in arrays.items()}, strict=False)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(logits(model, params, state), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_smaller_images_do_and_tiny_ones_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'resnet18' takes inputs of shape .* not \[7, 32, 3\]"):
        ResNet18().abstract((7, 32, 3), 10)
    model = drawn(Short18())
    assert model.apply is not None
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    assert jax.eval_shape(model.apply, model.params, model.state, images)[0].shape == (2, 5)
