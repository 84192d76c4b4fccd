import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantree import storage
from quantree.encodings import Coded, Compressed, Pruned, Raw, Scalar, Table
from quantree.errors import FormatError, LeafError, PluginError
from quantree.storage.file import account
from tests.storage.models import assert_same, coded_net, every_kind, floats


def raw(**arrays: Any) -> Compressed:
    leaves = {path.replace("__", "/"): Raw.of(jnp.asarray(array)) for path, array in arrays.items()}
    return Compressed(dict(leaves), {}, {}, sum(leaf.value.nbytes for leaf in leaves.values()))


def test_decodes_to_the_same_weights() -> None:
    model = every_kind()
    decoded = storage.from_bytes(storage.to_bytes(model)).decode()
    for a, b in zip(jax.tree.leaves(decoded), jax.tree.leaves(model.decode()), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@given(seed=st.integers(0, 2**32 - 1), coder=st.sampled_from([None, "fixed", "ans", "live"]))
def test_round_trip_of_every_kind(seed: int, coder: str | None) -> None:
    model = every_kind(seed)
    data = storage.to_bytes(model, coder)
    loaded = storage.from_bytes(data)
    assert_same(loaded, model)
    assert storage.to_bytes(loaded, coder) == data


@st.composite
def coded_models(draw: st.DrawFn) -> Compressed:
    """One scalar-coded leaf of any shape, density and codebook size, beside a raw one."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = tuple(draw(st.lists(st.integers(1, 30), max_size=4)))
    k, zero = draw(st.integers(1, 400)), draw(st.booleans())
    codes = np.where(rng.random((1, int(np.prod(shape)))) < draw(st.floats(0, 1)), rng.integers(0, k, 1), 0)
    codes = codes.astype(draw(st.sampled_from([np.uint16, np.uint32])))
    leaf = Coded(jnp.asarray(codes), None, "w", Scalar(), zero, shape, np.dtype(draw(st.sampled_from(["f2", "f4"]))))
    return Compressed({"b": Raw.of(floats(rng, 3)), "w": leaf}, {"w": Table(floats(rng, 1, k, 1))}, {}, 10**9)


@given(coded_models())
def test_round_trip_of_codes(model: Compressed) -> None:
    assert_same(storage.from_bytes(storage.to_bytes(model)), model)


@pytest.mark.parametrize("dtype", ["float64", "int64", "uint64"])
def test_wide_dtypes_need_wide_jax(dtype: str) -> None:
    with jax.enable_x64(True):
        model = raw(w=np.arange(5).astype(dtype))
        data = storage.to_bytes(model)
        assert_same(storage.from_bytes(data), model)
    with pytest.raises(FormatError, match=f"w: JAX holds {dtype} only if jax_enable_x64.*JAX_ENABLE_X64=1"):
        storage.from_bytes(data)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "int8", "int16", "uint16", "uint32"])
def test_other_dtypes(dtype: str) -> None:
    model = raw(w=jnp.arange(5).astype(dtype))
    assert_same(storage.from_bytes(storage.to_bytes(model)), model)


def test_special_floats_are_kept() -> None:
    bits = np.array([0x7FC00001, 0x7F800000, 0xFF800000, 0x80000000, 1], np.uint32)
    model = raw(w=bits.view(np.float32))
    loaded = storage.from_bytes(storage.to_bytes(model)).leaves["w"]
    assert np.asarray(jax.tree.leaves(loaded)[0]).view(np.uint32).tolist() == bits.tolist()


def test_empty_model() -> None:
    model = Compressed({}, {}, {}, 0)
    assert_same(storage.from_bytes(storage.to_bytes(model)), model)


def test_same_model_same_bytes_whatever_the_order_of_its_leaves() -> None:
    model = every_kind()
    backwards = Compressed(
        dict(reversed(model.leaves.items())), dict(reversed(model.codebooks.items())), model.state, model.dense_bytes
    )
    assert storage.to_bytes(model) == storage.to_bytes(backwards)


def test_every_flipped_byte_is_noticed() -> None:
    data = storage.to_bytes(coded_net({"fc": (8, 4)}, density=0.5))
    for place in range(len(data)):
        for flip in (1, 128, 255):
            damaged = data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]
            with pytest.raises(FormatError):
                storage.from_bytes(damaged)


def test_every_cut_is_noticed() -> None:
    data = storage.to_bytes(every_kind())
    for length in range(len(data)):
        with pytest.raises(FormatError):
            storage.from_bytes(data[:length])
    with pytest.raises(FormatError):
        storage.from_bytes(data + b"\0")


def test_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.qtree").write_bytes(b"PK\x03\x04 something else entirely")
    for reader in (storage.load, storage.inspect):
        with pytest.raises(FormatError, match=r"x\.qtree: not a \.qtree file"):
            reader(tmp_path / "x.qtree")


def test_save_replaces_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.qtree"
    first = coded_net({"fc": (40, 30)})
    storage.save(path, first)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        storage.save(path, coded_net({"fc": (40, 30)}, seed=1))
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["net.qtree"]
    assert_same(storage.load(path), first)
    storage.save(path, coded_net({"fc": (40, 30)}, seed=1))
    assert_same(storage.load(path), coded_net({"fc": (40, 30)}, seed=1))


def test_what_a_file_cannot_hold_is_told_with_its_name() -> None:
    with pytest.raises(LeafError, match="w: a file can't hold complex64"):
        storage.to_bytes(raw(w=np.ones(2, np.complex64)))
    with pytest.raises(FormatError, match="lies inside"):
        storage.to_bytes(raw(a=np.ones(2), a__b=np.ones(2)))
    with pytest.raises(PluginError, match="did you mean 'fixed'"):
        storage.to_bytes(every_kind(), "fixd")


def test_a_codebook_that_is_missing_is_noticed_before_writing() -> None:
    model = every_kind()
    with pytest.raises(FormatError, match="book"):
        storage.to_bytes(Compressed(model.leaves, {}, {}, 1))


def test_an_empty_stream_after_others() -> None:
    rng = np.random.default_rng(0)
    shapes = {"a": (40, 30), "b": (0, 3), "c": (40, 30)}
    leaves = {
        path: Pruned.of(floats(rng, *shape), jnp.asarray(rng.random(shape) < 0.1)) for path, shape in shapes.items()
    }
    model = Compressed(dict(leaves), {}, {}, 10**5)
    assert_same(storage.from_bytes(storage.to_bytes(model)), model)


def test_tables_are_shared() -> None:
    model = coded_net({f"fc{i}": (60, 10) for i in range(4)}, density=0.3)
    tables = [entry for entry in account(storage.to_bytes(model)).entries if entry.section == "table"]
    assert len(tables) == 1
    assert_same(storage.from_bytes(storage.to_bytes(model)), model)
