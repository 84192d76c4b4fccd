import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from quantree.encodings import (
    Affine,
    Coded,
    Compressed,
    Encoding,
    Pruned,
    Raw,
    Scalar,
    SubVectors,
    Table,
    combine,
    float_fields,
    map_floats,
    match,
    partition,
)
from quantree.encodings.coded import smallest_unsigned
from quantree.errors import ConfigError, FormatError
from quantree.model import from_params

RNG = np.random.default_rng(1)
F32 = np.dtype("float32")


def uint(*values: Any) -> jax.Array:
    return jnp.asarray(values, jnp.uint8)


def net() -> Compressed:
    """Two leaves share a codebook, one of them pruned; a third has sub-vectors and a mask; a fourth is affine."""
    mask = jnp.asarray([[True, False, True], [True, True, False]])
    leaves: dict[str, Encoding] = {
        "a/kernel": Coded(uint([0, 1, 2, 1, 1, 0]), None, "net", Scalar(), False, (2, 3), F32),
        "b/kernel": Coded(uint([0, 3, 2, 0, 1, 1]), None, "net", Scalar(), True, (3, 2), F32),
        "c/kernel": Coded(uint([1, 0, 1]), mask, "c/kernel", SubVectors(d=2), False, (2, 3), F32),
        "d/kernel": Coded(uint([3, 0, 2, 1]), None, "d/kernel", Scalar(), False, (2, 2), F32),
        "e/bias": Raw.of(jnp.asarray([1.0, -2.0])),
        "e/count": Raw.of(jnp.asarray([7, 8])),
        "f/kernel": Pruned.of(jnp.asarray([[5.0, 6.0]]), jnp.asarray([[False, True]])),
    }
    books = {
        "net": Table(jnp.asarray([[[1.0], [2.0], [3.0]]])),
        "c/kernel": Table(jnp.asarray([[[10.0, 20.0], [30.0, 40.0]]])),
        "d/kernel": Affine(jnp.float32(0.5), jnp.float32(-1), 4),
    }
    return Compressed(leaves, books, {"norm/mean": jnp.ones(2), "norm/steps": jnp.asarray(3)}, 1000)


def test_decode_by_hand() -> None:
    params = net().decode()
    wanted = {
        "a": [[1, 2, 3], [2, 2, 1]],
        "b": [[0, 3], [2, 0], [1, 1]],
        "c": [[30, 0, 30], [40, 20, 0]],  # each column is one sub-vector; the mask has the last word
        "d": [[0.5, -1], [0, -0.5]],
        "f": [[0, 6]],
    }
    for name, values in wanted.items():
        np.testing.assert_array_equal(params[name]["kernel"], np.asarray(values, np.float32))
    assert params["e"]["count"].dtype == jnp.int32
    jitted = jax.jit(lambda compressed: compressed.decode())(net())
    assert jax.tree.all(jax.tree.map(np.array_equal, params, jitted))


def test_zeros_are_where_decode_is_held_at_zero() -> None:
    decoded = net().decode()
    for path, leaf in net().leaves.items():
        zeros = leaf.zeros()
        name, field = path.split("/")
        if path in ("b/kernel", "c/kernel", "f/kernel"):
            assert zeros is not None
            np.testing.assert_array_equal(zeros, np.asarray(decoded[name][field]) == 0)
        else:
            assert zeros is None


def loss_of(compressed: Compressed, weights: dict[str, Any]) -> jax.Array:
    params = compressed.decode()
    return sum((jnp.sum(jnp.sin(params[name]["kernel"] * w)) for name, w in weights.items()), jnp.zeros(()))


def test_the_gradient_of_a_centroid_is_the_sum_over_its_cluster_and_matches_finite_differences() -> None:
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf, net())
        exact = dataclasses.replace(
            exact,
            leaves={
                path: dataclasses.replace(leaf, dtype=np.dtype("float64")) if path != "e/count" else leaf
                for path, leaf in exact.leaves.items()
            },
        )
        weights = {name: RNG.normal(size=exact.leaves[f"{name}/kernel"].shape) for name in "abcdf"}
        first, rest = partition(exact)
        loss = jax.jit(lambda first, rest: loss_of(combine(first, rest), weights))
        gradient = jax.grad(loss)(first, rest)

        # What the weights of one cluster get, summed: d sin(w v) / dv = w cos(w v).
        params = exact.decode()
        flow = {name: w * np.cos(np.asarray(params[name]["kernel"]) * w) for name, w in weights.items()}
        a, b = np.asarray([0, 1, 2, 1, 1, 0]), np.asarray([0, 3, 2, 0, 1, 1])
        shared = [flow["a"].reshape(-1)[a == j].sum() + flow["b"].reshape(-1)[b == j + 1].sum() for j in range(3)]
        np.testing.assert_allclose(gradient.codebooks["net"].centroids[0, :, 0], shared, rtol=1e-12)
        kept = flow["c"] * np.asarray([[1, 0, 1], [1, 1, 0]])
        vectors = [kept[:, 1], kept[:, 0] + kept[:, 2]]
        np.testing.assert_allclose(gradient.codebooks["c/kernel"].centroids[0], vectors, rtol=1e-12)
        levels = np.asarray([[3, 0], [2, 1]])
        np.testing.assert_allclose(gradient.codebooks["d/kernel"].scale, np.sum(flow["d"] * levels), rtol=1e-12)
        np.testing.assert_allclose(gradient.codebooks["d/kernel"].offset, np.sum(flow["d"]), rtol=1e-12)
        np.testing.assert_array_equal(gradient.leaves["f/kernel"].value[0, 0], 0)  # pruned: nothing flows there

        flat, unravel = ravel_pytree(first)
        slopes = ravel_pytree(gradient)[0]
        step = 1e-6
        for i in range(flat.size):
            high, low = (loss(unravel(flat.at[i].add(sign * step)), rest) for sign in (1, -1))
            np.testing.assert_allclose(slopes[i], (high - low) / (2 * step), rtol=1e-7, atol=1e-8)


def test_partition_takes_the_floats_and_combine_puts_them_back() -> None:
    compressed = net()
    first, rest = partition(compressed)
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(first))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(rest.leaves)} == {"uint8", "bool", "int32"}
    assert jax.tree.leaves(first.state) == [] and len(jax.tree.leaves(rest.state)) == 2
    back = combine(first, rest)
    assert jax.tree.structure(back) == jax.tree.structure(compressed)
    assert all(a is b for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(compressed), strict=True))
    first, rest = partition(compressed, lambda name: name.startswith("codebooks/"))
    assert len(jax.tree.leaves(first)) == 4 and first.leaves["e/bias"].value is None


def test_float_fields_have_names_and_can_be_mapped() -> None:
    names = set(float_fields(net()))
    assert names == {
        "codebooks/net/centroids", "codebooks/c/kernel/centroids", "codebooks/d/kernel/scale",
        "codebooks/d/kernel/offset", "e/bias/value", "f/kernel/value",
    }  # fmt: skip
    seen: list[str] = []
    mapped = map_floats(lambda name, value: (seen.append(name), value + 1)[1], net())
    assert set(seen) == names
    np.testing.assert_array_equal(mapped.leaves["e/bias"].value, [2, -1])  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_array_equal(mapped.state["norm/mean"], [1, 1])


def test_a_layer_called_state_is_trained_like_any_other() -> None:
    model = from_params({"state": {"x": np.ones(2, np.float32)}}, {"x": {"value": np.ones(3, np.float32)}})
    compressed = Compressed.from_model(model)
    assert list(float_fields(compressed)) == ["state/x/value"]
    first, rest = partition(compressed)
    assert [leaf.shape for leaf in jax.tree.leaves(first)] == [(2,)]
    assert [leaf.shape for leaf in jax.tree.leaves(rest)] == [(3,)]


def test_replace_drops_codebooks_that_no_leaf_uses_and_keeps_the_dense_bytes() -> None:
    compressed = net().replace({"d/kernel": Raw.of(jnp.zeros((2, 2)))})
    assert set(compressed.codebooks) == {"net", "c/kernel"} and compressed.dense_bytes == 1000
    assert compressed.state is net().state or set(compressed.state) == {"norm/mean", "norm/steps"}
    assert set(compressed.replace(state={}).state) == set()
    assert set(net().codebooks) == {"net", "c/kernel", "d/kernel"}


def test_check_finds_codebooks_that_are_missing_or_do_not_fit() -> None:
    net().check()
    for change, told in (
        ({"net": None}, "a/kernel: its codebook 'net' is not in the file"),
        ({"net": Table(jnp.zeros((1, 2, 1)))}, "a/kernel: a code is 2, but codebook 'net' has 2 centroids"),
        ({"c/kernel": Table(jnp.zeros((1, 2, 3)))}, "c/kernel: codebook 'c/kernel' does not fit the blocks"),
        ({"c/kernel": Table(jnp.zeros((2, 2, 2)))}, "c/kernel: codebook 'c/kernel' does not fit the blocks"),
    ):
        books = {name: book for name, book in {**net().codebooks, **change}.items() if book is not None}
        with pytest.raises(FormatError, match=told):
            dataclasses.replace(net(), codebooks=books).check()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_levels_in_16_bits_are_still_that_many_and_evenly_spaced(dtype: str) -> None:
    book = Affine(jnp.asarray(0.25, dtype), jnp.asarray(-8, dtype), 5000)
    np.testing.assert_array_equal(book.table()[0, :, 0], -8 + 0.25 * np.arange(5000))


def test_match() -> None:
    paths = ["conv1/kernel", "conv1/bias", "fc/kernel"]
    assert match(["fc*", "*/bias"], paths) == ["conv1/bias", "fc/kernel"]
    assert match(["*"], paths) == paths
    with pytest.raises(
        ConfigError, match=r"pattern 'conv/kernel' matches no leaf; did you mean 'conv1/kernel'\?"
    ) as caught:
        match(["fc*", "conv/kernel"], paths)
    assert caught.value.value == "conv/kernel"


@pytest.mark.parametrize(("symbols", "dtype"), [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65537, "uint32")])
def test_codes_are_as_narrow_as_they_can_be(symbols: int, dtype: str) -> None:
    packed = smallest_unsigned(np.asarray([symbols - 1]), symbols)
    assert packed.dtype == dtype and int(packed[0]) == symbols - 1


def test_a_pattern_that_stops_short_of_the_names_is_told_how_it_goes_on() -> None:
    fields = ["codebooks/fc2/kernel/centroids", "fc1/bias/value", "fc1/kernel/value"]
    wanted = {"fc1/kernel": r"'fc1/kernel/\*'", "fc2/*": r"'\*/fc2/\*/\*'", "fc1/kernl/*": "'fc1/kernel/value'"}
    for short, told in wanted.items():
        with pytest.raises(ConfigError, match=rf"matches no float field; did you mean {told}\?"):
            match([short], fields, "float field")
