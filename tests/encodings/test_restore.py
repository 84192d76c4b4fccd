"""What a file says about an encoding, true and false."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantree.encodings import Affine, Coded, Pruned, Raw, Scalar, SubVectors, Table
from quantree.errors import FormatError
from quantree.registry import registered

RNG = np.random.default_rng(0)
F32 = np.dtype("float32")


def floats(*shape: int, dtype: Any = "float32") -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape).astype(np.float32)).astype(dtype)


def codes(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.integers(0, 4, shape).astype(np.uint8))


MASK = jnp.asarray(RNG.random((3, 4)) < 0.5)
STORED = {
    "raw": Raw.of(floats(3, 4)),
    "raw cast": Raw(floats(3, 4, dtype="bfloat16"), F32),
    "raw whole number": Raw.of(jnp.asarray(3, jnp.int32)),
    "raw empty": Raw.of(jnp.zeros((0, 3))),
    "pruned": Pruned.of(floats(3, 4), MASK),
    "pruned away": Pruned.of(floats(3, 4), jnp.zeros((3, 4), bool)),
    "coded": Coded(codes(1, 12), None, "book", Scalar(), False, (3, 4), F32),
    "coded zeros": Coded(codes(1, 12), None, "book", Scalar(), True, (3, 4), F32, "ans"),
    "coded mask": Coded(codes(2, 4), MASK, "book", SubVectors(d=2, codebooks="segment"), False, (3, 4), F32),
    "coded one": Coded(codes(1, 1), None, "book", Scalar(), False, (), F32),
    "table": Table(floats(2, 3, 4)),
    "affine": Affine(jnp.float32(0.5), jnp.float32(-1), 300),
}
each = pytest.mark.parametrize("name", STORED)


def test_every_kind_is_here() -> None:
    kinds = {type(stored).name for stored in STORED.values()}
    assert kinds == {name for family in ("encoding", "codebook") for name in registered(family)}


def parts(stored: Any) -> tuple[tuple[int, ...], np.dtype[Any], tuple[Any, ...], dict[str, np.ndarray]]:
    return stored.shape, stored.dtype, stored.meta(), {name: each.data for name, each in stored.streams().items()}


def assert_same(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype) and np.asarray(a).tobytes() == np.asarray(b).tobytes()


@each
def test_restore_is_the_inverse_of_streams_and_meta(name: str) -> None:
    assert_same(type(STORED[name]).restore(*parts(STORED[name])), STORED[name])


@each
def test_streams_are_flat_and_below_their_alphabets(name: str) -> None:
    for stream in STORED[name].streams().values():
        assert stream.data.ndim == 1
        if stream.alphabet is not None:
            assert stream.data.dtype.kind == "u" and stream.data.max(initial=0) < stream.alphabet


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["scalar", "sub_vectors"]),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)
sizes = st.one_of(st.integers(0, 5), st.integers(0, 1 << 62))


@each
@given(data=st.data())
def test_whatever_is_claimed_it_fits_or_is_a_format_error(name: str, data: st.DataObject) -> None:
    shape, dtype, meta, streams = parts(STORED[name])
    what = data.draw(st.sampled_from(["shape", "meta", "meta all", "stream", "drop", "kind"]))
    if what == "shape":
        shape = tuple(data.draw(st.lists(sizes, max_size=5)))
    elif what == "meta" and meta:
        spot = data.draw(st.integers(0, len(meta) - 1))
        meta = (*meta[:spot], data.draw(anything), *meta[spot + 1 :])
    elif what.startswith("meta"):
        meta = tuple(data.draw(st.lists(anything, max_size=8)))
    else:
        chosen = data.draw(st.sampled_from(sorted(streams)))
        if what == "drop":
            del streams[chosen]
        elif what == "kind":
            streams[chosen] = streams[chosen].astype(data.draw(st.sampled_from(["float32", "int8", "uint32", "bool"])))
        else:
            streams[chosen] = np.resize(streams[chosen], data.draw(st.integers(0, 30)))
    try:
        restored = type(STORED[name]).restore(shape, dtype, meta, streams)
    except FormatError:
        return
    assert restored.shape == shape
    hash(jax.tree.structure(restored))  # jit looks it up by this
    assert sum(leaf.size for leaf in jax.tree.leaves(restored)) <= 4 * (sum(s.size for s in streams.values()) + 100)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("raw", {"shape": (1 << 32, 1 << 32)}, "does not fill the shape"),
        ("raw empty", {"shape": (-1, 0)}, "does not fill the shape"),
        ("pruned", {"streams": {"value": np.zeros(99, np.float32)}}, "'value' does not fill"),
        ("coded", {"meta": ("book", False, None, "spheres")}, "no blocking is called 'spheres'"),
        ("coded", {"meta": ("book", False, None, "sub_vectors", 0, "inputs", "layer")}, "names no known blocking"),
        ("coded", {"meta": ("book", 1, None, "scalar")}, "header is malformed"),
        ("coded", {"meta": ("book", True, ["ans"], "scalar")}, "header is malformed"),
        ("coded", {"streams": {"codes": np.zeros(12, np.float32)}}, "unsigned integers, not float32"),
        ("affine", {"shape": (1, 1 << 40, 1)}, "k up to 65536"),
        ("affine", {"shape": (1, 0, 1)}, "k up to 65536"),
        ("affine", {"streams": {"scale": np.zeros(2, np.float32)}}, "'scale' does not fill"),
        ("table", {"shape": (1, 0, 1 << 60), "streams": {"centroids": np.zeros(0, "f4")}}, "has shape .segments, k"),
    ],
)  # fmt: skip
def test_lies_are_named(name: str, change: dict[str, Any], told: str) -> None:
    shape, dtype, meta, streams = parts(STORED[name])
    with pytest.raises(FormatError, match=told):
        type(STORED[name]).restore(
            change.get("shape", shape), dtype, change.get("meta", meta), {**streams, **change.get("streams", {})}
        )
