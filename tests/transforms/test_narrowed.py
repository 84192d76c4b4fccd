from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantree as qt
from quantree.encodings import Compressed
from quantree.errors import DataError, QuantreeError
from quantree.graph import Group, Member, shrink
from quantree.stage import Context
from quantree.task import Classification, Data
from quantree.transforms.narrowed import assert_runs

RNG = np.random.default_rng(0)
PARAMS = {"a": RNG.normal(size=(4, 6)).astype(np.float32), "b": RNG.normal(size=(6, 3)).astype(np.float32)}
SPLIT = RNG.normal(size=(5, 4)).astype(np.float32), np.zeros(5, np.int32)
DATA = Data.from_arrays(SPLIT, SPLIT, Classification())
GROUP = Group("a", tuple(Member(path, axis, np.arange(6)[:, None], "producer") for path, axis in (("a", 1), ("b", 0))))


def fixed(params: Any, state: Any, inputs: Any, **_: Any) -> tuple[jax.Array, Any]:
    hidden = (inputs @ params["a"]).reshape(len(inputs), 2, 3)
    return hidden.reshape(len(inputs), 6) @ params["b"], state


def free(params: Any, state: Any, inputs: Any, **_: Any) -> tuple[jax.Array, Any]:
    return jnp.asarray(inputs) @ params["a"] @ params["b"], state


def test_a_function_with_a_width_written_into_it_is_told_as_one_error() -> None:
    model = qt.from_params(PARAMS, apply=fixed)
    narrow = shrink(Compressed.from_model(model), GROUP, np.arange(5))
    context = Context(model, jax.random.key(0), DATA)
    with pytest.raises(QuantreeError, match=r"a has 5 channels in place of 6, and the network does not run.*reshape"):
        assert_runs(narrow, context, "remove: a has 5 channels in place of 6")
    assert_runs(Compressed.from_model(model), context, "nothing")
    assert_runs(narrow, Context(qt.from_params(PARAMS, apply=free), jax.random.key(0), DATA), "remove")


def test_it_says_nothing_where_there_is_nothing_to_run() -> None:
    model = qt.from_params(PARAMS, apply=fixed)
    narrow = shrink(Compressed.from_model(model), GROUP, np.arange(5))
    assert_runs(narrow, Context(qt.from_params(PARAMS), jax.random.key(0), DATA), "remove")
    assert_runs(narrow, Context(model, jax.random.key(0)), "remove")
    empty = Data(DATA.train, lambda _: iter(()), DATA.task)
    with pytest.raises(DataError, match="the validation split is empty"):
        assert_runs(narrow, Context(model, jax.random.key(0), empty), "remove")
