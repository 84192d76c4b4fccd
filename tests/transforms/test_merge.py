"""Merging of channels: equal ones without a change, others as means of what they compute, and better than removal."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from hypothesis import given
from hypothesis import strategies as st

import quantree as qt
from quantree.encodings import Compressed
from quantree.errors import ConfigError, DataError, LeafError
from quantree.graph import couple
from quantree.linen import init
from quantree.model import Model, Tree, flatten, unflatten
from quantree.recovery import evaluate
from quantree.stage import Context
from quantree.task import Classification, Data
from quantree.transforms.same_function import change
from tests.nets import digits

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(40, 6, 6, 2)).astype(np.float32)
VECTORS = RNG.normal(size=(40, 7)).astype(np.float32)


class Images(nnx.Module):
    """A bias before a norm, a depthwise kernel with its norm, and a flattened image."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(2, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.mix = nnx.Conv(6, 8, (1, 1), use_bias=False, rngs=rngs)
        self.before = nnx.BatchNorm(8, rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.after = nnx.BatchNorm(8, rngs=rngs)
        self.hidden = nnx.Linear(4 * 8, 10, rngs=rngs)
        self.out = nnx.Linear(10, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.conv(x)))
        x = nnx.relu(self.after(self.depthwise(nnx.relu(self.before(self.mix(x))))))
        x = nnx.max_pool(x, (3, 3), strides=(3, 3))
        return self.out(nnx.gelu(self.hidden(x.reshape(len(x), -1))))


class Normed(linen.Module):
    """A norm without scale behind one kernel and a whole one behind the other; a stream whose width is tied."""

    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(linen.BatchNorm, use_running_average=not train)
        x = linen.relu(norm(use_scale=False, name="norm1")(linen.Dense(6, name="first")(x)))
        x = norm(name="norm2")(linen.Dense(8, use_bias=False, name="second")(x))
        x = linen.LayerNorm()(linen.Dense(5, name="third")(x))
        return linen.Dense(3, name="last")(x)


def straight(params: Tree, state: Tree, inputs: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Tree]:
    """7-8-3."""
    hidden = jax.nn.relu(inputs @ params["a"]["kernel"] + params["a"]["bias"][None])
    return hidden @ params["b"]["kernel"] + params["b"]["bias"][None], state


def drawn(shapes: Any) -> Tree:
    """Arrays of these shapes of which no two are alike; variances are positive."""
    rng = np.random.default_rng(1)

    def draw(path: str, leaf: Any) -> jax.Array:
        values = rng.uniform(0.5, 2, leaf.shape) if path.endswith("var") else rng.normal(size=leaf.shape)
        return jnp.asarray(values, jnp.float32)

    return unflatten({path: draw(path, leaf) for path, leaf in flatten(shapes).items()})


@functools.cache
def network(name: str) -> tuple[Model, Data]:
    if name == "images":
        model, inputs = qt.from_nnx(Images(nnx.Rngs(0))), IMAGES
    elif name == "normed":
        model, inputs = qt.from_linen(Normed(), init(Normed(), jax.random.key(0), VECTORS[:2])), VECTORS
    else:
        shapes = {"a": {"kernel": (7, 8), "bias": (8,)}, "b": {"kernel": (8, 3), "bias": (3,)}}
        zeros = {layer: {leaf: np.zeros(shape) for leaf, shape in each.items()} for layer, each in shapes.items()}
        model, inputs = qt.from_params(drawn(zeros), apply=straight), VECTORS
    labels = np.arange(len(inputs), dtype=np.int32) % 3
    return dataclasses.replace(model, params=drawn(model.params), state=drawn(model.state)), Data.from_arrays(
        (inputs, labels), (inputs, labels), Classification()
    )


def repeated(model: Model, data: Data, twins: dict[str, np.ndarray]) -> Model:
    """The model in which channel i of a group is a copy of channel `twins[group][i]`."""
    assert model.apply is not None
    graph = couple(model.apply, model.params, model.state, next(iter(data.validation(2)))[0])
    trees = flatten(model.params), flatten(model.state)
    for group in graph.shrinkable:
        for member in group.members:
            if member.role != "consumer" and group.name in twins:
                rows = np.moveaxis(np.array(trees[member.state][member.path]), member.axis, 0)
                rows[member.places] = rows[member.places[twins[group.name]]]
                trees[member.state][member.path] = jnp.asarray(np.moveaxis(rows, 0, member.axis))
    return dataclasses.replace(model, params=unflatten(trees[0]), state=unflatten(trees[1]))


def merged(model: Model, data: Data | None, key: int = 0, **settings: Any) -> Compressed:
    return qt.Recipe.from_config([{"kind": "merge", **settings}]).run(model, key=jax.random.key(key), data=data)


def widths(compressed: Compressed) -> dict[str, int]:
    """Kernel -> outputs."""
    return {path: leaf.shape[-1] for path, leaf in compressed.leaves.items() if path.endswith("kernel")}


PAIRS = {
    "images": {name: np.arange(size) // 2 * 2 for name, size in (("conv", 6), ("mix", 8), ("hidden", 10))},
    "normed": {name: np.arange(size) // 2 * 2 for name, size in (("first", 6), ("second", 8))},
}
HALVES = {
    "images": {"conv/kernel": 3, "mix/kernel": 4, "depthwise/kernel": 4, "hidden/kernel": 5, "out/kernel": 3},
    "normed": {"first/kernel": 3, "second/kernel": 4, "third/kernel": 5, "last/kernel": 3},
}


@pytest.mark.parametrize(
    "how",
    [
        {"keep": 0.5},
        {"keep": 0.5, "outgoing": "sum"},
        {"distance": 1e-3, "features": "weights"},
        {"distance": 1e-3, "linkage": "average", "outgoing": "sum", "features": "weights"},
        {"keep": 0.5, "outgoing": "least_squares", "ridge": 1e-9},
    ],
)
@pytest.mark.parametrize("name", [pytest.param("images", marks=pytest.mark.slow), "normed"])
def test_equal_channels_become_one_and_the_function_stays(name: str, how: dict[str, Any]) -> None:
    model, data = network(name)
    pairs = repeated(model, data, PAIRS[name])
    after = merged(pairs, data, **how)
    assert widths(after) == HALVES[name]
    moved = change(Compressed.from_model(pairs), after, Context(model, jax.random.key(0), data))
    assert moved is not None and moved.found < 2e-4, moved


@given(st.lists(st.integers(0, 7), min_size=8, max_size=8))
def test_clusters_of_any_sizes_merge_without_a_change_if_they_are_equal(twins: list[int]) -> None:
    model, data = network("straight")
    model = repeated(model, data, {"a": np.asarray(twins)})
    after = merged(model, data, distance=1e-4)
    assert widths(after) == {"a/kernel": len(set(twins)), "b/kernel": 3}
    moved = change(Compressed.from_model(model), after, Context(model, jax.random.key(0), data))
    assert moved is not None and moved.small, moved


@pytest.mark.slow
def test_units_that_a_norm_makes_equal_are_equal() -> None:
    """A kernel of another size and sign, behind which the norm has other numbers."""
    model, data = network("images")
    model = repeated(model, data, PAIRS["images"])
    params, state = (
        {path: np.array(leaf) for path, leaf in flatten(tree).items()} for tree in (model.params, model.state)
    )
    odd = slice(1, None, 2)
    for leaf in (params["conv/kernel"][..., odd], params["conv/bias"][odd], state["norm/mean"][odd]):
        leaf *= -3
    params["norm/scale"][odd] *= -1
    state["norm/var"][odd] = 9 * (state["norm/var"][odd] + 1e-5) - 1e-5
    model = dataclasses.replace(model, params=unflatten(params), state=unflatten(state))
    for features in ("activations", "weights"):
        after = merged(model, data, match="conv", distance=1e-3, features=features)
        assert widths(after)["conv/kernel"] <= 3  # one that no example wakes goes too
        moved = change(Compressed.from_model(model), after, Context(model, jax.random.key(0), data))
        assert moved is not None and moved.small, moved


def test_a_merged_channel_is_the_mean_of_what_norms_make_of_its_channels() -> None:
    """Behind the second norm nothing but a sum follows, so all can be worked out from its outputs."""
    model, data = network("normed")
    assert model.apply is not None
    trees = flatten(model.params) | flatten(model.state["batch_stats"])
    old = {path: np.asarray(leaf) for path, leaf in trees.items()}

    def normed(x: np.ndarray, layer: str, norm: str) -> np.ndarray:
        x = x @ old[f"{layer}/kernel"] + old.get(f"{layer}/bias", 0) - old[f"{norm}/mean"]
        return x / np.sqrt(old[f"{norm}/var"] + 1e-5) * old.get(f"{norm}/scale", 1) + old[f"{norm}/bias"]

    hidden = normed(np.maximum(normed(VECTORS, "first", "norm1"), 0), "second", "norm2")
    codes = np.asarray(qt.clustering.agglomerate(hidden.T, k=3).codes)
    clusters = [codes == i for i in range(3)]
    after = merged(model, data, match="second", keep=3 / 8, outgoing="sum", examples=len(VECTORS))
    new = flatten(after.decode())
    sums = [old["third/kernel"][cluster].sum(axis=0) for cluster in clusters]
    np.testing.assert_allclose(new["third/kernel"], sums, rtol=1e-5, atol=1e-6)
    graph = couple(model.apply, after.decode(), unflatten(after.state), VECTORS[:2])
    (group,) = (group for group in graph.groups if group.name == "second")
    seen = graph.activations(after.decode(), unflatten(after.state), VECTORS, group)
    means = np.stack([hidden[:, cluster].mean(axis=1) for cluster in clusters], axis=1)
    np.testing.assert_allclose(seen, means, rtol=1e-4, atol=1e-4)
    # The new scale is what is left once statistics are taken anew: the mean of the scales, up to their signs.
    scales = [np.abs(old["norm2/scale"][cluster]).mean() for cluster in clusters]
    np.testing.assert_allclose(np.abs(new["norm2/scale"]), scales, rtol=1e-5)


# --- How many stay --------------------------------------------------------------------------------------------------


def count(compressed: Compressed) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in compressed.leaves.values())


@pytest.mark.slow
def test_shares_go_by_pattern() -> None:
    model, data = network("images")
    after = merged(model, data, keep={"conv": 0.5, "h*": 0.01})
    assert widths(after) == widths(Compressed.from_model(model)) | {"conv/kernel": 3, "hidden/kernel": 1}


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.99, 0.6, 0.2])
def test_a_budget_of_parameters_is_used_up(share: float) -> None:
    model, data = network("images")
    total, left = count(Compressed.from_model(model)), count(merged(model, data, parameters=share))
    largest = 32 * 10 / 8 + 2 * 9 + 6 + 4  # with one channel of `mix` more go than with any other
    assert share * total - largest < left <= share * total


@pytest.mark.slow
def test_a_budget_that_can_not_be_kept_is_told() -> None:
    model, data = network("images")
    with pytest.raises(ConfigError, match=r"with one channel left in each group the model still has 0\.0.* than 0\.05"):
        merged(model, data, parameters=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [{"keep": 0.5, "match": "conv"}, {"distance": 1.0}, {"parameters": 0.5}])
def test_drawn_clusters_are_as_many_and_others(rule: dict[str, Any]) -> None:
    model, data = network("images")
    plain, by_chance = (merged(model, data, linkage=linkage, **rule) for linkage in ("ward", "random"))
    assert widths(plain)["conv/kernel"] == widths(by_chance)["conv/kernel"] < 6
    kernels = [np.asarray(each.decode()["conv"]["kernel"]) for each in (plain, by_chance)]
    assert not np.allclose(kernels[0], kernels[1])


# --- Better than removal --------------------------------------------------------------------------------------------


class Wide(nnx.Module):
    """64-48-24-10."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Linear(*sizes, rngs=rngs) for sizes in ((64, 48), (48, 24), (24, 10))])

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layers[2](nnx.relu(self.layers[1](nnx.relu(self.layers[0](x)))))


@pytest.mark.slow
def test_merging_loses_less_than_removal_and_than_drawn_clusters() -> None:
    data = digits()
    model = qt.from_nnx(Wide(nnx.Rngs(0)))
    train = qt.Recipe.from_config([{"kind": "finetune", "epochs": 30, "batch_size": 64, "learning_rate": 3e-3}])
    trained = train.run(model, key=jax.random.key(0), data=data)
    model = dataclasses.replace(model, params=trained.decode())

    def accuracy(*stages: dict[str, Any]) -> float:
        after = qt.Recipe.from_config(stages).run(model, key=jax.random.key(0), data=data)
        return evaluate(after, model, data).metric

    merge, remove = {"kind": "merge", "keep": 0.35}, {"kind": "remove", "keep": 0.35}
    paper = merge | {"outgoing": "sum"}
    removed, by_chance = accuracy(remove), accuracy(merge | {"linkage": "random"})
    assert accuracy(merge) > max(removed, by_chance) + 0.1
    assert accuracy(paper) > max(removed, accuracy(paper | {"linkage": "random"})) + 0.1
    fitted = accuracy(merge | {"outgoing": "least_squares"})
    assert fitted > max(accuracy(merge), accuracy(remove | {"compensate": "least_squares"}) - 0.02)
    half, tune = {"kind": "merge", "keep": 0.6}, {"kind": "finetune", "epochs": 3}
    assert accuracy(half, tune, half, tune) > accuracy(merge)


def test_units_that_differ_by_a_factor_are_one() -> None:
    model, data = network("straight")
    model = repeated(model, data, {"a": np.arange(8) // 2 * 2})
    factors = np.where(np.arange(8) % 2, 5.0, 1.0).astype(np.float32)
    params = {
        **model.params,
        "a": {name: jnp.asarray(np.asarray(leaf) * factors) for name, leaf in model.params["a"].items()},
    }
    model = dataclasses.replace(model, params=params)
    for features in ("activations", "weights"):
        after = merged(model, data, distance=1e-3, features=features)
        assert widths(after)["a/kernel"] == 4
        moved = change(Compressed.from_model(model), after, Context(model, jax.random.key(0), data))
        assert moved is not None and moved.small, moved


def test_a_channel_that_nothing_looks_at_costs_nothing() -> None:
    model, data = network("straight")
    after = model.params["b"]["kernel"].at[2].set(0)
    model = dataclasses.replace(model, params={**model.params, "b": {**model.params["b"], "kernel": after}})
    after = merged(model, data, keep=7 / 8)
    moved = change(Compressed.from_model(model), after, Context(model, jax.random.key(0), data))
    assert moved is not None and moved.small, moved


# --- Later stages, and what is refused ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is larger than the dense model")
def test_later_stages_take_the_result_and_earlier_masks_move_along(tmp_path: Path) -> None:
    model, data = network("images")
    stages = [
        {"kind": "prune", "density": 0.5, "match": "*/kernel"},
        {"kind": "merge", "keep": 0.5},
        {"kind": "prune", "density": 0.5, "match": "*/kernel"},
        {"kind": "kmeans", "k": 4, "match": "*/kernel"},
    ]
    after = qt.Recipe.from_config(stages).run(model, key=jax.random.key(0), data=data)
    assert widths(after) == HALVES["images"]
    qt.save(tmp_path / "m.qtree", after)
    module = qt.load(tmp_path / "m.qtree").to_nnx(Images(nnx.Rngs(0)))
    module.eval()
    assert model.apply is not None
    wanted = model.apply(after.decode(), unflatten(after.state), IMAGES)[0]
    np.testing.assert_allclose(module(IMAGES), wanted, rtol=1e-5, atol=1e-5)  # pyright: ignore[reportCallIssue]


def test_what_can_not_be_merged_is_refused_with_the_reason() -> None:
    model, data = network("normed")
    for match, told in (
        ("third", "third: its channels can't be merged: .*sum over these channels"),
        ("last", "last.*: its channels can't be merged: an output of the network|matches no group"),
        ("secund", "pattern 'secund' matches no group; did you mean 'second'"),
    ):
        with pytest.raises(ConfigError, match=told):
            merged(model, data, match=match, keep=0.5)
    with pytest.raises(DataError, match="give `data` to Recipe"):
        merged(model, None, keep=0.5)
    with pytest.raises(LeafError, match="put this stage before the one that made it so"):
        stages = [{"kind": "kmeans", "k": 4}, {"kind": "merge", "keep": 0.5}]
        qt.Recipe.from_config(stages).run(model, key=jax.random.key(0), data=data)


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        ({"kind": "merge", "match": "secund", "keep": 0.5}, "pattern 'secund' matches no group; did you mean 'second'"),
        ({"kind": "merge", "keep": {"third": 0.5}}, "third: its channels can't be merged"),
        ({"kind": "remove", "match": "third", "keep": 0.5}, "third: its channels can't be removed"),
        ({"kind": "permute", "match": "secund", "d": 2}, "pattern 'secund' matches no group; did you mean 'second'"),
        ({"kind": "permute", "match": "last", "d": 2}, "last.*: there is no better order of its channels: an output"),
    ],
)
def test_groups_are_looked_up_before_anything_is_trained(stage: Any, told: str) -> None:
    model, data = network("normed")
    recipe = qt.Recipe.from_config([{"kind": "cast"}, stage])
    ran = []
    with pytest.raises(ConfigError, match=rf"stage 1 \({stage['kind']}\): .*{told}"):
        recipe.run(model, key=jax.random.key(0), data=data, on_stage=lambda *each: ran.append(each))
    assert not ran


@pytest.mark.parametrize("features", ["activations", "weights"])
def test_a_number_that_is_not_finite_is_told(features: str) -> None:
    model, data = network("straight")
    params = {**model.params, "a": {**model.params["a"], "bias": model.params["a"]["bias"].at[3].set(jnp.nan)}}
    with pytest.raises(LeafError, match=r"a.*NaN or infinite"):
        merged(dataclasses.replace(model, params=params), data, features=features, keep=0.5)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "give one of keep, distance and parameters"),
        ({"keep": 0.5, "distance": 1.0}, "give one of keep, distance and parameters"),
        ({"keep": {"conv": 0.5}, "match": "conv"}, "the patterns of `keep` say which groups to take"),
        ({"keep": 0.0}, "greater than 0"),
        ({"keep": 0.5, "linkage": "single"}, "'ward', 'average' or 'random'"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        qt.Recipe.from_config([{"kind": "merge", **settings}])
