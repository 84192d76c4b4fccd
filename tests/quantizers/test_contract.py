"""What a learner may give, and what it is told if it gives something else."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantree as qt
from quantree import registry
from quantree.encodings import Affine, Table
from quantree.errors import PluginError
from quantree.quantizers import Learner, Quantize
from quantree.recipe import Recipe
from quantree.storage.file import from_bytes, to_bytes

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
WEIGHTS = RNG.normal(size=(2, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("table", "codes", "told"),
    [
        ((1, 3, 1), np.zeros((1, 5), np.int32), "codes int32"),
        ((1, 3, 1), np.zeros((1, 6), np.float32), "codes float32"),
        ((1, 3, 1), np.full((1, 6), 3), "codes outside of its codebook of 3"),
        ((1, 3, 1), np.full((1, 6), -1), "codes outside of its codebook of 3"),
        ((2, 3, 1), np.zeros((1, 6), np.int32), r"a codebook \(2, 3, 1\)"),
        (None, np.zeros((1, 6), np.int32), "a codebook that is not finite: 3 of its 3 numbers are NaN"),
    ],
)
def test_a_learner_that_breaks_its_contract_is_named(table: Any, codes: np.ndarray, told: str) -> None:
    with registry.temporarily():

        @qt.register("broken")
        class Broken(Learner):
            def learn(self, blocks: jax.Array, mask: jax.Array, key: jax.Array) -> Any:
                return Table(jnp.full((1, 3, 1), jnp.nan) if table is None else jnp.zeros(table)), jnp.asarray(codes)

        recipe = Recipe(stages=(Quantize(learner=Broken()),))
        with pytest.raises(PluginError, match=rf"^stage 0 \(quantize\): a: learner 'broken' gave .*{told}"):
            recipe.run(qt.from_params({"a": WEIGHTS}), key=KEY)


CODES = np.zeros((1, 6), np.int32)
CENTROIDS = np.quantile(RNG.normal(size=9), [0.2, 0.5, 0.8])  # float64, as NumPy gives it


def learner_that_gives(found: Any) -> Learner:
    class Gives(Learner):
        def learn(self, blocks: jax.Array, mask: jax.Array, key: jax.Array) -> Any:
            return found

    return Gives()


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (None, r"None; expected \(Codebook, codes \[segments, n\]\)"),
        (Table(jnp.zeros((1, 3, 1))), "a Table alone; expected"),
        ((CODES, Table(jnp.zeros((1, 3, 1)))), r"\(ndarray, Table\); expected"),
        (CODES, r"an array \(1, 6\) alone; expected"),
        ((CENTROIDS, CODES), r"\(ndarray, ndarray\); expected"),
        ((Table(jnp.zeros(3)), CODES), "a Table that has no table of centroids|a codebook"),
        ((Table(jnp.zeros((1, 3, 1), jnp.int32)), CODES), "a codebook of int32, not of floats"),
        ((Table(None), CODES), "a Table that has no table of centroids"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_a_learner_that_gives_something_else_is_told_what_was_expected(found: Any, told: str) -> None:
    recipe = Recipe(stages=(Quantize(learner=learner_that_gives(found)),))
    with pytest.raises(PluginError, match=rf"^stage 0 \(quantize\): a: learner '' gave {told}"):
        recipe.run(qt.from_params({"a": WEIGHTS}), key=KEY)


@pytest.mark.parametrize(
    "book",
    [
        Table(CENTROIDS[None, :, None]),  # pyright: ignore[reportArgumentType]
        Affine(CENTROIDS[2] - CENTROIDS[1], CENTROIDS[0], 3),
    ],
)
def test_a_codebook_of_numpys_doubles_is_stored_in_single_precision(book: Any) -> None:
    stage = Quantize(learner=learner_that_gives((book, np.arange(6).reshape(1, 6) % 3)))
    compressed = Recipe(stages=(stage,)).run(qt.from_params({"a": WEIGHTS}), key=KEY)
    loaded = from_bytes(to_bytes(compressed))
    assert compressed.codebooks["a"].table().dtype == loaded.codebooks["a"].table().dtype == jnp.float32
    np.testing.assert_array_equal(loaded.decode()["a"], compressed.decode()["a"])
