"""Whether a network still computes the same, for transforms that must not change it: measured, not believed."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quantree.encodings import Compressed, Pruned, Raw
from quantree.errors import DataError, QuantreeError
from quantree.model import Apply, unflatten
from quantree.stage import Context

_BATCH = 256
TOLERANCE = 1e-4  # of the largest output, where nothing is coarser than single precision
ROUNDINGS = 8


class Change(NamedTuple):
    """The largest change of an output, relative to the largest output of its array, and how much of it is allowed."""

    found: float
    allowed: float

    @property
    def small(self) -> bool:
        """False for NaN too."""
        return self.found <= self.allowed


def change(before: Compressed, after: Compressed, context: Context, tolerance: float | None = None) -> Change | None:
    """How outputs in eval mode differ between two models of one network, on one batch of up to 256 validation inputs.

    tolerance: what is allowed; default: 1e-4, or 8 roundings of the coarsest dtype of outputs and changed leaves. None
    if there is nothing to run: a bare checkpoint, or no data. `DataError` if the validation split is empty.
    """
    apply = context.model.apply
    if apply is None or context.data is None:
        return None
    batch = next(iter(context.data.validation(_BATCH)), None)
    if batch is None:
        raise DataError("there is nothing to check the new network on: the validation split is empty")
    # Not in TF32, whose rounding is coarser than the tolerance.
    with jax.default_matmul_precision("highest"):
        old, new = (_forward(apply)(net.decode(), unflatten(net.state), batch[0]) for net in (before, after))
    changed = (leaf for path, leaf in after.leaves.items() if before.leaves.get(path) is not leaf)
    dtypes = [leaf.value.dtype for leaf in changed if isinstance(leaf, Raw | Pruned)]
    dtypes += [leaf.dtype for leaf in jax.tree.leaves(old)]
    coarsest = max((float(jnp.finfo(each).eps) for each in dtypes if jnp.issubdtype(each, jnp.floating)), default=0.0)
    pairs = zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
    # `max` alone would drop a NaN that does not come first.
    found = float(np.max([_relative(*pair) for pair in pairs], initial=0.0))
    return Change(found, tolerance or max(TOLERANCE, ROUNDINGS * coarsest))


def assert_same(
    before: Compressed,
    after: Compressed,
    context: Context,
    what: str,
    *,
    hint: str = "",
    tolerance: float | None = None,
) -> None:
    """`QuantreeError` if outputs differ by more than `change` allows. Says nothing where it can't run the network.

    what: the new network in that message, such as "the folded network". hint: a sentence for its end.
    """
    found = change(before, after, context, tolerance)
    if found is not None and not found.small:
        raise QuantreeError(
            f"{what} is another one: an output changes by {found.found:.2g} of the largest output, more than "
            f"{found.allowed:.2g}. {hint}".rstrip(" .")
        )


def _relative(one: Any, other: Any) -> float:
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if one.shape != other.shape:
        return float("inf")
    largest = max(float(np.max(np.abs(one), initial=0.0)), float(np.finfo(np.float32).tiny))
    return float(np.max(np.abs(other - one), initial=0.0)) / largest


@functools.lru_cache(maxsize=64)
def _forward(apply: Apply) -> Callable[[Any, Any, Any], Any]:
    return jax.jit(lambda params, state, inputs: apply(params, state, inputs)[0])
