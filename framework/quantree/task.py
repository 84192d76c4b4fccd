"""What a network is for, and the batches that stages train and measure on.

A batch is a pair (inputs [n, ...], targets [n, ...]). Everything is addressed by seed and epoch, so that a run which
was cut off can be taken up again at the same batch.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from quantree.errors import DataError
from quantree.registry import Plugin, register

Batch = tuple[Any, Any]
Augment = Callable[[jax.Array, jax.Array], jax.Array]
T = TypeVar("T")


class Task(Plugin, family="task"):
    """Loss to train on and metric to report.

    `loss(outputs [n, ...], targets [n, ...]) -> [n]` is differentiable and runs under jit; `metric(outputs, targets)
    -> float` sees the whole split as NumPy arrays, on the host. `outputs` says what the network gives: unnormalised
    log-probabilities over the last axis, or plain values.
    """

    loss: Callable[[jax.Array, jax.Array], jax.Array]
    metric: Callable[[np.ndarray, np.ndarray], float]
    metric_name: str
    direction: Literal["max", "min"]
    outputs: Literal["logits", "values"] = "values"

    def better(self, new: float, old: float) -> bool:
        """True if metric `new` beats `old`."""
        return new > old if self.direction == "max" else new < old

    def beside(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Further metrics of the same whole split, to report and never to choose by: name -> value."""
        del outputs, targets
        return {}

    def check_targets(self, targets: Any, outputs: int | None = None) -> None:
        """`DataError` if these can't be targets of the task. outputs: the last axis of the network's outputs, where it
        is known.
        """


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy in nats: logits [n, c], integer labels [n] -> [n]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows whose largest logit is the label: logits [n, c], labels [n] -> 0..1."""
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


@register("classification")
class Classification(Task):
    """Cross-entropy over classes; accuracy between 0 and 1."""

    loss: Callable[[jax.Array, jax.Array], jax.Array] = cross_entropy
    metric: Callable[[np.ndarray, np.ndarray], float] = accuracy
    metric_name: str = "accuracy"
    direction: Literal["max", "min"] = "max"
    outputs: Literal["logits", "values"] = "logits"

    def check_targets(self, targets: Any, outputs: int | None = None) -> None:
        """`DataError` unless they are integers [n], none negative, and below the number of logits. Only cross-entropy
        asks for that: another loss may want others.
        """
        if self.loss is not cross_entropy:
            return
        if np.dtype(targets.dtype).kind not in "iu" or targets.ndim != 1:
            shape = ", ".join(["n", *map(str, targets.shape[1:])])
            raise DataError(
                f"targets of a classification are integers [n], the number of the class, not {targets.dtype} [{shape}]"
            )
        least, most = int(targets.min(initial=0)), int(targets.max(initial=0))
        if least < 0 or (outputs is not None and most >= outputs):
            allowed = "0 and up" if outputs is None else f"0 to {outputs - 1}, as the network has {outputs} logits"
            raise DataError(f"a target is {least if least < 0 else most}; classes are numbered {allowed}")


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Squared difference, its mean where an example has several targets: outputs of as many numbers, targets [n, ...]
    -> [n]; [n, 1] and [n] go together.
    """
    squares = jnp.square(outputs.reshape(targets.shape) - targets.astype(outputs.dtype))
    return jnp.mean(squares.reshape(len(squares), -1), axis=1)


def mean_squared_error(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Mean of the squared differences, in float64: outputs and targets as in `squared_error`."""
    wanted = targets.astype(np.float64)
    return float(np.mean(np.square(outputs.reshape(wanted.shape) - wanted)))


def concordance_index(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Share of the pairs of examples with different targets that the outputs put in the right order, 0..1.

    CI = sum over pairs with y_i > y_j of h(f_i - f_j), over the number of such pairs; h is 1, 1/2 or 0 where its
    argument is above, at or below zero (Gonen and Heller 2005; Ozturk et al. 2018, equation 2). 1/2 is chance.

    outputs [n] or [n, 1], targets [n]; O(n log n). Infinite outputs have their place in the order; a NaN has none, and
    with one among the outputs the index is NaN. `DataError` if all targets are equal, or if there are not as many
    outputs.
    """
    f, y = outputs.reshape(-1).astype(np.float64), targets.reshape(-1).astype(np.float64)
    if f.size != y.size:
        raise DataError(f"a concordance index wants one number for each of {y.size} examples, not {f.size} in all")
    of_outputs, of_targets = _equal_pairs(f), _equal_pairs(y)
    total = len(y) * (len(y) - 1) // 2
    ordered = total - of_targets
    if not ordered:
        raise DataError("a concordance index needs two examples with different targets, and all are equal")
    if np.isnan(f).any():
        return math.nan
    if of_outputs == total:
        return 0.5
    from scipy.stats import kendalltau  # takes longer to import than all else here

    # Kendall's tau is the surplus of right over wrong pairs, over the root of (pairs apart in f) (pairs apart in y).
    found: Any = kendalltau(f, y)
    surplus = found.statistic * math.sqrt(total - of_outputs) * math.sqrt(ordered)
    return float((1 + surplus / ordered) / 2)


def _equal_pairs(values: np.ndarray) -> int:
    _, counts = np.unique(values, return_counts=True)
    return int(np.sum(counts * (counts - 1) // 2))


@register("regression")
class Regression(Task):
    """Squared error of plain numbers; the metric is its mean. The concordance index is told beside it."""

    loss: Callable[[jax.Array, jax.Array], jax.Array] = squared_error
    metric: Callable[[np.ndarray, np.ndarray], float] = mean_squared_error
    metric_name: str = "mse"
    direction: Literal["max", "min"] = "min"

    def beside(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """See `Task.beside`: whichever of mean squared error and concordance index is not the metric."""
        known = {"mse": mean_squared_error}
        if np.ptp(targets) > 0:
            known["concordance"] = concordance_index
        return {name: metric(outputs, targets) for name, metric in known.items() if name != self.metric_name}

    def check_targets(self, targets: Any, outputs: int | None = None) -> None:
        """`DataError` unless they are finite floats [n]."""
        if np.dtype(targets.dtype).kind != "f" or targets.ndim != 1:
            shape = ", ".join(["n", *map(str, targets.shape[1:])])
            raise DataError(f"targets of a regression are floats [n], not {targets.dtype} [{shape}]")
        if outputs is not None and outputs not in (1, len(targets)):
            raise DataError(f"a regression wants one number for each example, and the network gives {outputs}")
        if not np.isfinite(targets).all():
            raise DataError("a target is NaN or infinite")


@register("concordance")
class Concordance(Regression):
    """Trained on squared error like `regression`, but chosen and reported by the concordance index."""

    metric: Callable[[np.ndarray, np.ndarray], float] = concordance_index
    metric_name: str = "concordance"
    direction: Literal["max", "min"] = "max"


@dataclass(frozen=True)
class Data:
    """The data that stages may see: the training and the validation split. The test split never gets here.

    train: `(seed, epoch, batch_size)` -> one epoch of equally sized batches, in an order fixed by seed and epoch.
    validation: `(batch_size,)` -> every example once, in a fixed order; the last batch may be short.
    examples: number of training examples; None: found out by running through an epoch once. augment: `(key, inputs)`
    -> inputs of the same shape, drawn at random; runs under jit inside the training step and nowhere else, so that
    `train` gives the examples as they are. Equal augmentations must be equal and hashable.
    """

    train: Callable[[int, int, int], Iterable[Batch]]
    validation: Callable[[int], Iterable[Batch]]
    task: Task
    examples: int | None = None
    augment: Augment | None = None

    def __post_init__(self) -> None:
        _check_task(self.task)

    @classmethod
    def from_arrays(cls, train: Batch, validation: Batch, task: Task) -> "Data":
        """Wraps arrays held in memory; each split is (inputs [n, ...], targets [n, ...]). `DataError` if one is empty,
        if its two arrays differ in length, or if the targets don't fit the task.
        """
        _check_task(task)
        for name, split in (("training", train), ("validation", validation)):
            if not isinstance(split, tuple | list) or len(split) != 2:
                raise DataError(f"the {name} split must be a pair (inputs, targets), not {_told(split)}")
            for what, array in zip(("inputs", "targets"), split, strict=True):
                if not hasattr(array, "dtype") or not getattr(array, "ndim", 0):
                    raise DataError(f"the {name} {what} must be an array [n, ...], not {_told(array)}")
            if len(split[0]) != len(split[1]) or not len(split[0]):
                raise DataError(f"the {name} split has {len(split[0])} inputs and {len(split[1])} targets")
            try:
                task.check_targets(split[1])
            except DataError as error:
                raise DataError(f"the {name} split: {error}") from None
        inputs, targets = train

        def shuffled(seed: int, epoch: int, batch_size: int) -> Iterator[Batch]:
            order = np.random.default_rng((seed, epoch)).permutation(len(inputs))
            size = min(batch_size, len(inputs))
            for start in range(0, len(inputs) - size + 1, size):
                chosen = order[start : start + size]
                yield inputs[chosen], targets[chosen]

        return cls(shuffled, lambda batch_size: batches(validation, batch_size), task, len(inputs))

    def steps(self, batch_size: int) -> int:
        """Batches in one epoch of training."""
        if self.examples is None:
            return sum(1 for _ in self.train(0, 0, batch_size))
        return max(1, self.examples // batch_size)


def _check_task(task: Any) -> None:
    if not isinstance(task, Task):
        raise DataError(f"task must be a Task, such as quantree.Classification(), not {_told(task)}")


def _told(value: Any) -> str:
    if hasattr(value, "shape"):
        return f"an array {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def batches(split: Batch, batch_size: int) -> Iterator[Batch]:
    """Cuts (inputs, targets) into batches, in order; the last one may be short."""
    inputs, targets = split
    for start in range(0, len(inputs), batch_size):
        yield inputs[start : start + batch_size], targets[start : start + batch_size]


def prefetch(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """The same items in the same order, of which a thread prepares up to `depth` while the last one is in use."""
    source, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, source, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, source, end))
            yield item  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class Score:
    """Mean loss and metric over a whole split, and what the task tells beside them."""

    loss: float
    metric: float
    beside: dict[str, float] = field(default_factory=dict)


def measure(forward: Callable[[Any], jax.Array], split: Iterable[Batch], task: Task) -> Score:
    """Runs `forward(inputs) -> outputs` over a split, once. The loss is the mean over examples. `DataError` if there
    is none.
    """
    outputs, targets = [], []
    for inputs, wanted in split:
        outputs.append(np.asarray(forward(inputs)))
        targets.append(np.asarray(wanted))
    if not outputs:
        raise DataError("there is nothing to measure on: the split is empty")
    all_outputs, all_targets = np.concatenate(outputs), np.concatenate(targets)
    task.check_targets(all_targets, all_outputs.shape[-1] if all_outputs.ndim else None)
    loss = jnp.mean(task.loss(jnp.asarray(all_outputs), jnp.asarray(all_targets)))
    # Plain floats, whatever a metric of someone's own returns: results are JSON.
    beside = {name: float(value) for name, value in task.beside(all_outputs, all_targets).items()}
    return Score(float(loss), float(task.metric(all_outputs, all_targets)), beside)
