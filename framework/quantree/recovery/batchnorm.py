"""Re-estimating the statistics of batch normalisation, which no longer fit once the weights have changed."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from quantree.encodings import Compressed
from quantree.encodings.compressed import is_float
from quantree.errors import ConfigError, DataError, LeafError
from quantree.model import Apply, Flat, flatten, unflatten
from quantree.recovery.loop import applied
from quantree.registry import register
from quantree.stage import Context, Recovery
from quantree.task import Augment, prefetch

# A state of P shows the momentum to a precision of about 1e-7: m = (step(P) - step(0)) / P. The larger P, the less does
# the batch's own statistic round off; a power of two divides exactly.
_PROBE = 2.0**20
_LEAST = 1e-5  # of a batch in a running average; less could as well be rounding


@register("batchnorm")
class BatchNorm(Recovery):
    """Replaces running means and variances by their averages over training batches (cumulative momentum t / (t + 1)).

    Compressed weights shift the activations that a norm sees; the statistics stored with the network are then the main
    error of a coarse code. Needs no labels, trains nothing, and works for any network: a running average takes
    s -> m s + (1 - m) b for a batch with statistic b, so two steps from chosen s tell m, and one step from 0 tells b.
    Each batch counts alike. The variance is the mean of the variances within the batches, as Flax keeps it; the spread
    between their means is not in it, so take batches that are not small. One pass over the training data at most: if it
    has fewer batches than `batches`, those are used.

    Inputs are augmented only if `augment` says so: a network that was trained on augmented images (padded ones, say)
    expects the statistics of those. The network runs in train mode, so its dropout is on, as it was when the statistics
    were first made. Float state that train mode leaves as it is, or that is no running average, stays the same.
    `ConfigError` if that is all of the state; `LeafError` if a statistic is NaN or infinite, or if the outputs in train
    mode depend on it.
    """

    batches: int = Field(default=32, ge=1, description="training batches to average over, if there are so many")
    batch_size: int = Field(default=128, ge=1, description="examples in one batch")
    augment: bool = Field(default=False, description="augment the examples as in training, if the data say how")

    def run(self, compressed: Compressed, context: Context) -> Compressed:
        data, train = context.need_data(self.name), _train(applied(context.model))
        order, noise = jax.random.split(context.key)
        seed = int(jax.random.randint(order, (), 0, 2**31 - 1))
        stream = prefetch(itertools.islice(data.train(seed, 0, self.batch_size), self.batches))
        augment = data.augment if self.augment else None
        batches: Iterator[Any] = (
            inputs if augment is None else _augmented(augment)(jax.random.fold_in(order, number), inputs)
            for number, (inputs, _) in enumerate(stream)
        )
        params, state = compressed.decode(), compressed.state
        first = next(batches, None)
        if first is None:
            raise DataError(f"there is no batch of {self.batch_size} training examples to take statistics from")

        momentum = _momentum(lambda state: train({}, params, state, first, noise), state)
        zeros = {**state, **{path: jnp.zeros(m.shape, _wide(state[path])) for path, m in momentum.items()}}
        total = {path: jnp.zeros_like(zeros[path]) for path in momentum}  # of its own: the step takes it over
        count = 0
        for count, inputs in enumerate(itertools.chain([first], batches), 1):
            total, _ = train(total, params, zeros, inputs, jax.random.fold_in(noise, count))
        averages = {
            path: _finite(path, np.asarray(total[path]) / (count * (1 - m))).astype(state[path].dtype)
            for path, m in momentum.items()
        }
        return compressed.replace(state=state | {path: jnp.asarray(average) for path, average in averages.items()})


def _momentum(step: Callable[[Flat], tuple[Flat, Any]], state: Flat) -> dict[str, np.ndarray]:
    """Path -> momentum, float64 in the shape of the leaf, of those parts of the state that are running averages."""
    floats = {path: leaf.astype(_wide(leaf)) for path, leaf in state.items() if is_float(leaf)}
    after, _ = step(state | floats)
    moved = [path for path in floats if not np.array_equal(after[path], floats[path])]
    from_zero, outputs = step(state | {path: jnp.zeros_like(floats[path]) for path in moved})
    from_probe, others = step(state | {path: jnp.full_like(floats[path], _PROBE) for path in moved})
    found: dict[str, np.ndarray] = {}
    for path in moved:
        ends = [_finite(path, np.asarray(end[path], np.float64)) for end in (from_probe, from_zero)]
        momentum = (ends[0] - ends[1]) / _PROBE
        if (momentum < 1 - _LEAST).all():
            found[path] = momentum
    if not found:
        raise ConfigError("the model has no running statistics: no float of its state is an average over batches")
    for one, other in zip(*map(jax.tree.leaves, (outputs, others)), strict=True):
        if not np.allclose(np.asarray(one, np.float64), np.asarray(other, np.float64), rtol=1e-3, atol=1e-6):
            raise LeafError(
                f"{', '.join(moved)}: the outputs in train mode depend on this state, so that it is more than "
                "statistics of batches; `batchnorm` can't re-estimate it"
            )
    return found


@functools.lru_cache(maxsize=64)
def _train(apply: Apply) -> Callable[[Flat, Any, Flat, Any, jax.Array], tuple[Flat, Any]]:
    """Jitted: (total, params, state, inputs, key) -> (total + the state after one step in train mode, outputs).

    Adds up the paths of `total`, or gives the whole new state if there are none.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def train(total: Flat, params: Any, state: Flat, inputs: Any, key: jax.Array) -> tuple[Flat, Any]:
        outputs, new = apply(params, unflatten(state), inputs, train=True, key=key)
        after = flatten(new)
        if not total:
            return after, outputs
        return {path: value + after[path].astype(value.dtype) for path, value in total.items()}, None

    return train


@functools.lru_cache(maxsize=64)
def _augmented(augment: Augment) -> Augment:
    return jax.jit(augment)


def _wide(leaf: jax.Array) -> Any:
    """The dtype to add in: float32 for 16-bit floats."""
    return leaf.dtype if leaf.dtype.itemsize >= 4 else jnp.float32


def _finite(path: str, value: np.ndarray) -> np.ndarray:
    if not np.isfinite(value).all():
        raise LeafError(f"{path}: the statistic of a training batch is NaN or infinite; look at weights and data")
    return value
