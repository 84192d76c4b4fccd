"""The one training loop: baselines and recovery stages alike train a `Compressed`."""

import dataclasses
import functools
import itertools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

from quantree.encodings import Compressed, combine, partition
from quantree.encodings.compressed import field_name
from quantree.errors import DataError, QuantreeError
from quantree.model import Apply, Model, flatten, unflatten
from quantree.progress import track
from quantree.recovery.checkpoint import Checkpoints
from quantree.recovery.filters import FilterPenalty, Penalty
from quantree.recovery.objective import Objective
from quantree.recovery.stem import Features, beyond_stem, forward
from quantree.schema import Config
from quantree.task import Augment, Data, Score, measure, prefetch

_EVALUATION_BATCH = 1000


class Training(Config):
    """How to train. Rates are per step; an epoch is one pass over the training split."""

    epochs: int = Field(ge=1, description="passes over the training data")
    batch_size: int = Field(default=128, ge=1, description="examples in one step")
    optimizer: Literal["adam", "sgd"] = Field(default="adam", description="Adam, or SGD with Nesterov momentum")
    learning_rate: float = Field(default=1e-3, gt=0, description="step size at its highest")
    schedule: Literal["cosine", "constant"] = Field(
        default="cosine", description="step size over time; cosine ends at zero"
    )
    warmup: float = Field(
        default=0.0, ge=0, lt=1, description="share of all steps over which the step size rises from zero"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(
        default=0.0, ge=0, description="decoupled decay of plain weights (AdamW), times the step size"
    )
    l2: float = Field(
        default=0.0, ge=0, description="this times the sum of squares of all plain weights is added to the loss"
    )
    filters: FilterPenalty | None = Field(
        default=None, description="a penalty on whole filters, after which many of them can be removed; default: none"
    )
    clip: float | None = Field(default=None, gt=0, description="largest norm of the gradient over all parameters")
    patience: int | None = Field(
        default=None, ge=1, description="stop after so many epochs without a better validation metric"
    )
    keep: Literal["best", "last"] = Field(
        default="best", description="which epoch's weights to return, by validation metric"
    )

    def rates(self, steps: int) -> np.ndarray:
        """Step sizes, float32 [steps]."""
        warm = int(self.warmup * steps)
        parts = [optax.linear_schedule(0.0, self.learning_rate, warm)] if warm else []
        parts.append(
            optax.constant_schedule(self.learning_rate)
            if self.schedule == "constant"
            else optax.cosine_decay_schedule(self.learning_rate, steps - warm)
        )
        schedule = optax.join_schedules(parts, [warm] if warm else [])
        return np.broadcast_to(np.asarray(schedule(jnp.arange(steps, dtype=jnp.float32)), np.float32), (steps,))


class Fitted(NamedTuple):
    """The trained model, its score on the validation split, and a record per epoch (epoch, loss, metric, learning
    rate).
    """

    compressed: Compressed
    score: Score
    history: list[dict[str, float]]


Update = Callable[[Compressed, float], Compressed]


class _Run(NamedTuple):
    """Everything that changes while a network trains."""

    compressed: Compressed
    optimizer: Any
    best: Compressed


def fit(
    compressed: Compressed,
    *,
    model: Model,
    data: Data,
    training: Training,
    seed: int,
    objective: Objective | None = None,
    trained: Callable[[str], bool] | None = None,
    update: Update | None = None,
    update_every: int = 50,
    settled: float = 0.0,
    steps: int | None = None,
    folder: Path | None = None,
    checkpoint_seconds: float = 10.0,
    label: str = "training",
) -> Fitted:
    """Trains the float fields of a compressed model.

    trained: picks fields by name (see `encodings.float_fields`); default: all. update: called every `update_every`
    steps and once at the end with (model, progress 0..1); it may change values and masks, not shapes. settled: the
    progress before which no epoch counts as best, because the update still makes the model smaller. steps: of one
    epoch, at most; default: a pass over the training split. folder: checkpoints; a training that was killed and is
    started again with the same arguments ends bit for bit where an
    undisturbed one ends. A stem that is not trained runs once, before the first epoch (see `beyond_stem`). Raises
    `ConfigError` if a pattern of `training.filters` fits nothing that is trained, and `QuantreeError` if the loss stops
    being finite.
    """
    objective = objective or Objective(applied(model), data.task.loss)
    beginning = partition(compressed, trained)[0]
    penalty = training.filters and training.filters.over(beginning.leaves)
    if objective.apply == model.apply and not objective.distill:  # the teacher has a stem of its own
        short = beyond_stem(compressed, model, data, trained, update)
        if short is not None:
            model, data = short
            objective = dataclasses.replace(objective, apply=applied(model))
    steps = min(data.steps(training.batch_size), steps or sys.maxsize)
    rates = training.rates(steps * training.epochs)
    step, initialise = _compiled(objective, training.optimizer, training.momentum, training.clip, data.augment, penalty)
    pulls = [training.weight_decay, training.l2, training.filters.weight if training.filters else 0.0]
    teacher, key = (model.params, model.state), jax.random.key(seed)

    run = _Run(compressed, initialise(beginning), compressed)
    kept = evaluate(compressed, model, data) if settled == 0.0 else None
    peak, since, history, start = kept, 0, [], 0
    checkpoints = Checkpoints(folder, checkpoint_seconds)
    if found := checkpoints.restore(run):
        start, run, notes = found
        history, since = notes["history"], notes["since"]
        kept, peak = (Score(*notes[name]) if notes[name] else None for name in ("kept", "peak"))
    with track(label, training.epochs) as progress:
        progress.advance(start)
        for epoch in range(start, training.epochs):
            if training.patience is not None and since >= training.patience:
                break
            now, state, losses = run.compressed, run.optimizer, []
            first, rest = partition(now, trained)
            first = jax.tree.map(jnp.copy, first)  # the step takes its buffers over, and the caller still holds these
            batches = prefetch(itertools.islice(data.train(seed, epoch, training.batch_size), steps))
            for i, (inputs, targets) in enumerate(batches):
                done = epoch * steps + i
                if update is not None and done % update_every == 0:
                    first, rest = partition(update(combine(first, rest), done / len(rates)), trained)
                settings = np.asarray([rates[done], *pulls], np.float32)
                first, rest, state, loss = step(
                    first, rest, state, teacher, inputs, targets, key, np.uint32(done), settings
                )
                losses.append(loss)
            if len(losses) < steps:
                raise DataError(f"{label}: epoch {epoch + 1} has {len(losses)} batches of training data, not {steps}")
            loss = _finite(float(np.mean([float(each) for each in losses])), "loss", f"{label}, epoch {epoch + 1}")
            now, reached = combine(first, rest), (epoch + 1) / training.epochs
            if update is not None:
                now = update(now, reached)
            scored = evaluate(now, model, data)
            _finite(scored.loss, "validation loss", f"{label}, epoch {epoch + 1}")
            since = since + 1 if reached >= settled else 0
            if reached >= settled and (peak is None or _beats(scored, peak, data)):
                peak, since = scored, 0
            if reached >= settled and (since == 0 or training.keep == "last"):
                kept, run = scored, run._replace(best=now)
            run = run._replace(compressed=now, optimizer=state)
            history.append({"epoch": epoch + 1, "loss": loss, "validation_loss": scored.loss, "metric": scored.metric})
            notes = {"history": history, "since": since, "kept": _plain(kept), "peak": _plain(peak)}
            checkpoints.save(epoch + 1, run, notes)
            progress.advance(note=f"loss {loss:.4f}, validation {data.task.metric_name} {scored.metric:.4f}")
    if kept is None:
        raise QuantreeError(f"{label}: no epoch counts; let the update settle before the last one")
    return Fitted(run.best, kept, history)


def evaluate(compressed: Compressed, model: Model, data: Data) -> Score:
    """Loss and metric of a compressed model on the validation split."""
    apply, split = applied(model), data.validation(_EVALUATION_BATCH)
    params, state = compressed.decode(), unflatten(compressed.state)
    if model.stem is not None:
        apply, split = model.stem.head, Features(model.stem, params, state).through(split)
    return measure(functools.partial(forward(apply), params, state), split, data.task)


def applied(model: Model) -> Apply:
    """The model's function; `QuantreeError` if it has none."""
    if model.apply is None:
        raise QuantreeError(
            "this model has no `apply`: a bare checkpoint can be compressed, but not trained or measured"
        )
    return model.apply


def _beats(new: Score, old: Score, data: Data) -> bool:
    if new.metric != old.metric:
        return data.task.better(new.metric, old.metric)
    return new.loss < old.loss


def _finite(loss: float, what: str, where: str) -> float:
    if not math.isfinite(loss):
        raise QuantreeError(f"{where}: the {what} is {loss}; a smaller learning_rate may help")
    return loss


def _plain(score: Score | None) -> list[float] | None:
    return None if score is None else [score.loss, score.metric]


@functools.lru_cache(maxsize=64)
def _compiled(
    objective: Objective,
    optimizer: str,
    momentum: float,
    clip: float | None,
    augment: Augment | None,
    penalty: Penalty | None,
) -> tuple[Any, Any]:
    """The jitted training step and the optimizer's start. Rates and weights of penalties are arguments, so that a sweep
    over them compiles once.
    """
    scale = optax.scale_by_adam() if optimizer == "adam" else optax.trace(momentum, nesterov=True)
    transform = optax.chain(optax.clip_by_global_norm(clip), scale) if clip else scale

    def loss_of(first: Any, rest: Any, teacher: Any, batch: Any, key: jax.Array, l2: jax.Array, few: jax.Array) -> Any:
        whole = combine(first, rest)
        loss, state = objective(whole.decode(), unflatten(whole.state), teacher, batch, key)
        if penalty is not None:
            loss += (few * penalty(first.leaves)).astype(loss.dtype)
        squares = [jnp.sum(jnp.square(leaf)) for path, leaf in jax.tree.leaves_with_path(first) if _decays(path, leaf)]
        return loss + (l2 * sum(squares)).astype(loss.dtype) if squares else loss, state

    @functools.partial(jax.jit, donate_argnums=(0, 2))
    def step(
        first: Any, rest: Any, state: Any, teacher: Any, inputs: Any, targets: Any, key: Any, done: Any, settings: Any
    ) -> Any:
        rate, decay, l2, few = settings
        key = jax.random.fold_in(key, done)
        if augment is not None:
            inputs = augment(jax.random.fold_in(key, 0), inputs)
        (loss, new_state), gradient = jax.value_and_grad(loss_of, has_aux=True)(
            first, rest, teacher, (inputs, targets), key, l2, few
        )
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the power of its integer step count
            direction, state = transform.update(gradient, state, first)

        def move(path: Any, value: jax.Array, towards: jax.Array) -> jax.Array:
            pull = decay.astype(value.dtype) * value if _decays(path, value) else jnp.zeros((), value.dtype)
            return value - rate.astype(value.dtype) * (towards + pull)

        first = jax.tree.map_with_path(move, first, direction)
        return first, dataclasses.replace(rest, state=flatten(new_state)), state, loss

    return step, jax.jit(transform.init)


def _decays(path: Any, leaf: jax.Array) -> bool:
    """True for plain weights with two or more axes: neither biases nor centroids."""
    return field_name(path).endswith("/value") and leaf.ndim >= 2
