"""Removal of channels: what is chosen, what stays the same, and how well the next layers make up for it."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import quantree as qt
from quantree.encodings import Compressed, Pruned, Raw
from quantree.errors import ConfigError, DataError, LeafError
from quantree.graph import Graph, couple, named
from quantree.linen import init
from quantree.model import Model, Tree, flatten, unflatten
from quantree.task import Classification, Data
from quantree.transforms.scores import score

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(48, 6, 6, 2)).astype(np.float32)
VECTORS = RNG.normal(size=(48, 7)).astype(np.float32)


def singles(values: list[float]) -> np.ndarray:
    return np.asarray(values, np.float32)


class Forked(nnx.Module):
    """Two kernels side by side, a depthwise one, a norm, and a flattened image: all that can make an index wrong."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.one = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.other = nnx.Conv(2, 6, (1, 1), rngs=rngs)
        self.depthwise = nnx.Conv(10, 10, (3, 3), feature_group_count=10, rngs=rngs)
        self.mix = nnx.Conv(10, 8, (1, 1), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.hidden = nnx.Linear(2 * 2 * 8, 9, rngs=rngs)
        self.out = nnx.Linear(9, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(jnp.concatenate([self.one(x), self.other(x)], axis=-1))
        x = nnx.relu(self.norm(self.mix(self.depthwise(x))))
        x = nnx.max_pool(x, (3, 3), strides=(3, 3))
        return self.out(nnx.relu(self.hidden(x.reshape(len(x), -1))))


class Normed(linen.Module):
    """Kernels of one pixel without biases, a norm behind each, and a shortcut around the last."""

    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for width in (6, 4, 5):
            x = linen.Conv(width, (1, 1), use_bias=False)(x)
            x = linen.relu(linen.BatchNorm(use_running_average=not train)(x))
        x = x + linen.Conv(5, (3, 3))(x)
        return linen.Dense(3)(x.mean(axis=(1, 2)))


def straight(params: Tree, state: Tree, inputs: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Tree]:
    """7-6-5-3."""
    x = inputs
    for name in ("a", "b", "c"):
        x = x @ params[name]["kernel"] + params[name]["bias"][None]
        x = x if name == "c" else jax.nn.relu(x)
    return x, state


def drawn(model: Model) -> Model:
    """The model with weights and statistics of which no two are alike."""
    rng = np.random.default_rng(1)

    def draw(path: str, leaf: Any) -> jax.Array:
        positive = path.rpartition("/")[2] in {"scale", "var"}
        return jnp.asarray(rng.uniform(0.5, 2, leaf.shape) if positive else rng.normal(size=leaf.shape), leaf.dtype)

    trees = [{path: draw(path, leaf) for path, leaf in flatten(each).items()} for each in (model.params, model.state)]
    return Model(unflatten(trees[0]), unflatten(trees[1]), model.apply)


@functools.cache
def network(name: str) -> tuple[Model, Data]:
    if name == "forked":
        model, inputs = qt.from_nnx(Forked(nnx.Rngs(0))), IMAGES
    elif name == "normed":
        variables = init(Normed(), jax.random.key(0), IMAGES[:2])
        model, inputs = qt.from_linen(Normed(), variables), IMAGES
    else:
        widths = {"a": (7, 6), "b": (6, 5), "c": (5, 3)}
        params = {
            name: {"kernel": np.zeros(w, np.float32), "bias": np.zeros(w[1], np.float32)} for name, w in widths.items()
        }
        model, inputs = qt.from_params(params, {}, straight), VECTORS
    split = inputs, np.arange(48, dtype=np.int32) % 3
    return drawn(model), Data.from_arrays(split, split, Classification())


def with_leaves(model: Model, **leaves: Any) -> Model:
    """Names have `__` for a slash."""
    params = flatten(model.params) | {name.replace("__", "/"): jnp.asarray(leaf) for name, leaf in leaves.items()}
    return Model(unflatten(params), model.state, model.apply)


def removed(model: Model, data: Data, *before: Any, **settings: Any) -> Compressed:
    recipe = qt.Recipe.from_config([*before, {"kind": "remove", **settings}])
    return recipe.run(model, key=jax.random.key(0), data=data)


def outputs(model: Model, net: Any, inputs: Any) -> np.ndarray:
    params, state = (net.decode(), unflatten(net.state)) if isinstance(net, Compressed) else (net.params, net.state)
    assert model.apply is not None
    return np.asarray(jax.jit(model.apply)(params, state, inputs)[0])


def graph_of(model: Model, data: Data) -> Graph:
    assert model.apply is not None
    inputs, _ = next(iter(data.validation(2)))
    return couple(model.apply, model.params, model.state, inputs)


def widths(compressed: Compressed, *names: str) -> list[int]:
    return [compressed.leaves[f"{name}/kernel"].shape[-1] for name in names]


# --- What is removed ------------------------------------------------------------------------------------------------


def naive(model: Model, name: str, kind: str, norm: int) -> np.ndarray:
    """Scores of the outputs of one kernel, in loops."""
    kernel = np.asarray(flatten(model.params)[f"{name}/kernel"], np.float64)
    filters = [kernel[..., i].ravel() for i in range(kernel.shape[-1])]
    if kind == "magnitude":
        return np.asarray([np.linalg.norm(each, norm) for each in filters])
    return np.asarray([sum(np.linalg.norm(each - other, norm) for other in filters) for each in filters])


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("kind", ["magnitude", "geometric_median"])
def test_scores_are_those_of_the_definitions_and_the_largest_stay(kind: Any, norm: int) -> None:
    model, data = network("forked")
    [group] = named(["mix"], graph_of(model, data).groups)
    scores = score(Compressed.from_model(model), group, kind, "l1" if norm == 1 else "l2")
    np.testing.assert_allclose(scores, naive(model, "mix", kind, norm))
    after = removed(model, data, match="mix", keep=0.5, score=kind, norm=f"l{norm}").decode()
    best = np.sort(np.argsort(naive(model, "mix", kind, norm))[-4:])
    np.testing.assert_array_equal(after["mix"]["kernel"], model.params["mix"]["kernel"][..., best])
    for tree, new, leaf in ((model.params, after, "scale"), (model.params, after, "bias")):
        np.testing.assert_array_equal(new["norm"][leaf], tree["norm"][leaf][best])
    rows = np.asarray(model.params["hidden"]["kernel"]).reshape(4, 8, 9)[:, best].reshape(16, 9)
    np.testing.assert_array_equal(after["hidden"]["kernel"], rows)


def test_kernels_that_make_the_same_channels_are_scored_together() -> None:
    model, data = network("normed")
    [stream] = named(["Conv_2"], graph_of(model, data).groups)
    scores = score(Compressed.from_model(model), stream, "magnitude", "l2")
    parts = [naive(model, name, "magnitude", 2) for name in ("Conv_2", "Conv_3")]
    np.testing.assert_allclose(scores, np.hypot(*parts))


def test_norm_scale_is_the_size_of_the_scale_and_some_groups_have_none() -> None:
    model, data = network("normed")
    scale = singles([0.5, -3, 0.1, 2, -0.2, 1])
    model = with_leaves(model, BatchNorm_0__scale=scale)
    after = removed(model, data, match="Conv_0", keep=0.5, score="norm_scale")
    np.testing.assert_array_equal(after.decode()["BatchNorm_0"]["scale"], scale[[1, 3, 5]])
    straight, vectors = network("straight")
    with pytest.raises(ConfigError, match="a: no norm behind it has a `scale`"):
        removed(straight, vectors, keep=0.5, score="norm_scale")


def test_thresholds_are_relative_to_the_largest_and_one_channel_stays() -> None:
    model, data = network("straight")
    sizes = singles([1, 0.009, 0.011, 0, 0.5, 0.01])
    model = with_leaves(model, a__kernel=np.ones((7, 1), np.float32) * sizes, b__kernel=np.zeros((6, 5), np.float32))
    after = removed(model, data, threshold=0.0100001)
    assert widths(after, "a", "b", "c") == [3, 1, 3]
    np.testing.assert_array_equal(after.decode()["a"]["kernel"], model.params["a"]["kernel"][:, [0, 2, 4]])
    assert widths(removed(model, data, match="a", threshold=0.0), "a", "b") == [5, 5]
    assert widths(removed(model, data, keep=0.01), "a", "b") == [1, 1]


def test_shares_by_pattern_are_those_of_the_first_that_matches_and_other_groups_stay() -> None:
    model, data = network("forked")
    after = removed(model, data, keep={"one": 0.5, "o*er": 0.34, "hid*": 1.0, "hidden": 0.1})
    assert widths(after, "one", "other", "depthwise", "mix", "hidden", "out") == [2, 2, 4, 8, 9, 3]
    assert set(after.leaves) == set(flatten(model.params)) and after.dense_bytes == model.dense_bytes


@pytest.mark.parametrize("share", [0.7, 0.3])
def test_a_budget_of_parameters_takes_the_least_of_all_groups(share: float) -> None:
    model, data = network("straight")
    after = removed(model, data, parameters=share)

    def count(a: int, b: int) -> int:
        return 7 * a + a + a * b + b + b * 3 + 3

    scores = [naive(model, name, "magnitude", 2) for name in ("a", "b")]
    ranked = sorted((n / np.linalg.norm(each), k) for k, each in enumerate(scores) for n in each)
    left = [6, 5]
    for _, k in ranked:
        if count(*left) <= share * count(6, 5):
            break
        left[k] -= 1
    assert widths(after, "a", "b") == left
    assert sum(np.size(leaf) for leaf in flatten(after.decode()).values()) == count(*left) <= share * count(6, 5)
    with pytest.raises(ConfigError, match=r"still has 0\.1584 of its parameters, more than 0\.1"):
        removed(model, data, parameters=0.1)


# --- What stays the same --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["forked", "normed", "straight"])
def test_what_is_left_computes_what_the_whole_does_without_the_others(name: str) -> None:
    model, data = network(name)
    after = removed(model, data, keep=0.5)
    blind, graph = {path: np.array(leaf) for path, leaf in flatten(model.params).items()}, graph_of(model, data)
    assert len(graph.shrinkable) == {"forked": 4, "normed": 3, "straight": 2}[name]
    before = Compressed.from_model(model)
    for group in graph.shrinkable:
        # The rows of channels that go are zero for those behind, whose scores are taken only then.
        now = before.replace({path: Raw.of(jnp.asarray(leaf)) for path, leaf in blind.items()})
        count = max(1, round(0.5 * group.size))
        gone = np.argsort(-score(now, group, "magnitude", "l2"), kind="stable")[count:]
        for member in group.having("consumer"):
            np.moveaxis(blind[member.path], member.axis, 0)[member.places[gone]] = 0
    inputs = IMAGES if name != "straight" else VECTORS
    wanted = outputs(model, Model(unflatten(blind), model.state, model.apply), inputs)
    np.testing.assert_allclose(outputs(model, after, inputs), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    assert np.abs(wanted - outputs(model, model, inputs)).max() > 0.1


@pytest.mark.parametrize("compensate", ["none", "data_free", "least_squares"])
def test_dead_channels_take_nothing_with_them(compensate: str) -> None:
    model, data = network("forked")
    alive = {"one": [0, 2], "mix": [1, 2, 5, 6, 7], "hidden": [0, 1, 2, 3, 5, 8]}
    leaves = {}
    for name, kept in alive.items():
        for leaf in (f"{name}/kernel", "norm/bias" if name == "mix" else f"{name}/bias"):
            value = np.array(flatten(model.params)[leaf])
            value[..., np.setdiff1d(np.arange(value.shape[-1]), kept)] = 0
            leaves[leaf.replace("/", "__")] = value
    leaves["depthwise__bias"] = np.zeros(10, np.float32)
    state = unflatten({**flatten(model.state), "norm/mean": np.zeros(8, np.float32)})
    model = Model(with_leaves(model, **leaves).params, state, model.apply)
    after = removed(model, data, threshold=0.0, compensate=compensate)
    assert widths(after, "one", "other", "mix", "hidden") == [2, 6, 5, 6]
    wanted = outputs(model, model, IMAGES)
    np.testing.assert_allclose(outputs(model, after, IMAGES), wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


# --- Compensation ---------------------------------------------------------------------------------------------------


def test_least_squares_is_exact_where_a_channel_is_a_sum_of_those_that_stay() -> None:
    model, data = network("forked")
    kernel, bias = (np.array(model.params["hidden"][leaf]) for leaf in ("kernel", "bias"))
    for leaf in (kernel, bias):
        leaf[..., [2, 7]] = singles([0.1, 0.02]) * leaf[..., [0, 5]]  # behind relu too, since they are positive
    one = np.array(model.params["one"]["kernel"])
    one[..., 3] = 0.05 * one[..., 1]
    ones = np.array(model.params["one"]["bias"])
    ones[3] = 0.05 * ones[1]
    model = with_leaves(model, hidden__kernel=kernel, hidden__bias=bias, one__kernel=one, one__bias=ones)
    wanted = outputs(model, model, IMAGES)
    for settings in ({"match": "hidden", "keep": 7 / 9}, {"match": "one", "keep": 0.75, "depthwise": True}):
        deep = settings.pop("depthwise", False)
        if deep:  # channels behind a depthwise kernel are like each other only if its filters are
            depthwise, shift = (
                np.array(model.params["depthwise"]["kernel"]),
                np.array(model.params["depthwise"]["bias"]),
            )
            depthwise[..., 3], shift[[1, 3]] = depthwise[..., 1], 0
            model = with_leaves(model, depthwise__kernel=depthwise, depthwise__bias=shift)
            wanted = outputs(model, model, IMAGES)
        plain, better = (
            outputs(model, removed(model, data, **settings, compensate=how, ridge=1e-9), IMAGES)
            for how in ("none", "least_squares")
        )
        np.testing.assert_allclose(better, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
        assert np.abs(plain - wanted).max() > 10 * np.abs(better - wanted).max()


def test_least_squares_is_the_best_fit_of_the_next_dense_layers_outputs() -> None:
    model, data = network("straight")
    after = removed(model, data, match="b", keep=0.6, compensate="least_squares", ridge=1e-9)
    kept = np.sort(np.argsort(naive(model, "b", "magnitude", 2))[-3:])
    a, b, c = (jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model.params[name]) for name in ("a", "b", "c"))
    seen = np.maximum(VECTORS @ a["kernel"] + a["bias"], 0)
    seen = np.maximum(seen @ b["kernel"] + b["bias"], 0)
    wanted, *_ = np.linalg.lstsq(seen[:, kept], seen @ c["kernel"], rcond=None)
    np.testing.assert_allclose(after.decode()["c"]["kernel"], wanted, rtol=1e-3, atol=1e-4)


def test_constant_parts_go_into_the_next_bias() -> None:
    model, data = network("straight")
    kernel = np.array(model.params["a"]["kernel"])
    kernel[:, [1, 4]] = 0
    model = with_leaves(model, a__kernel=kernel, a__bias=singles([0.3, 2, 1, 0, -3, 0]))
    after = removed(model, data, match="a", threshold=0.0, compensate="data_free")
    assert widths(after, "a") == [4]
    np.testing.assert_allclose(outputs(model, after, VECTORS), outputs(model, model, VECTORS), rtol=1e-5, atol=1e-5)
    rows = np.asarray(model.params["b"]["kernel"])
    np.testing.assert_allclose(after.decode()["b"]["bias"], model.params["b"]["bias"] + 2 * rows[1], rtol=1e-6)
    assert not np.allclose(outputs(model, removed(model, data, threshold=0.0), VECTORS), outputs(model, model, VECTORS))


@pytest.mark.parametrize("mean", [0, 1])
def test_constant_parts_go_into_the_running_mean_where_there_is_no_bias(mean: int) -> None:
    model, data = network("normed")
    params = {path: np.array(leaf) for path, leaf in flatten(model.params).items()}
    params["Conv_0/kernel"][..., 2] = 0
    params["BatchNorm_0/bias"][2] = 1
    state = flatten(model.state) | {"batch_stats/BatchNorm_0/mean": np.full(6, mean, np.float32)}
    model = Model(unflatten(params), unflatten(state), model.apply)
    after = removed(model, data, match="Conv_0", threshold=0.0, compensate="data_free")
    assert widths(after, "Conv_0", "Conv_1") == [5, 4]
    if mean == 0:  # elsewhere a kernel of zeros would not have had this mean
        np.testing.assert_allclose(outputs(model, after, IMAGES), outputs(model, model, IMAGES), rtol=1e-4, atol=1e-4)
    shift = np.asarray(after.state["batch_stats/BatchNorm_1/mean"]) - np.asarray(state["batch_stats/BatchNorm_1/mean"])
    np.testing.assert_allclose(shift, -params["Conv_1/kernel"][0, 0, 2], rtol=1e-3, atol=1e-5)


def test_constant_parts_that_would_lead_further_away_are_left_out() -> None:
    def pooled(params: Tree, state: Tree, inputs: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Tree]:
        hidden = jax.nn.relu(inputs @ params["a"]["kernel"] + params["a"]["bias"][None])
        return -(hidden @ params["b"]["kernel"]) + params["b"]["bias"][None], state  # a bias that is not what it seems

    model, data = network("straight")
    params = {"a": dict(model.params["a"]), "b": dict(model.params["b"])}
    params["a"]["bias"] = jnp.ones(6)
    model = qt.from_params(params, {}, pooled)
    one, other = (removed(model, data, match="a", keep=0.5, compensate=how).decode() for how in ("none", "data_free"))
    np.testing.assert_array_equal(one["b"]["bias"], other["b"]["bias"])


# --- Among other stages, and mistakes -------------------------------------------------------------------------------


@pytest.mark.slow
def test_pruned_kernels_stay_pruned() -> None:
    model, data = network("forked")
    prune = {"kind": "prune", "density": 0.5}
    after = removed(model, data, prune, keep=0.5)
    for path, leaf in after.leaves.items():
        if path.endswith("kernel"):
            assert isinstance(leaf, Pruned)
            np.testing.assert_array_equal(np.asarray(leaf.mask), np.asarray(leaf.value) != 0)


@pytest.mark.slow
def test_later_stages_take_the_smaller_network() -> None:
    model, data = network("forked")
    tune = {"kind": "finetune", "epochs": 1, "batch_size": 16}
    stages = [{"kind": "remove", "keep": 0.5}, tune, {"kind": "batchnorm", "batch_size": 16}]
    recipe = qt.Recipe.from_config([*stages, {"kind": "kmeans", "k": 4}, tune])
    small = recipe.run(model, key=jax.random.key(0), data=data)
    assert widths(small, "one", "other", "mix", "hidden", "out") == [2, 3, 4, 4, 3]
    assert np.isfinite(outputs(model, small, IMAGES)).all()


MISTAKES: Mapping[str, tuple[Any, str]] = {
    "two rules": ({"keep": 0.5, "threshold": 0.1}, "give one of keep, threshold and parameters"),
    "no rule": ({}, "give one of keep, threshold and parameters"),
    "threshold of distances": ({"threshold": 0.1, "score": "geometric_median"}, "use keep or parameters"),
    "patterns twice": ({"keep": {"a": 0.5}, "match": "a"}, "the patterns of `keep` say which"),
    "unknown group": ({"keep": 0.5, "match": "d"}, "pattern 'd' matches no group"),
    "classes": ({"keep": 0.5, "match": "c"}, r"c: its channels can't be removed: an output of the network"),
}


@pytest.mark.parametrize(("settings", "reason"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told(settings: Mapping[str, Any], reason: str) -> None:
    model, data = network("straight")
    with pytest.raises(ConfigError, match=reason):
        removed(model, data, **settings)


def test_what_can_not_be_removed_is_told() -> None:
    model, data = network("straight")
    with pytest.raises(LeafError, match=r"a/kernel: it is .* already; put this stage before"):
        removed(model, data, {"kind": "kmeans", "k": 2, "match": "a/kernel"}, keep=0.5)
    broken = np.array(model.params["a"]["kernel"])
    broken[0, 0] = np.nan
    with pytest.raises(LeafError, match="a/kernel: 1 numbers are NaN or infinite"):
        removed(with_leaves(model, a__kernel=broken), data, keep=1.0)
    with pytest.raises(DataError, match=r"remove.*give `data`"):
        qt.Recipe.from_config([{"kind": "remove", "keep": 0.5}]).run(model, key=jax.random.key(0))

    def sorted_out(params: Tree, state: Tree, inputs: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Tree]:
        return jnp.sort(inputs @ params["a"]["kernel"], axis=1), state

    with pytest.raises(ConfigError, match="no group whose channels can be removed"):
        removed(qt.from_params({"a": model.params["a"]}, {}, sorted_out), data, keep=0.5)
