"""How much a network minds: gradients of its loss, and its metric, before any recovery."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quantree.errors import DataError, QuantreeError
from quantree.model import Apply, Model, Tree, flatten, unflatten
from quantree.task import Data, Score, measure

_BATCH = 128  # for gradients
_EVALUATION_BATCH = 1000


def squared_gradients(
    model: Model, params: Tree, state: Tree, paths: Sequence[str], data: Data, batches: int, seed: int
) -> dict[str, float]:
    """Mean over the weights of each leaf, and over batches, of the square of the gradient of the batch's mean loss.

    A diagonal Fisher information, one number for a leaf. The network runs in eval mode. `DataError` if there are no
    batches, or if a gradient is not finite.
    """
    flat = flatten(params)
    taken = {path: flat[path] for path in paths}
    rest = {path: leaf for path, leaf in flat.items() if path not in taken}
    squares = _squares(applied(model), data.task.loss)
    found = [
        squares(taken, rest, state, inputs, targets)
        for inputs, targets in itertools.islice(data.train(seed, 0, _BATCH), batches)
    ]
    if not found:
        raise DataError("there is nothing to take gradients on: the training split is empty")
    means = {path: float(np.mean([np.float64(each[path]) for each in found])) for path in paths}
    bad = [path for path, mean in means.items() if not np.isfinite(mean)]
    if bad:
        raise DataError(f"{bad[0]}: the gradient of the loss on training data is not finite")
    return means


def score(model: Model, params: Tree, state: Tree, data: Data) -> Score:
    """Loss and metric of the network on the validation split, with other arrays than its own."""
    forward = functools.partial(_forward(applied(model)), params, state)
    return measure(forward, data.validation(_EVALUATION_BATCH), data.task)


def baseline_score(model: Model, data: Data) -> Score:
    """Score of the network as it is. `DataError` if its loss is not finite: the metric of NaN would be a number too,
    and the same number for whatever is made of the network.
    """
    found = score(model, model.params, model.state, data)
    if not np.isfinite(found.loss):
        raise DataError(
            f"the loss of the uncompressed network on validation data is {found.loss}; look at the data and its weights"
        )
    return found


def applied(model: Model) -> Apply:
    """The model's function; `QuantreeError` if it has none."""
    if model.apply is None:
        raise QuantreeError(
            "this model has no `apply`: a bare checkpoint can be compressed to a size, but neither measured nor derived"
        )
    return model.apply


@functools.lru_cache(maxsize=64)
def _forward(apply: Apply) -> Callable[..., jax.Array]:
    return jax.jit(lambda params, state, inputs: apply(params, state, inputs)[0])


@functools.lru_cache(maxsize=64)
def _squares(apply: Apply, loss: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[..., Any]:
    @jax.jit
    def squares(taken: Any, rest: Any, state: Any, inputs: Any, targets: Any) -> dict[str, jax.Array]:
        def mean_loss(taken: Any) -> jax.Array:
            outputs, _ = apply(unflatten({**rest, **taken}), state, inputs)
            return jnp.mean(loss(outputs, targets))

        gradients = jax.grad(mean_loss)(taken)
        return {path: jnp.mean(jnp.square(each.astype(jnp.float32))) for path, each in gradients.items()}

    return squares
