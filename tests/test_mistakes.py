"""Simple mistakes in Python: each is one error of quantree's own at the front door, which says what would be right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import quantree as qt
from quantree.errors import DataError, LeafError, QuantreeError
from tests.nets import Mlp, Normed, digits, mlp, normed

KEY = jax.random.key(0)
RECIPE = qt.Recipe.from_config([{"kind": "kmeans", "k": 2}])
BATCHNORM = qt.Recipe.from_config(["batchnorm"])
TUNE = qt.Recipe.from_config([{"kind": "finetune", "epochs": 1}])
X, Y = np.zeros((20, 4), np.float32), np.arange(20, dtype=np.int32) % 3
W = {"a": jnp.ones((4, 3))}
TASK = qt.Classification()
# The library's functions, called as nobody who reads types would.
run: Any = RECIPE.run
save: Any = qt.save
from_arrays: Any = qt.Data.from_arrays
from_params: Any = qt.from_params
from_nnx: Any = qt.from_nnx
from_linen: Any = qt.from_linen


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return linen.BatchNorm(use_running_average=not train)(linen.Dense(3)(x))


def logits(params: Any, state: Any, inputs: Any, *, train: bool = False, key: Any = None) -> Any:
    return inputs @ params["a"], state


def only_outputs(params: Any, state: Any, inputs: Any, *, train: bool = False, key: Any = None) -> Any:
    return inputs @ params["a"]


LINEN, VARIABLES = Linen(), Linen().init(KEY, X)
MISTAKES: dict[str, tuple[type[Exception], str, Callable[[], object]]] = {
    "a module is run": (QuantreeError, "not a Mlp; .*from_nnx", lambda: run(Mlp(nnx.Rngs(0)), key=KEY)),
    "parameters are run": (QuantreeError, "not a dict; .*from_params", lambda: run(W, key=KEY)),
    "a seed as key": (QuantreeError, r"such as jax\.random\.key\(0\), not 0", lambda: run(mlp(), key=0)),
    "many keys": (QuantreeError, "must be a key of JAX", lambda: run(mlp(), key=jax.random.split(KEY, 2))),
    "no data": (DataError, r"stage 0 \(batchnorm\) learns from data: give", lambda: BATCHNORM.run(normed(), key=KEY)),
    "a pair as data": (DataError, r"not a tuple; .*Data\.from_arrays", lambda: run(mlp(), key=KEY, data=(X, Y))),
    "a model is saved": (QuantreeError, "a Compressed, not a Model; run a recipe", lambda: save("x", mlp())),
    "a name as task": (
        DataError,
        r"quantree\.Classification\(\), not 'clas",
        lambda: from_arrays((X, Y), (X, Y), "clas"),
    ),
    "a class as task": (DataError, "not the class", lambda: from_arrays((X, Y), (X, Y), qt.Classification)),
    "a task in words": (DataError, "not 'x'", lambda: qt.Data(lambda *_: (), lambda _: (), "x")),  # pyright: ignore[reportArgumentType]
    "no pairs": (
        DataError,
        r"training split must be a pair \(inputs, targets\), not an array \(20, 4\)",
        lambda: from_arrays(X, Y, TASK),
    ),
    "lists": (
        DataError,
        "training inputs must be an array .*, not a list",
        lambda: from_arrays((X.tolist(), Y), (X, Y), TASK),
    ),
    "lists of targets": (DataError, "validation targets must be", lambda: from_arrays((X, Y), (X, Y.tolist()), TASK)),
    "float targets": (
        DataError,
        r"training split: targets .* not float32 \[n\]",
        lambda: from_arrays((X, Y.astype(np.float32)), (X, Y), TASK),
    ),
    "one-hot targets": (
        DataError,
        r"not int64 \[n, 3\]",
        lambda: from_arrays((X, np.eye(3, dtype=np.int64)[Y]), (X, Y), TASK),
    ),
    "negative targets": (
        DataError,
        "a target is -1; classes are numbered 0 and up",
        lambda: from_arrays((X, Y - 1), (X, Y), TASK),
    ),
    "classes from 1": (
        DataError,
        "a target is 3; classes are numbered 0 to 2, as the network has 3 logits",
        lambda: TUNE.run(from_params(W, apply=logits), key=KEY, data=from_arrays((X, Y + 1), (X, Y + 1), TASK)),
    ),
    "other inputs": (
        QuantreeError,
        "the network fails on validation inputs: ",
        lambda: run(mlp(), key=KEY, data=from_arrays((X, Y), (X, Y), TASK)),
    ),
    "only outputs": (
        QuantreeError,
        "`apply` must return a pair",
        lambda: run(from_params(W, apply=only_outputs), key=KEY, data=from_arrays((X, Y), (X, Y), TASK)),
    ),
    "params of a module": (
        QuantreeError,
        r"params must be nested dicts .* not a Mlp; .*from_nnx",
        lambda: from_params(Mlp(nnx.Rngs(0))),
    ),
    "apply as state": (QuantreeError, "state must be nested dicts", lambda: from_params(W, logits)),
    "apply is a dict": (QuantreeError, "apply must be a function", lambda: from_params(W, {}, W)),
    "twice a path": (LeafError, "a: a path is either", lambda: from_params(W, W)),
    "an nnx class": (QuantreeError, r"the class Mlp; build it: Mlp\(\.\.\., rngs", lambda: from_nnx(Mlp)),
    "linen to nnx": (QuantreeError, "from_linen", lambda: from_nnx(LINEN)),
    "an nnx class to fill": (QuantreeError, "the class Mlp", lambda: run(mlp(), key=KEY).to_nnx(Mlp)),
    "a linen class": (QuantreeError, r"the class Linen; build it: Linen\(", lambda: from_linen(Linen, VARIABLES)),
    "linen swapped": (QuantreeError, "takes the module first", lambda: from_linen(VARIABLES, LINEN)),
    "nnx to linen": (QuantreeError, "not a Mlp; .*from_nnx", lambda: from_linen(Mlp(nnx.Rngs(0)), VARIABLES)),
    "no variables": (QuantreeError, "a dict, not a list", lambda: from_linen(LINEN, [])),
    "no statistics": (
        QuantreeError,
        'Linen needs variables .*collection "batch_stats".*all that `init` returned',
        lambda: run(
            from_linen(LINEN, {"params": VARIABLES["params"]}), key=KEY, data=from_arrays((X, Y), (X, Y), TASK)
        ),
    ),
    "linen out of nnx": (
        QuantreeError,
        "state 'norm' is no collection .*to_nnx",
        lambda: run(normed(), key=KEY).to_linen(),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_at_the_front_door(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error, told, make = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=told):
        make()
    assert not list(tmp_path.iterdir())


def test_what_is_right_goes_through() -> None:
    assert RECIPE.run(normed(), key=jax.random.PRNGKey(0), data=digits()).to_nnx(Normed(nnx.Rngs(1)))
    data = qt.Data.from_arrays((jnp.asarray(X), jnp.asarray(Y)), (X, Y), TASK)
    compressed = RECIPE.run(qt.from_linen(LINEN, VARIABLES), key=KEY, data=data)
    assert LINEN.apply(compressed.to_linen(), X).shape == (20, 3)  # pyright: ignore[reportAttributeAccessIssue]
