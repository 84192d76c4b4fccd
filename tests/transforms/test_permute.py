"""Another order of the channels: the same network, coded with less loss."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import quantree as qt
from quantree.encodings import Compressed, Pruned, Raw, SubVectors
from quantree.errors import ConfigError, DataError, LeafError, QuantreeError
from quantree.graph import Graph, Group, couple
from quantree.model import Model, flatten, unflatten
from quantree.recipe import Recipe
from quantree.task import Classification, Data
from quantree.transforms import permute
from tests.nets import digits, mlp

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(16, 6, 6, 3)).astype(np.float32)
DATA = Data.from_arrays((IMAGES, np.zeros(16, np.int32)), (IMAGES, np.zeros(16, np.int32)), Classification())
STEPS = 20  # enough for so few channels


class Net(nnx.Module):
    """A kernel of 3 x 3 and one of 1 x 1 with norms, a shortcut, and a flattened image of 2 x 2."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.narrow = nnx.Conv(8, 8, (1, 1), use_bias=False, rngs=rngs)
        self.inner = nnx.BatchNorm(8, rngs=rngs)
        self.wide = nnx.Conv(8, 8, (3, 3), rngs=rngs)
        self.out = nnx.Linear(2 * 2 * 8, 5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.first(x)))
        x = x + self.wide(nnx.relu(self.inner(self.narrow(x))))
        return self.out(nnx.max_pool(x, (3, 3), strides=(3, 3)).reshape(len(x), -1))


def channels(shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Weights that follow one of two patterns along an axis."""
    weights = RNG.normal(size=shape)
    size = shape[axis]
    patterns = np.moveaxis(RNG.normal(size=shape), axis, 0)[:2]
    return (0.3 * weights + np.moveaxis(patterns[np.arange(size) * 7 // 3 % 2], 0, axis)).astype(np.float32)


def drawn(model: Model) -> Model:
    """Channels that are worth ordering; no two numbers of the network are alike."""

    def draw(path: str, leaf: jax.Array) -> jax.Array:
        if leaf.ndim > 1:
            return jnp.asarray(channels(leaf.shape, leaf.ndim - 2))
        return jnp.asarray(RNG.uniform(0.5, 1.5, leaf.shape), leaf.dtype)

    params, state = (
        unflatten({path: draw(path, leaf) for path, leaf in flatten(tree).items()})
        for tree in (model.params, model.state)
    )
    return dataclasses.replace(model, params=params, state=state)


NET = drawn(qt.from_nnx(Net(nnx.Rngs(0))))
D = {"*narrow/kernel": 4, "out/kernel": 4, "*/kernel": 9}


def run(model: Model, *stages: Any, data: Data | None = DATA) -> Compressed:
    return Recipe.from_config(list(stages)).run(model, key=KEY, data=data)


def permute_with(**settings: Any) -> dict[str, Any]:
    return {"kind": "permute", "d": D, "steps": STEPS, **settings}


def outputs(model: Model, compressed: Compressed, inputs: np.ndarray) -> np.ndarray:
    assert model.apply is not None
    return np.asarray(model.apply(compressed.decode(), unflatten(compressed.state), inputs)[0])


def log_det(compressed: Compressed, path: str, blocking: SubVectors) -> float:
    """By the blocking that quantizes, and NumPy."""
    blocks = np.asarray(blocking.split(compressed.leaves[path].decode({})))[0]
    return float(np.linalg.slogdet(np.cov(blocks.T))[1])


@pytest.fixture(scope="module")
def permuted() -> Compressed:
    return run(NET, permute_with())


def test_it_is_the_same_network_in_another_order(permuted: Compressed) -> None:
    before = Compressed.from_model(NET)
    np.testing.assert_allclose(outputs(NET, permuted, IMAGES), outputs(NET, before, IMAGES), rtol=2e-4, atol=2e-4)
    for path, leaf in before.leaves.items():
        np.testing.assert_array_equal(np.sort(leaf.decode({}), None), np.sort(permuted.leaves[path].decode({}), None))


def test_what_is_cut_along_channels_has_a_lower_determinant(permuted: Compressed) -> None:
    before = Compressed.from_model(NET)
    for path in ("narrow/kernel", "out/kernel"):
        blocking = SubVectors(d=4)
        assert log_det(permuted, path, blocking) < log_det(before, path, blocking) - 0.5
    # No leaf that is cut along these channels depends on their order.
    for path in ("inner/scale", "inner/bias"):
        np.testing.assert_array_equal(permuted.leaves[path].decode({}), before.leaves[path].decode({}))
    np.testing.assert_array_equal(permuted.state["inner/mean"], before.state["inner/mean"])
    assert (permuted.state["norm/mean"] != before.state["norm/mean"]).any()


@pytest.mark.slow
def test_along_outputs() -> None:
    params = {
        "fc1": {"kernel": channels((9, 12), 1), "bias": RNG.normal(size=12).astype(np.float32)},
        "fc2": {"kernel": RNG.normal(size=(12, 3)).astype(np.float32)},
    }

    def apply(params: Any, state: Any, inputs: Any, *, train: bool = False, key: Any = None) -> Any:
        del train, key
        hidden = jax.nn.relu(inputs @ params["fc1"]["kernel"] + params["fc1"]["bias"][None])
        return hidden @ params["fc2"]["kernel"], state

    model = qt.from_params(params, apply=apply)
    inputs = RNG.normal(size=(20, 9)).astype(np.float32)
    split = inputs, np.zeros(20, np.int32)
    data = Data.from_arrays(split, split, Classification())
    before, after = Compressed.from_model(model), run(model, permute_with(d=4, along="outputs"), data=data)
    blocking = SubVectors(d=4, along="outputs")
    kernel = jnp.asarray(params["fc1"]["kernel"])
    orders = [before.replace({"fc1/kernel": Raw.of(kernel[:, RNG.permutation(12)])}) for _ in range(300)]
    assert log_det(after, "fc1/kernel", blocking) < min(log_det(net, "fc1/kernel", blocking) for net in orders)
    np.testing.assert_allclose(outputs(model, after, inputs), outputs(model, before, inputs), rtol=1e-4, atol=1e-4)


def test_kernel_slices_have_the_length_that_the_blocking_gives_them() -> None:
    # d = 4 and one slice of 3 x 3 are what D says, pattern by pattern.
    by_slices, by_pattern = run(NET, permute_with(d=4, slices=1)), run(NET, permute_with())
    for path, leaf in by_pattern.leaves.items():
        np.testing.assert_array_equal(leaf.decode({}), by_slices.leaves[path].decode({}))


def test_zeros_move_along() -> None:
    pruned = run(NET, {"kind": "prune", "density": 0.6})
    after = run(NET, {"kind": "prune", "density": 0.6}, permute_with())
    leaf, old = after.leaves["narrow/kernel"], pruned.leaves["narrow/kernel"]
    assert isinstance(leaf, Pruned) and isinstance(old, Pruned)
    assert (leaf.mask != old.mask).any()
    np.testing.assert_array_equal(np.sort(leaf.mask.sum(axis=(0, 1, 3))), np.sort(old.mask.sum(axis=(0, 1, 3))))
    np.testing.assert_array_equal(leaf.mask, leaf.value != 0)
    np.testing.assert_allclose(outputs(NET, after, IMAGES), outputs(NET, pruned, IMAGES), rtol=2e-4, atol=2e-4)


@pytest.mark.slow
def test_the_error_of_kmeans_is_what_falls_if_it_is_asked_for() -> None:
    model, path = drawn(mlp()), "fc2/kernel"
    quantize = {"kind": "quantize", "match": path, "learner": {"kind": "kmeans", "k": 8}}
    quantize["blocking"] = {"kind": "sub_vectors", "d": 4}
    lost = []
    for stages in ([{"kind": "prune", "density": 1.0}], [permute_with(d=4, objective="distortion", k=8)]):
        whole, coded = (run(model, *each, data=digits()) for each in (stages, [*stages, quantize]))
        one, other = (np.asarray(flatten(net.decode())[path]) for net in (whole, coded))
        lost.append(float(np.sum((one - other) ** 2)))
    assert lost[1] < 0.95 * lost[0]


def test_what_can_not_be_done() -> None:
    with pytest.raises(ConfigError, match=r"stage 0 \(permute\): pattern 'x' matches no leaf"):
        run(NET, permute_with(d={"x": 4}))
    with pytest.raises(ConfigError, match="pattern 'second' matches no group"):
        run(NET, permute_with(match="second"))
    with pytest.raises(
        ConfigError, match=r"narrow: .* wide/kernel has sub-vectors of 9 weights, and a channel has 9 side by side"
    ):
        run(NET, permute_with(match="narrow"))
    with pytest.raises(ConfigError, match=r"no group of channels whose order matters: .* no two channels"):
        run(NET, permute_with(d={"*first/kernel": 9, "*wide/kernel": 9, "*narrow/kernel": 1}))
    with pytest.raises(LeafError, match="wide/kernel: sub-vectors of 4 weights cut the 9 weights of a channel in two"):
        run(NET, permute_with(d=4))
    with pytest.raises(LeafError, match="narrow/kernel: it is coded already"):
        run(NET, {"kind": "kmeans", "k": 4, "match": "narrow/kernel"}, permute_with())
    with pytest.raises(DataError, match="'permute' needs the shape of an input"):
        run(NET, permute_with(), data=None)
    with pytest.raises(ConfigError, match="`distortion` needs k"):
        run(NET, permute_with(objective="distortion"))
    with pytest.raises(ConfigError, match="only `distortion` has k"):
        run(NET, permute_with(k=4))
    with pytest.raises(ConfigError, match="kernel slices are side by side along the inputs"):
        run(NET, permute_with(slices=1, along="outputs"))


def test_a_change_of_the_function_names_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(compressed: Compressed, context: Any, stage: str) -> Graph:
        """A graph that has forgotten who makes the channels."""
        assert NET.apply is not None
        graph = couple(NET.apply, NET.params, NET.state, IMAGES)
        cut = [Group(g.name, tuple(m for m in g.members if m.role == "consumer"), g.fixed) for g in graph.groups]
        groups = tuple(new if new.name == "first" else old for new, old in zip(cut, graph.groups, strict=True))
        return dataclasses.replace(graph, groups=groups)

    monkeypatch.setattr(permute, "coupled", wrong)
    with pytest.raises(QuantreeError, match="first: the network in another order is another one: an output changes by"):
        run(NET, permute_with())
