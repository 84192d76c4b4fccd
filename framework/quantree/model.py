"""Adapters: what a `flax.nnx` module or a bare pytree of arrays is to quantree.

The core knows a network as two nested dicts of arrays, `params` (trained) and `state` (stored but not trained, such as
batch-norm statistics), and one pure function. Only this file, `widths.py` and `linen.py` know Flax's classes.
"""

import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from quantree.errors import LeafError, QuantreeError, nearest
from quantree.widths import Shapes, is_narrower, refit, shapes

DEEPEST = 64  # levels of a parameter tree; no file holds more
Tree = dict[str, Any]
Flat = dict[str, Any]
Layout = Literal["torch", "keras", "flax", "linen"]
"""Whose names and axes a checkpoint has."""
# What modules call the argument that tells training from use -> its value while training.
TRAIN_FLAGS = {
    **dict.fromkeys(("train", "training", "is_training"), True),
    **dict.fromkeys(("deterministic", "use_running_average", "inference", "eval"), False),
}


class Apply(Protocol):
    """The network as a pure function. Equal networks have equal, hashable `apply`s, so that jit compiles them once.

    It may be asked to run arrays of which some have fewer channels than those that it was made for.
    """

    def __call__(
        self, params: Tree, state: Tree, inputs: Any, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[Any, Tree]:
        """Returns (outputs, new state). `key` feeds dropout and the like; it is needed only if `train` is set."""
        ...


@dataclass(frozen=True)
class Stem:
    """What a network computes before its head, as functions of their own: while it is not trained, it need not run.

    branches: (part, apply) each; a branch sees `inputs[:, part]` of every example and gives features [n, width]. head:
    takes all features side by side, in the order of the branches, [n, widths together], to what the network gives.
    """

    branches: tuple[tuple[slice, Apply], ...]
    head: Apply


@dataclass(frozen=True)
class Model:
    """A network: its arrays and the function that they parametrise (None for a bare checkpoint).

    layout: of the checkpoint that it was read from, so that one can be written again; None if there was none. stem:
    where `apply` can be cut in two, if anywhere is known.
    """

    params: Tree
    state: Tree
    apply: Apply | None = None
    layout: Layout | None = None
    stem: Stem | None = None

    @property
    def dense_bytes(self) -> int:
        """Bytes of parameters and stored state in their own dtypes; the numerator of every compression ratio."""
        return sum(
            np.dtype(leaf.dtype).itemsize * int(np.size(leaf)) for leaf in jax.tree.leaves((self.params, self.state))
        )


def flatten(tree: Mapping[str, Any]) -> Flat:
    """`{"conv1": {"kernel": x}}` -> `{"conv1/kernel": x}`, in sorted order of paths."""
    flat: Flat = {}
    for key, value in tree.items():
        if not isinstance(key, str) or not key or "/" in key or not key.isprintable():
            raise LeafError(f"a key of a parameter tree must be a printable string without '/', not {key!r}")
        if isinstance(value, Mapping):
            flat |= {f"{key}/{path}": leaf for path, leaf in flatten(value).items()}
            deepest = max(flat, key=lambda path: path.count("/"), default="")
            if deepest.count("/") >= DEEPEST:
                raise LeafError(f"{deepest[:40]}...: more than {DEEPEST} levels of nesting")
        else:
            flat[key] = value
    return dict(sorted(flat.items()))


def unflatten(flat: Mapping[str, Any]) -> Tree:
    """The inverse of `flatten`. `LeafError` if one path lies inside another (`a` and `a/b`)."""
    tree: Tree = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        place = tree
        for level, parent in enumerate(parents, 1):
            place = place.setdefault(parent, {})
            if (outer := "/".join(parents[:level])) in flat:
                raise LeafError(f"{outer} and {path}: one lies inside the other, so no tree holds both; rename one")
        place[name] = leaf
    return tree


def from_params(params: Mapping[str, Any], state: Mapping[str, Any] | None = None, apply: Apply | None = None) -> Model:
    """A model from nested dicts of arrays.

    `LeafError` if a leaf is not an array of numbers or booleans that JAX can hold, if a key holds a slash, or if
    parameters and state share a path.
    """
    for name, tree in (("params", params), ("state", {} if state is None else state)):
        if not isinstance(tree, Mapping):
            raise QuantreeError(
                f"{name} must be nested dicts of arrays, not {told(tree)}; for a network of Flax there are "
                "from_nnx(module) and from_linen(module, variables)"
            )
    if apply is not None and not callable(apply):
        raise QuantreeError(f"apply must be a function (params, state, inputs, *, train, key), not {told(apply)}")
    trees = [{path: _array(path, leaf) for path, leaf in flatten(tree).items()} for tree in (params, state or {})]
    shared = sorted(trees[0].keys() & trees[1].keys())
    if shared:
        raise LeafError(f"{shared[0]}: a path is either a parameter's or the state's, and this one is in both")
    return Model(unflatten(trees[0]), unflatten(trees[1]), apply)


def _array(path: str, leaf: Any) -> jax.Array:
    if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
        raise LeafError(f"{path}: expected an array, not {type(leaf).__name__}")
    if not (jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == bool):
        raise LeafError(f"{path}: expected numbers or booleans, not {leaf.dtype}")
    if isinstance(leaf, np.ndarray):
        leaf = leaf.astype(leaf.dtype.newbyteorder("="), copy=False)
    if jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
        # JAX would round it without a word, and the model that is compressed would not be the one that was given.
        raise LeafError(
            f"{path}: JAX holds {leaf.dtype} only if jax_enable_x64 is set: set the environment variable "
            "JAX_ENABLE_X64=1, or cast the array"
        )
    return jnp.asarray(leaf)


def from_nnx(module: nnx.Module, branches: Mapping[str, slice] | None = None, head: str = "head") -> Model:
    """A model from a `flax.nnx` module, which is left as it is. Weights that are tied are one leaf.

    Leaves are named by their attributes (`layers/0/kernel`). RNG keys and counters are not part of the model, nor are
    by-products of earlier calls (`nnx.Intermediate`). branches: method -> the part `inputs[:, part]` that it takes to
    features [n, width]; head: the method that takes these, side by side in this order, to the outputs. They make the
    model's `stem`. `QuantreeError` if `__call__` wants more than the inputs and a flag for training (one of
    `TRAIN_FLAGS`), or such a method more than its input; if there is no such method; if a part is no slice.
    """
    _check_module(module)
    graph, params, random, state = _split(module)
    flat_params, flat_state, flat_random = (nnx.to_flat_state(part) for part in (params, state, random))
    apply = _NnxApply(
        graph,
        tuple(path for path, _ in flat_params),
        tuple(path for path, _ in flat_state),
        tuple((path, jnp.shape(leaf[...]), _is_key(leaf[...])) for path, leaf in flat_random),
        train_flags(type(module).__name__, module),
        shapes(leaf[...] for _, leaf in (*flat_params, *flat_state)),
    )
    stem = None
    if branches:
        _check_branches(branches)
        cut = {name: _method(apply, module, name) for name in (*branches, head)}
        stem = Stem(tuple((part, cut[name]) for name, part in branches.items()), cut[head])
    named = [{_name(path): jnp.asarray(leaf[...]) for path, leaf in flat} for flat in (flat_params, flat_state)]
    params, state = (unflatten(dict(sorted(each.items()))) for each in named)
    return Model(params, state, apply, stem=stem)


def to_nnx(module: nnx.Module, params: Tree, state: Tree, narrower: bool = False) -> nnx.Module:
    """A copy of `module` that holds these arrays. `LeafError` names the first leaf that is missing, left over, or of
    another shape. narrower: axes may be shorter than the module's, and the widths that layers of Flax keep are set
    to those of the arrays.
    """
    _check_module(module)
    graph, old_params, random, old_state = _split(module)
    fits: Callable[..., bool] = is_narrower if narrower else operator.eq
    parts = []
    for old, new in ((old_params, flatten(params)), (old_state, flatten(state))):
        flat = nnx.to_flat_state(old)
        for path, leaf in flat:
            found, wanted = new.get(_name(path)), jnp.shape(leaf[...])
            if found is None or not fits(jnp.shape(found), wanted):
                has = "nothing" if found is None else f"shape {jnp.shape(found)}"
                raise LeafError(f"{_name(path)}: the module wants shape {wanted}, the model has {has}")
        left = sorted(new.keys() - {_name(path) for path, _ in flat})
        if left:
            raise LeafError(f"{left[0]}: the model has it, the module does not")
        parts.append(_state({path: new[_name(path)] for path, _ in flat}))
    filled = nnx.merge(graph, parts[0], random, parts[1], copy=True)
    if narrower:
        refit(filled)
    return filled


def dense_bytes(module: nnx.Module) -> int:
    """Bytes of a module's parameters and stored state, as `Model.dense_bytes` counts them."""
    _, params, _, state = _split(module)
    return sum(jnp.asarray(leaf).nbytes for leaf in jax.tree.leaves((params, state)))


def told(value: Any) -> str:
    """What something is, for an error: the class itself is told from an instance of it."""
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _check_module(module: Any) -> None:
    if isinstance(module, type) and issubclass(module, nnx.Module):
        raise QuantreeError(
            f"expected a network, not {told(module)}; build it: {module.__name__}(..., rngs=nnx.Rngs(0))"
        )
    if not isinstance(module, nnx.Module):
        raise QuantreeError(
            f"expected an nnx.Module, not {told(module)}; there are also from_linen(module, variables) and "
            "from_params(params, state, apply)"
        )


def train_flags(name: str, call: Callable[..., Any]) -> tuple[str, ...]:
    """Which of its arguments tell a network whether it is being trained; `TRAIN_FLAGS` has their values.

    name: of the network, for `QuantreeError`: `call` does not take the inputs first, or wants an argument whose meaning
    nobody can know.
    """
    if not callable(call):
        raise QuantreeError(f"{name} has no __call__, so there is no telling how it is run; give it one")
    first, *rest = [*inspect.signature(call).parameters.values(), None, None]
    if first is None or first.name in TRAIN_FLAGS or first.kind in (first.KEYWORD_ONLY, first.VAR_KEYWORD):
        raise QuantreeError(f"{name}.__call__ must take the inputs as its first argument")
    flags = []
    for argument in (each for each in rest if each is not None):
        if argument.name in TRAIN_FLAGS and argument.kind in (argument.KEYWORD_ONLY, argument.POSITIONAL_OR_KEYWORD):
            flags.append(argument.name)
        elif argument.default is argument.empty and argument.kind not in (
            argument.VAR_POSITIONAL,
            argument.VAR_KEYWORD,
        ):
            raise QuantreeError(
                f"{name}.__call__ wants {argument.name!r}, and quantree gives only the inputs and a flag for training "
                f"({', '.join(TRAIN_FLAGS)}); give it a default, or describe the network by from_params(..., apply=...)"
            )
    return tuple(flags)


def flag_values(flags: tuple[str, ...], train: bool) -> dict[str, bool]:
    """Values of the flags that `train_flags` found."""
    return {flag: TRAIN_FLAGS[flag] == train for flag in flags}


def _split(module: nnx.Module) -> tuple[Any, Any, Any, Any]:
    """(graph, params, random, state)."""
    if any(isinstance(leaf, nnx.Intermediate) for _, leaf in nnx.to_flat_state(nnx.state(module))):
        module = nnx.clone(module)
        nnx.pop(module, nnx.Intermediate)
    graph, params, random, state = nnx.split(module, nnx.Param, nnx.RngState, ...)
    return graph, params, random, state


@dataclass(frozen=True)
class _NnxApply:
    """built: shapes of the arrays, in the order of `params` and `state`, that the graph was built with."""

    graph: nnx.GraphDef[Any]
    params: tuple[tuple[Any, ...], ...]
    state: tuple[tuple[Any, ...], ...]
    random: tuple[tuple[tuple[Any, ...], tuple[int, ...], bool], ...]
    flags: tuple[str, ...]
    built: Shapes
    method: str = "__call__"

    def __call__(
        self, params: Tree, state: Tree, inputs: Any, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[Any, Tree]:
        flat_params, flat_state = flatten(params), flatten(state)
        arrays = [{path: flat_params[_name(path)] for path in self.params}]
        arrays += [{path: flat_state[_name(path)] for path in self.state}]
        module = nnx.merge(self.graph, _state(arrays[0]), self._fresh_random(key), _state(arrays[1]), copy=True)
        if shapes(array for part in arrays for array in part.values()) != self.built:
            refit(module)
        module.train() if train else module.eval()
        outputs = getattr(module, self.method)(inputs, **flag_values(self.flags, train))
        if not train or not self.state:
            return outputs, state
        _, _, _, after = nnx.split(module, nnx.Param, nnx.RngState, ...)
        kept = ((path, leaf) for path, leaf in nnx.to_flat_state(after) if path in self.state)  # no by-products
        return outputs, unflatten({_name(path): leaf[...] for path, leaf in kept})

    def _fresh_random(self, key: jax.Array | None) -> nnx.State[Any, Any]:
        base = jax.random.key(0) if key is None else key
        leaves: dict[tuple[Any, ...], jax.Array] = {}
        for i, (path, shape, is_key) in enumerate(self.random):
            leaves[path] = (
                jax.random.split(jax.random.fold_in(base, i), shape) if is_key else jnp.zeros(shape, jnp.uint32)
            )
        return _state(leaves)


def _method(apply: _NnxApply, module: nnx.Module, name: str) -> _NnxApply:
    """The same with another method of the module in place of `__call__`."""
    found: Any = getattr(module, name, None)
    if not callable(found):
        names = [each for each in dir(module) if not each.startswith("_") and not hasattr(nnx.Module, each)]
        known = [each for each in names if callable(inspect.getattr_static(module, each))]
        raise QuantreeError(f"{type(module).__name__} has no method {name!r}; {nearest(name, known)}")
    return replace(apply, method=name, flags=train_flags(f"{type(module).__name__}.{name}", found))


def _check_branches(branches: Any) -> None:
    if not isinstance(branches, Mapping):
        raise QuantreeError(f"branches must name methods and their parts, {{name: slice}}, not {told(branches)}")
    for name, part in branches.items():
        if not isinstance(name, str) or not isinstance(part, slice):
            raise QuantreeError(f"branches: {name!r} must be the name of a method, and its part a slice, not {part!r}")


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(str(key) for key in path)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _state(flat: Mapping[tuple[Any, ...], Any]) -> nnx.State[Any, Any]:
    return nnx.from_flat_state(flat.items())
