"""The compressed model: one encoding for each leaf, the codebooks that they share, and the state."""

import dataclasses
import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from quantree.encodings.base import Codebook, Encoding, static
from quantree.encodings.coded import Coded
from quantree.encodings.plain import Raw
from quantree.errors import ConfigError, FormatError, QuantreeError, nearest
from quantree.model import Flat, Layout, Model, Tree, dense_bytes, flatten, to_nnx, unflatten

if TYPE_CHECKING:
    from flax import nnx


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Compressed:
    """A model as encodings. A pytree; every stage maps one to the next.

    leaves: path -> encoding. codebooks: name -> codebook. state: path -> array. dense_bytes: size of the uncompressed
    baseline, which no stage changes. layout: of the checkpoint that it came from, None if it was no checkpoint; what
    writes one again needs it.
    """

    leaves: dict[str, Encoding]
    codebooks: dict[str, Codebook]
    state: Flat
    dense_bytes: int = static()
    layout: Layout | None = dataclasses.field(default=None, metadata={"static": True})

    @classmethod
    def from_model(cls, model: Model) -> Self:
        """Every leaf as it is."""
        leaves: dict[str, Encoding] = {path: Raw.of(leaf) for path, leaf in flatten(model.params).items()}
        return cls(leaves, {}, flatten(model.state), model.dense_bytes, model.layout)

    def decode(self) -> Tree:
        """The parameters, as nested dicts of arrays. Pure and jit-able."""
        return unflatten({path: leaf.decode(self.codebooks) for path, leaf in self.leaves.items()})

    @property
    def narrower(self) -> bool:
        """True if a stage has taken channels away: its leaves and state decode to fewer bytes than the baseline has."""
        arrays = (*self.leaves.values(), *self.state.values())
        sizes = (np.dtype(each.dtype).itemsize * int(np.prod(each.shape, dtype=np.int64)) for each in arrays)
        return sum(sizes) < self.dense_bytes

    def to_nnx(self, module: "nnx.Module") -> "nnx.Module":
        """A copy of `module` that holds the decoded parameters and the state. `LeafError` names the first leaf that
        does not fit it. Of a model that is `narrower` than its baseline, a module as large as that gets the widths.
        """
        narrower = self.narrower and dense_bytes(module) == self.dense_bytes
        return to_nnx(module, self.decode(), unflatten(self.state), narrower)

    def to_linen(self) -> Tree:
        """The variables of a Linen module, for `module.apply`: collection `params`, and those of the state.

        For a network that came from Linen; nothing tells where a model without state is from. If this model is
        `narrower` than its baseline, a module that is built with its widths can take them, or the baseline's
        `Model.apply`. `QuantreeError` if the state lies beside the parameters, as in nnx, and not in collections of
        its own.
        """
        params, state = self.decode(), unflatten(self.state)
        mixed = sorted(name for name, tree in state.items() if name in params or not isinstance(tree, dict))
        if mixed:
            raise QuantreeError(
                f"state {mixed[0]!r} is no collection of Linen's: this model is not from Linen; use to_nnx(module), or "
                "decode() and state"
            )
        return {"params": params, **state}

    def replace(
        self,
        leaves: Mapping[str, Encoding] | None = None,
        codebooks: Mapping[str, Codebook] | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> Self:
        """The same model with these leaves and codebooks exchanged or added; codebooks that no leaf uses are
        dropped.
        """
        new_leaves = {**self.leaves, **(leaves or {})}
        used = {name for leaf in new_leaves.values() for name in leaf.uses()}
        books = {name: book for name, book in {**self.codebooks, **(codebooks or {})}.items() if name in used}
        return dataclasses.replace(
            self, leaves=new_leaves, codebooks=books, state=self.state if state is None else dict(state)
        )

    def check(self) -> None:
        """`FormatError` if a leaf names a codebook that is missing or that does not fit."""
        for path, leaf in self.leaves.items():
            missing = [name for name in leaf.uses() if name not in self.codebooks]
            if missing:
                raise FormatError(f"{path}: its codebook {missing[0]!r} is not in the file")
            if isinstance(leaf, Coded):
                try:
                    leaf.check(self.codebooks)
                except FormatError as error:
                    raise FormatError(f"{path}: {error}") from None


def match(patterns: Iterable[str], paths: Iterable[str], what: str = "leaf") -> list[str]:
    """Paths that fit any of the shell-style patterns (`conv*/kernel`; `*` also matches a slash), in their order.

    `ConfigError` if one of the patterns fits none: nothing is skipped in silence. what: the paths name, for that error.
    """
    known = list(paths)
    found: set[str] = set()
    for pattern in patterns:
        hits = fnmatch.filter(known, pattern)
        if not hits:
            longer = (each for each in (f"{pattern}/*", f"*/{pattern}/*") if fnmatch.filter(known, each))
            hint = next((f"did you mean {each!r}?" for each in longer), nearest(pattern, known))
            raise ConfigError(f"pattern {pattern!r} matches no {what}; {hint}", pattern)
        found.update(hits)
    return [path for path in known if path in found]


def is_float(leaf: Any) -> bool:
    """True for an array of floats."""
    return jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)


def field_name(path: tuple[Any, ...]) -> str:
    """Name of a field from its place in the pytree: `fc1/kernel/value`, `codebooks/fc1/kernel/centroids`,
    `state/...`.
    """
    section, item, *fields = path
    prefix = "" if section.name == "leaves" else f"{section.name}/"
    return prefix + "/".join([item.key, *(field.name for field in fields)])


def _is_float_field(path: tuple[Any, ...], leaf: Any) -> bool:
    return path[0].name != "state" and is_float(leaf)


def float_fields(compressed: Compressed) -> dict[str, jax.Array]:
    """Every float array of leaves and codebooks, by name."""
    fields = jax.tree_util.tree_leaves_with_path(compressed)
    return {field_name(path): leaf for path, leaf in fields if _is_float_field(path, leaf)}


def map_floats(function: Callable[[str, jax.Array], jax.Array], compressed: Compressed) -> Compressed:
    """Applies `function(name, array)` to every array that `float_fields` lists."""

    def visit(path: Any, leaf: Any) -> Any:
        return function(field_name(path), leaf) if _is_float_field(path, leaf) else leaf

    return jax.tree_util.tree_map_with_path(visit, compressed)


def partition(compressed: Compressed, trained: Callable[[str], bool] | None = None) -> tuple[Any, Any]:
    """Splits a model in two of the same structure: the float fields to be trained, and the rest; None elsewhere.

    `trained(name)` picks among `float_fields`; the default is all of them. `jax.grad` refuses integers, so the first
    part is what it sees. The second is an argument beside it and never closed over: XLA would fold a million codes as
    constants.
    """

    def is_trained(path: Any, leaf: Any) -> bool:
        return _is_float_field(path, leaf) and (trained is None or trained(field_name(path)))

    chosen = jax.tree_util.tree_map_with_path(is_trained, compressed)
    first = jax.tree.map(lambda yes, leaf: leaf if yes else None, chosen, compressed)
    second = jax.tree.map(lambda yes, leaf: None if yes else leaf, chosen, compressed)
    return first, second


def combine(first: Any, second: Any) -> Any:
    """The inverse of `partition`."""
    return jax.tree.map(lambda a, b: b if a is None else a, first, second, is_leaf=lambda leaf: leaf is None)


def total_weights(compressed: Compressed) -> int:
    """Number of parameters of the model that the encodings stand for."""
    return sum(int(np.prod(leaf.shape, dtype=np.int64)) for leaf in compressed.leaves.values())
