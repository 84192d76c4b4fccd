"""Every registered plug-in is held to the checks of its family; and each check finds the fault that it is for."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import Field

import quantree as qt
from quantree import conformance, registry
from quantree.coding.base import Symbols
from quantree.encodings import Affine, Codebook, Raw, Scalar, Table
from quantree.quantizers import KMeans, PerTensor, Quantize
from quantree.recipe import Recipe
from quantree.registry import families, registered
from quantree.stage import Context
from tests.compilations import compilations

FAMILIES = ("stage", "learner", "grouping", "blocking", "coder")
SLOW = {
    ("learner", "annealed", "quantizes"),  # vectors with noise, in several shapes: long to compile
    ("learner", "annealed", "contract"),
    ("learner", "annealed", "devices"),
    ("learner", "kmeans", "quantizes"),  # what blockings and groupings are tried with, too
    ("stage", "deep_compression", "runs"),  # presets of stages that are tried by themselves
    ("stage", "deep_compression", "keeps what was done before"),
    ("stage", "pqf", "runs"),
    ("stage", "pqf", "keeps what was done before"),
    ("stage", "dkm", "runs"),  # tests/recovery/test_dkm.py tries it, too
    ("stage", "dkm", "keeps what was done before"),
}
TABLE = [
    pytest.param(family, name, check, marks=[pytest.mark.slow] if (family, name, check) in SLOW else [])
    for family in FAMILIES
    for name in sorted(registered(family))
    for check in conformance.checks(family)
]


@pytest.mark.parametrize(("family", "name", "check"), TABLE)
def test_a_plug_in_keeps_its_promise(family: str, name: str, check: str) -> None:
    conformance.check(family, name, check)


def test_every_family_that_has_promises_of_its_own_is_in_the_table() -> None:
    assert set(FAMILIES) == {family for family in families() if len(conformance.checks(family)) > 1}


@pytest.mark.parametrize("learner", sorted(registered("learner")))
def test_a_quantizer_compiles_nothing_for_another_seed(learner: str) -> None:
    recipe = Recipe(stages=(Quantize(learner=conformance.instance("learner", learner)),))
    model = qt.from_params({"a": np.random.default_rng(0).normal(size=(18, 4)).astype(np.float32)})
    recipe.run(model, key=jax.random.key(0))
    with compilations() as compiled:
        recipe.run(model, key=jax.random.key(1))
    assert compiled == []


# --- Faults that must be found --------------------------------------------------------------------------------------


def kmeans(blocks: jax.Array, mask: jax.Array, key: jax.Array) -> tuple[Codebook, jax.Array]:
    return KMeans(k=3).learn(blocks, mask, key)


class Nan(qt.Learner):
    """Centroids that divide by a range of zero."""

    scalars_only = True

    def learn(self, blocks, mask, key):
        low, high = blocks.min(), blocks.max()
        codes = ((blocks - low) / (high - low) * 2).round().astype(jnp.int32)
        return Table(((low + (high - low) * jnp.arange(3.0) / 2) / (high - low) * (high - low))[None, :, None]), codes[
            ..., 0
        ]


class FloatCodes(qt.Learner):
    """Codes that are floats."""

    def learn(self, blocks, mask, key):
        book, codes = kmeans(blocks, mask, key)
        return book, codes.astype(jnp.float32)


class TooManyCodes(qt.Learner):
    """Codes from 1 instead of from 0."""

    def learn(self, blocks, mask, key):
        book, codes = kmeans(blocks, mask, key)
        return book, codes + 1


class FlatTable(qt.Learner):
    """A table without segments."""

    def learn(self, blocks, mask, key):
        book, codes = kmeans(blocks, mask, key)
        return Table(book.table()[0]), codes


class WorseThanZeros(qt.Learner):
    """Weights with the wrong sign."""

    def learn(self, blocks, mask, key):
        book, codes = kmeans(blocks, mask, key)
        return Table(-book.table()), codes


class Random(qt.Learner):
    """Other centroids each time."""

    def learn(self, blocks, mask, key):
        book, codes = kmeans(blocks, mask, key)
        return Table(book.table() * np.float32(np.random.default_rng().uniform(0.99, 1))), codes


class SeesPruned(qt.Learner):
    """Levels that span what is pruned, too."""

    scalars_only = True

    def learn(self, blocks, mask, key):
        scale = jnp.maximum(jnp.abs(blocks).max(), 1e-30) / 2
        codes = jnp.clip(jnp.round(blocks / scale) + 2, 0, 4).astype(jnp.int32)
        return Affine(scale, -2 * scale, 5), codes[..., 0]


class OneRung(qt.Learner):
    """Steps that are all alike."""

    @classmethod
    def ladder(cls):
        return (cls(), cls())

    def learn(self, blocks, mask, key):
        return kmeans(blocks, mask, key)


class NotDescribed(qt.Learner):
    """A setting that tells nothing."""

    example: ClassVar = {"k": 3}
    k: int

    def learn(self, blocks, mask, key):
        return kmeans(blocks, mask, key)


class NoDocstring(qt.Grouping):
    def groups(self, paths, leaves):
        return PerTensor().groups(paths, leaves)


class LeavesOut(qt.Grouping):
    """Forgets the last leaf."""

    def groups(self, paths: Sequence[str], leaves: Mapping[str, Any]) -> dict[str, list[str]]:
        return {"net": list(paths)[:-1] or list(paths)}


class Loses(Scalar):
    """Joins to zeros."""

    def join(self, blocks, shape):
        return jnp.zeros(shape)


class Miscounts(Scalar):
    """Tells another number of vectors."""

    def count(self, shape):
        return 1


class Wraps(qt.Coder):
    """Bytes, whatever the alphabet."""

    def table(self, *streams: Symbols) -> bytes:
        return b""

    def encode(self, symbols: Symbols, table: bytes) -> bytes:
        return symbols.values.astype(np.uint8).tobytes()

    def decode(self, payload: bytes, table: bytes, shape: tuple[int, ...], alphabet: int) -> np.ndarray:
        return np.frombuffer(payload, np.uint8).reshape(shape).astype(np.int32)


class Crashes(Wraps):
    """Damage is a crash."""

    def table(self, *streams: Symbols) -> bytes:
        if streams[0].alphabet > 256:
            raise qt.LeafError("at most 256 symbols")
        return b""


class Forgets(qt.Transform):
    """Fills what was pruned."""

    def run(self, compressed, context: Context):
        return compressed.replace(
            {path: Raw.of(leaf.decode(compressed.codebooks) + 1) for path, leaf in compressed.leaves.items()}
        )


class Wanders(qt.Stage):
    """Draws from the clock instead of from its key."""

    def run(self, compressed, context: Context):
        noise = np.float32(np.random.default_rng().normal())
        return compressed.replace({"fc1/bias": Raw.of(compressed.leaves["fc1/bias"].decode({}) + noise)})


class Nested(qt.Stage):
    """Stands for a preset, which a recipe would not expand again."""

    def expand(self):
        return (conformance.instance("stage", "kmeans"),)


FAULTS = [
    (Nan, "contract", "one weight that takes part|equal weights: .*(NaN|codes outside)"),
    (FloatCodes, "contract", "normal weights: codes are float32, not integers"),
    (TooManyCodes, "contract", "normal weights: codes outside of the codebook of 3"),
    (FlatTable, "contract", "normal weights: .*"),
    (WorseThanZeros, "contract", "normal weights: the squared error [0-9.e+]+ is above that of zeros"),
    (WorseThanZeros, "quantizes", "with learner .*kernel: the squared error is not less than that of zeros"),
    (Random, "contract", "normal weights: the same key gives something else"),
    (Random, "quantizes", "the same key gives another model"),
    (SeesPruned, "ignores what is pruned", "the codebook depends on blocks that the mask leaves out"),
    (OneRung, "ladder", "a rung stands there twice"),
    (NotDescribed, "settings", "settings without a description: k"),
    (NoDocstring, "settings", "NoDocstring has no docstring"),
    (LeavesOut, "groups", "of the leaves .*'tiny/kernel'.* the groups hold"),
    (Loses, "splits and joins", r"a leaf \(7,\) is not put together again"),
    (Loses, "quantizes", "kernel: the squared error is not less"),
    (Miscounts, "splits and joins", r"a leaf \(7,\) is split into \(1, 7, 1\), where the methods tell \(1, 1, 1\)"),
    (Wraps, "codes", "400 symbols of an alphabet of 300 decode to others|ValueError"),
    (Crashes, "codes", "ValueError: cannot reshape"),
    (Forgets, "keeps what was done before", "weights that were pruned are not zero any more"),
    (Wanders, "runs", "the same key gives another model"),
    (Nested, "expands", "it expands to other presets"),
]  # fmt: skip


@pytest.mark.parametrize(("plugin", "check", "told"), FAULTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_promise_is_found(plugin: type[Any], check: str, told: str) -> None:
    with registry.temporarily():
        qt.register("faulty")(plugin)
        with pytest.raises(qt.PluginError, match=f"{plugin.family} 'faulty', check '{check}': .*({told})"):
            conformance.check(plugin.family, "faulty", check)
        with pytest.raises(qt.PluginError):  # without a name: all of them, in order
            conformance.check(plugin.family, "faulty")


def test_each_check_has_a_fault_that_it_finds() -> None:
    found = {check for _, check, _ in FAULTS}
    assert {row.values[2] for row in TABLE} - found == {"devices", "stores"}


def test_what_can_not_be_checked_is_told() -> None:
    with registry.temporarily():

        @qt.register("needs")
        class Needs(qt.Learner):
            """Has a setting without default."""

            k: int = Field(ge=1, description="number")

            def learn(self, blocks, mask, key):
                return kmeans(blocks, mask, key)

        with pytest.raises(qt.PluginError, match=r"'needs': its `example` makes no instance \(k: Field required\)"):
            conformance.check("learner", "needs")
    with pytest.raises(qt.PluginError, match="no learner is called 'kmean'; did you mean 'kmeans'"):
        conformance.check("learner", "kmean")
    with pytest.raises(qt.PluginError, match="no check of learners is called 'contrakt'; did you mean 'contract'"):
        conformance.check("learner", "kmeans", "contrakt")
    with pytest.raises(qt.PluginError, match="there are no checks for the family 'encoding'"):
        conformance.check("encoding", "raw")
