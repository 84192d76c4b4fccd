import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from quantree import storage
from quantree.checkpoints import LAYOUTS
from quantree.encodings import Compressed, Raw, encoding
from quantree.errors import FormatError, LeafError
from quantree.registry import temporarily
from tests.storage.golden.make import FOLDER, MODELS
from tests.storage.models import assert_same
from tests.storage.test_hostile import forged, open_safely, parts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool", "uint8"])
def test_an_array_of_one_value_costs_one_value(dtype: str) -> None:
    def size(n: int) -> int:
        return len(storage.to_bytes(Compressed({}, {}, {"n/var": jnp.ones(n, dtype)}, 7)))

    assert size(60_000) == size(1000)
    model = Compressed({"w": Raw.of(jnp.full((40, 50), 3).astype(dtype))}, {}, {"n/var": jnp.ones(99, dtype)}, 7)
    assert_same(storage.from_bytes(storage.to_bytes(model)), model)


@pytest.mark.parametrize("bits", [0x80000000, 0x7FC00001, 0])
def test_one_value_means_the_same_bits(bits: int) -> None:
    words = np.full(64, bits, np.uint32)
    for last in (bits, bits ^ 0x80000000):
        words[-1] = last
        model = Compressed({"w": Raw.of(jnp.asarray(words.view(np.float32)))}, {}, {}, 256)
        data = storage.to_bytes(model)
        assert (len(data) < 100) == (last == bits)
        assert_same(storage.from_bytes(data), model)


def test_a_value_that_is_spread_is_counted_at_its_own_width() -> None:
    row = ["w", "constant", [1 << 20], "uint8", [], ["value", "float32", 1]]
    data = forged([None, [row], [], []], bytes(4))
    with pytest.raises(FormatError, match="give load a higher one"):
        storage.from_bytes(data, 1 << 21)
    assert storage.from_bytes(data, 1 << 23).leaves["w"].shape == (1 << 20,)


@pytest.mark.parametrize(
    ("shape", "stream", "room"),
    [([2**60], ["value", None, 1], 4), ([0, 2**60], ["value", None, 1], 4), ([40], "value", 160), ([40], "other", 160)],
)
def test_constants_that_lie(shape: list[int], stream: Any, room: int) -> None:
    assert not open_safely(forged([None, [["w", "constant", shape, "float32", [], stream]], [], []], bytes(room)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_remembers_whose_names_it_has(layout: Any) -> None:
    model = dataclasses.replace(MODELS["every_kind"], layout=layout)
    again = storage.from_bytes(storage.to_bytes(model))
    assert again.layout == layout
    assert_same(again, model)


@pytest.mark.parametrize(
    "front", [[], [None], [None, None], [None, "caffe"], [None, "torch", 1], [[], "torch"], [-5, []]]
)
def test_a_layout_that_is_none_is_refused(front: Any) -> None:
    plain, runs = parts(storage.to_bytes(MODELS["pruned_net"]))
    with pytest.raises(FormatError):
        storage.from_bytes(forged([front, *plain[1:]], runs))


def test_the_golden_file_holds_constants() -> None:
    data = (FOLDER / "constants.ans.v1.qtree").read_bytes()
    assert_same(storage.from_bytes(data), MODELS["constants"])
    plain, _ = parts(data)
    assert plain[0] == [999, "torch"] and [row[1] for row in (*plain[1], *plain[3])] == ["constant", "raw", "constant"]


def test_no_plugin_takes_the_name() -> None:
    with temporarily():

        @encoding("constant")
        class Other(Raw):
            pass

        model = Compressed({"w": Other(jnp.ones(3), np.dtype("float32"))}, {}, {}, 12)
        with pytest.raises(LeafError, match="w: a plug-in can't be called 'constant'"):
            storage.to_bytes(model)
