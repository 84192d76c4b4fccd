"""The adapter of `flax.linen`: a module and its variables as a model.

Linen's `params` are the parameters; every other collection (`batch_stats`, ...) is state, under its own name.
"""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import errors, linen
from flax.core import meta, unfreeze

from quantree.errors import QuantreeError
from quantree.model import TRAIN_FLAGS, Model, Tree, flag_values, flatten, from_params, told, train_flags, unflatten
from quantree.widths import Shapes, shapes

_BY_PRODUCTS = {"intermediates", "perturbations"}


def from_linen(module: linen.Module, variables: Mapping[str, Any]) -> Model:
    """A model from a Linen module and its variables, as `module.init` returns them; a FrozenDict will do.

    What `sow` and `perturb` left among them is no part of the model. Training is told to the module by whichever
    arguments of `__call__`, or else fields of the module, are called `train`, `deterministic` and so on
    (`TRAIN_FLAGS`). Raises `QuantreeError` if it can't be known how the module is called, and `LeafError` as
    `from_params` does.
    """
    if isinstance(module, Mapping) and isinstance(variables, linen.Module):
        raise QuantreeError("from_linen takes the module first, then its variables")
    if isinstance(module, type) and issubclass(module, linen.Module):
        raise QuantreeError(f"expected a network, not {told(module)}; build it: {module.__name__}(...)")
    if not isinstance(module, linen.Module):
        raise QuantreeError(f"expected a linen.Module, not {told(module)}; for nnx there is from_nnx(module)")
    if not isinstance(variables, Mapping):
        raise QuantreeError(f"expected the variables that `init` returned, a dict, not {told(variables)}")
    collections = {name: _plain(tree) for name, tree in variables.items() if name not in _BY_PRODUCTS}
    if collections and "params" not in collections:
        known = ", ".join(map(str, variables))
        raise QuantreeError(
            f"{_name(module)}: the variables hold no collection 'params' (but {known}); give what `init` returned, or "
            f'{{"params": ...}}'
        )
    params = collections.pop("params", {})  # none at all: a network without weights
    model = from_params(params, {name: tree for name, tree in collections.items() if not _is_sown(tree)})
    built = shapes(flatten(model.params).values())
    return dataclasses.replace(model, apply=_apply(module, stateful=bool(model.state), built=built))


def init(module: linen.Module, key: jax.Array, inputs: Any) -> Tree:
    """Fresh variables for inputs [n, ...]; raises as `from_linen` does."""
    return _apply(module, stateful=False).init(key, inputs)


@dataclass(frozen=True)
class _LinenApply:
    """module: not bound, with flags yet to be set. arguments, fields: flags of `__call__`, flags among its fields.
    built: shapes of the parameters that the module makes, in the order of their paths.
    """

    module: linen.Module
    arguments: tuple[str, ...]
    fields: tuple[str, ...]
    built: Shapes

    def __call__(
        self, params: Tree, state: Tree, inputs: Any, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[Any, Tree]:
        narrow = shapes(flatten(params).values()) != self.built
        try:
            with linen.intercept_methods(_refitted) if narrow else contextlib.nullcontext():
                return self._run(params, state, inputs, train, key)
        except (errors.ScopeCollectionNotFound, errors.ScopeVariableNotFoundError) as error:
            raise QuantreeError(
                f"{_name(self.module)} needs variables that its model lacks ({_first_line(error)}); give from_linen "
                "all that `init` returned, batch_stats included"
            ) from error

    def _run(self, params: Tree, state: Tree, inputs: Any, train: bool, key: jax.Array | None) -> tuple[Any, Tree]:
        variables = {"params": params, **state}
        module, flags = self._flagged(train), _flags(self.arguments, train)
        if not train:
            try:
                return module.apply(variables, inputs, **flags), state
            except (errors.InvalidRngError, errors.ModifyScopeVariableError) as error:
                raise QuantreeError(
                    f"{_name(module)} draws random numbers or changes its state although it is not being trained "
                    f"({_first_line(error)}); a flag such as `train` must turn that off"
                ) from error
        outputs, changed = module.apply(variables, inputs, **flags, rngs=_streams(key), mutable=list(state))
        after = flatten(changed)
        return outputs, unflatten({path: after.get(path, leaf) for path, leaf in flatten(state).items()})

    def init(self, key: jax.Array, inputs: Any) -> Tree:
        """Fresh variables."""
        return dict(self._flagged(False).init(_streams(key), inputs, **_flags(self.arguments, False)))

    def _flagged(self, train: bool) -> linen.Module:
        return self.module.clone(**_flags(self.fields, train)) if self.fields else self.module


def _apply(module: linen.Module, stateful: bool, built: Shapes = ()) -> _LinenApply:
    module = module.clone(parent=None)
    try:
        hash(module)
    except TypeError:
        raise QuantreeError(
            f"{_name(module)} can't be compared with other modules, because one of its fields is not hashable "
            "(a dict, a list in a dict, an array); use tuples"
        ) from None
    arguments = train_flags(_name(module), module)
    fields = () if arguments else tuple(each.name for each in dataclasses.fields(module) if each.name in TRAIN_FLAGS)
    if stateful and not arguments and not fields:
        _refuse_doubtful(module)
    return _LinenApply(module, arguments, fields, built)


def _refitted(method: Callable[..., Any], args: Any, kwargs: Any, context: linen.module.InterceptorContext) -> Any:
    """Calls a layer with the widths that its arrays have, if these have fewer channels than it was built with.

    It is the copy that Linen made for this one run of the network, so that nobody else sees the change.
    """
    layer = context.module
    if layer.scope is not None:
        own = layer.scope.variables().get("params", {})
        kernel = meta.unbox(own.get("kernel", own.get("embedding")))
        if kernel is not None and not isinstance(kernel, Mapping):
            for name, width in _widths(layer, jnp.shape(kernel), args).items():
                object.__setattr__(layer, name, width)
    return method(*args, **kwargs)


def _widths(layer: Any, kernel: tuple[int, ...], args: Any) -> Mapping[str, Any]:
    """Fields of a layer that tell a width -> what its kernel, or the table of an embedding, says."""
    match layer:
        case linen.Einsum():
            return {"shape": kernel}
        case linen.Embed():
            return {"num_embeddings": kernel[0], "features": kernel[1]}
        case linen.DenseGeneral(features=[*features]):
            return {"features": kernel[-len(features) :]}
        case linen.ConvTranspose(transpose_kernel=True):
            return {"features": kernel[-2]}
        case linen.Conv(feature_group_count=groups) if groups > 1 and args:
            return {"features": kernel[-1], "feature_group_count": jnp.shape(args[0])[-1] // kernel[-2]}
        case linen.Module(features=int()):
            return {"features": kernel[-1]}
    return {}


def _refuse_doubtful(module: linen.Module) -> None:
    """A network with state must know whether it is trained; here only a switch of an unknown name could tell it."""
    switches = [name for name, each in inspect.signature(module).parameters.items() if isinstance(each.default, bool)]
    if switches:
        raise QuantreeError(
            f"{_name(module)}.__call__ has state, and no argument says that it is being trained: {switches[0]!r} is "
            f"none of {', '.join(TRAIN_FLAGS)}; rename it, or describe the network by from_params(..., apply=...)"
        )


def _flags(names: tuple[str, ...], train: bool) -> dict[str, Any]:
    return {**flag_values(names, train)}


def _streams(key: jax.Array | None) -> dict[str, jax.Array]:
    """Random streams; those of any other name are drawn from that called params."""
    base, dropout = jax.random.split(jax.random.key(0) if key is None else key)
    return {"params": base, "dropout": dropout}


def _plain(tree: Any) -> Any:
    """Without Flax's own dicts, and without the boxes in which it notes how arrays are to be sharded."""
    return meta.unbox(unfreeze(tree))


def _is_sown(tree: Any) -> bool:
    """True for a collection that `sow` filled: it makes tuples."""
    return any(isinstance(leaf, tuple) for leaf in jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, tuple)))


def _name(module: linen.Module) -> str:
    return type(module).__name__


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].partition(" (http")[0]
