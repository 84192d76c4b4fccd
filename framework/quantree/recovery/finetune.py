"""Training what the encodings leave free, while codes and masks stay as they are."""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from quantree.encodings import Compressed, Encoding, float_fields, map_floats, match
from quantree.errors import ConfigError, LeafError
from quantree.recovery.loop import Training, applied, fit
from quantree.recovery.objective import Objective
from quantree.recovery.shared import gather, shared_leaves, to_coded, to_shared
from quantree.registry import Choice, register
from quantree.schema import Config
from quantree.stage import Context, Patterns, Recovery, Stage, Transform

_NOTHING_TO_GATHER = (
    "cumulative_rate moves free centroids that leaves share, and none are trained here; quantize before, by a learner "
    "other than 'uniform'"
)


class Gradual(Config):
    """A transform that grows to its full strength during training."""

    stage: Choice[Stage] = Field(description="the transform, with its settings at full strength")
    start: float = Field(default=0.0, ge=0, lt=1, description="share of the training after which it begins")
    stop: float = Field(default=0.6, gt=0, le=1, description="share of the training at which it has full strength")
    every: int = Field(default=50, ge=1, description="steps between two applications")

    @model_validator(mode="after")
    def _is_a_ramp(self) -> "Gradual":
        if not isinstance(self.stage, Transform) or type(self.stage).at is Transform.at:
            reason = f"stage {self.stage.name!r} can't be applied gradually"
            raise PydanticCustomError("combination", "{reason}", {"reason": reason, "key": "stage"})
        if self.stop <= self.start:
            raise PydanticCustomError("combination", "{reason}", {"reason": "stop must be above start", "key": "stop"})
        return self

    def update(self, compressed: Compressed, progress: float, *, context: Context) -> Compressed:
        """The model after the transform at the strength that it has at this progress of the training, 0..1."""
        assert isinstance(self.stage, Transform)
        ramp = (progress - self.start) / (self.stop - self.start)
        return self.stage.at(min(1.0, max(0.0, ramp))).run(compressed, context)


@register("finetune")
class Finetune(Recovery, Training):
    """Trains codebooks, scales, biases and unquantized weights; optionally prunes on the way.

    The gradient of a centroid is the sum over the weights that point to it (Han et al. 2016, section 3.3), because
    autodiff goes through the look-up. With `cumulative_rate` the optimizer steps on every weight as if it were its own,
    and a free centroid moves by that rate times the sum of its weights' steps (Marino et al., arXiv 2108.12704, as in
    their code). For SGD without momentum that is a step size of rate times `learning_rate`; Adam tells single weights
    apart. With `distill` the uncompressed network teaches. Fields of 16 bits are trained in 32 and rounded at the end.
    """

    example: ClassVar = {"epochs": 1}

    match: Patterns | None = Field(default=None, description="float fields to train, such as codebooks/*; default: all")
    steps: int | None = Field(
        default=None, ge=1, description="steps of one epoch, at most; default: as many as the training data have"
    )
    distill: float = Field(
        default=0.0, ge=0, le=1, description="weight of the uncompressed network's outputs in the loss, 0..1"
    )
    temperature: float = Field(default=4.0, gt=0, description="softens teacher and student alike in distillation")
    gradual: Gradual | None = Field(default=None, description="a transform that grows during this training")
    cumulative_rate: float | None = Field(
        default=None,
        gt=0,
        description="how far centroids move per summed step of their weights, such as 0.001; default: they are trained "
        "as they are",
    )

    @model_validator(mode="after")
    def _one_update(self) -> Self:
        if self.gradual is not None and self.cumulative_rate is not None:
            reason = "centroids that gather steps can't be trained while a transform grows; use two stages"
            raise PydanticCustomError("combination", "{reason}", {"reason": reason, "key": "cumulative_rate"})
        return self

    @property
    def chooses(self) -> str | None:
        return "patience" if self.patience is not None else "keep" if self.keep == "best" else None

    def check(self, leaves: Mapping[str, Encoding]) -> None:
        if self.gradual is not None:
            self.gradual.stage.check(leaves)
        if self.cumulative_rate is not None and not any(leaf.uses() for leaf in leaves.values()):
            raise ConfigError(_NOTHING_TO_GATHER)
        if self.filters is not None:
            self.filters.over(leaves)

    def run(self, compressed: Compressed, context: Context) -> Compressed:
        data = context.need_data(self.name)
        update = None
        if self.gradual is not None:
            update = functools.partial(self.gradual.update, context=context)
            compressed = update(compressed, 0.0)
        trained, fields = None, float_fields(compressed)
        if self.match is not None:
            trained = set(match(self.match, fields)).__contains__
        # In 16 bits Adam divides by zero and small steps are rounded away; the widths are those of the file.
        begun = map_floats(_widened, compressed)
        if self.cumulative_rate is not None:
            begun, trained = to_shared(begun, trained or fields.__contains__)
            if not shared_leaves(begun):
                raise ConfigError(_NOTHING_TO_GATHER)
            update = functools.partial(_gather, rate=self.cumulative_rate)
        objective = Objective(
            applied(context.model), data.task.loss, self.distill, self.temperature, data.task.outputs == "logits"
        )
        fitted = fit(
            begun,
            model=context.model,
            data=data,
            training=self,
            seed=int(jax.random.randint(context.key, (), 0, 2**31 - 1)),
            objective=objective,
            trained=trained,
            update=update,
            update_every=self.gradual.every if self.gradual else 1,
            settled=self.gradual.stop if self.gradual else 0.0,
            steps=self.steps,
            folder=context.folder,
            label="finetune",
        )
        return map_floats(lambda name, field: _narrowed(name, field, fields[name].dtype), to_coded(fitted.compressed))


def _gather(compressed: Compressed, progress: float, *, rate: float) -> Compressed:
    del progress
    return gather(compressed, rate)


def _widened(name: str, field: jax.Array) -> jax.Array:
    del name
    return field.astype(jnp.float32) if field.dtype.itemsize < 4 else field


def _narrowed(name: str, field: jax.Array, dtype: Any) -> jax.Array:
    narrow = field.astype(dtype)
    if not bool(jnp.isfinite(narrow).all()):
        raise LeafError(f"{name}: a value has grown too large for {dtype}; put `cast` after the training")
    return narrow
