import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantree as qt
from quantree.encodings import Affine, Compressed, float_fields
from quantree.errors import ConfigError, LeafError
from quantree.recipe import Recipe

RNG = np.random.default_rng(0)
NET = {
    "a": RNG.normal(size=(6, 5)).astype(np.float32),
    "b": np.linspace(-1, 1, 7, dtype=np.float32),
    "n": np.arange(3, dtype=np.int32),
}


def run(*stages: Any, net: Any = None) -> Compressed:
    return Recipe.from_config(list(stages)).run(qt.from_params(net or NET), key=jax.random.key(0))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_values_are_rounded_once_and_decode_to_the_dtype_they_had(dtype: str) -> None:
    compressed = run({"kind": "cast", "dtype": dtype})
    for name in ("a", "b"):
        wanted = NET[name].astype(jnp.dtype(dtype)).astype(np.float32)
        np.testing.assert_array_equal(compressed.decode()[name], wanted)
        assert compressed.leaves[name].streams()["value"].data.dtype == dtype
    assert compressed.decode()["n"].dtype == jnp.int32


def test_codebooks_masks_and_scales() -> None:
    before = [
        {"kind": "prune", "match": "a", "density": 0.5},
        {"kind": "kmeans", "k": 4, "match": "a"},
        {"kind": "uniform", "k": 300, "match": "b"},
    ]
    full, cast = run(*before), run(*before, {"kind": "cast"})
    assert {field.dtype.name for field in float_fields(cast).values()} == {"float16"}
    book = cast.codebooks["b"]
    assert isinstance(book, Affine) and book.dtype == np.float16
    for name in ("a", "b"):
        found, wanted = np.asarray(cast.decode()[name]), np.asarray(full.decode()[name])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1.5e-3)
        np.testing.assert_array_equal(cast.leaves[name].codes, full.leaves[name].codes)  # pyright: ignore


def test_only_the_fields_that_match() -> None:
    compressed = run({"kind": "kmeans", "k": 4}, {"kind": "cast", "match": "codebooks/*"})
    assert {name: field.dtype.name for name, field in float_fields(compressed).items()} == {
        "b/value": "float32",
        "codebooks/a/centroids": "float16",
    }
    with pytest.raises(ConfigError, match=r"stage 0 \(cast\): pattern 'codebooks/\*' matches no leaf"):
        run({"kind": "cast", "match": "codebooks/*"})


def test_what_sixteen_bits_cannot_hold_is_an_error_or_stays() -> None:
    net = {"large": np.full(4, 1e5, np.float32), "small": np.full((2, 3), 1e-8, np.float32), "fine": NET["b"]}
    for name, reason in (
        ("large", "a value of 1e+05 is too large"),
        ("small", "values of at most 1e-08 are too small"),
    ):
        with pytest.raises(LeafError, match=f"{name}/value: {re.escape(reason)} for float16; .*unfit: keep"):
            run({"kind": "cast", "match": f"{name}/value"}, net=net)
    kept = run({"kind": "cast", "unfit": "keep"}, net=net)
    assert {name: field.dtype.name for name, field in float_fields(kept).items()} == {
        "large/value": "float32",
        "small/value": "float32",
        "fine/value": "float16",
    }
    assert {
        field.dtype.name for field in float_fields(run({"kind": "cast", "dtype": "bfloat16"}, net=net)).values()
    } == {"bfloat16"}


def test_fields_of_sixteen_bits_stay() -> None:
    net = {"a": jnp.full((2, 2), 1e6, jnp.bfloat16)}
    assert float_fields(run({"kind": "cast"}, net=net))["a/value"].dtype == jnp.bfloat16
