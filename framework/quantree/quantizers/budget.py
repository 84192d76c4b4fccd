"""The stage that is told a size: each leaf gets the setting at which its bytes bring the most."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import jax
import numpy as np
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from quantree.encodings import Blocking, Compressed, Encoding, Scalar
from quantree.errors import ConfigError
from quantree.model import unflatten
from quantree.progress import track
from quantree.quantizers.base import Learner
from quantree.quantizers.curves import Curve, trace
from quantree.quantizers.plan import Plan, Planner
from quantree.quantizers.quantize import CoderName, Quantize, unused
from quantree.quantizers.sensitivity import baseline_score, score, squared_gradients
from quantree.registry import Choice, Named, register, registered
from quantree.stage import Context, Patterns, Stage, select

_QUICKEST = "uniform"  # tried first: the settings of other learners that it beats are not all learned
_ROUNDING = 1e-9  # a loss of 0.01 exactly is within a tolerance of 0.01


LearnerName = Annotated[str, Named(Learner)]


@register("budget")
class Budget(Stage):
    """Quantizes each leaf as finely as a size of the whole file allows ("20x, please").

    On every leaf it learns the settings of `learners`, counts their bytes as they will lie in the file, and takes the
    settings at which one more byte saves the same distortion in all leaves (Shoham and Gersho 1988). With `tolerance`
    alone it looks for the smallest such file whose validation metric is good enough, by bisection; beside a size,
    `tolerance` only tells whether the file will do. Leaves stay as they are where there is room, or where nothing else
    is worth its bytes. What is not taken (biases, statistics, leaves of earlier stages) counts as it stands, so `cast`
    and `fold_statistics` belong before this stage. `ConfigError` if the size can't be reached, or the tolerance kept.
    """

    example: ClassVar = {"ratio": 3.0}

    ratio: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="bytes of the uncompressed model over bytes of the file, at least"
    )
    bytes: Annotated[int, Field(gt=0)] | None = Field(default=None, description="bytes of the file, at most")
    tolerance: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description="how much worse than the uncompressed model's the validation metric may be, in its own units; "
        "needs data",
    )
    match: Patterns | None = Field(
        default=None, description="leaves to take; default: every float leaf with two or more axes"
    )
    learners: Annotated[tuple[LearnerName | Choice[Learner], ...], Field(min_length=1)] | None = Field(
        default=None,
        description="what to try: a learner's name for all settings of its ladder, or one with its settings; default: "
        "the ladders of all learners that suit the blocking",
    )
    blocking: Choice[Blocking] = Field(
        default=Scalar(), description="how a leaf is cut into the vectors that get one code each"
    )
    coder: CoderName = Field(default=None, description="coder of the codes; default: the smallest for each leaf")
    centroids: Literal["float16", "float32"] = Field(
        default="float16",
        description="floats of the codebooks: 16 bits, but where 32 are worth their bytes; or always 32, for a "
        "`finetune` that follows",
    )
    keep_energy: bool = Field(
        default=False, description="as in `quantize`: for recipes without `batchnorm` or training after it"
    )
    distortion: Literal["relative", "absolute", "fisher"] = Field(
        default="relative",
        description="what is summed over leaves: squared error over the leaf's energy, right where a normalisation "
        "follows; squared error; or squared error times the mean squared gradient of the loss, which needs data and "
        "holds for small errors only",
    )
    batches: int = Field(default=8, ge=1, description="batches of 128 training examples for the gradients of `fisher`")

    @model_validator(mode="after")
    def _fits_together(self) -> "Budget":
        key = reason = None
        if self.ratio is not None and self.bytes is not None:
            key, reason = "bytes", "give either ratio or bytes"
        elif self.ratio is None and self.bytes is None and self.tolerance is None:
            key, reason = "ratio", "give ratio, bytes or tolerance"
        if reason is not None:
            raise PydanticCustomError("combination", "{reason}", {"reason": reason, "key": key})
        for learner in self.learners or ():
            if not self._ladder(learner):
                reason = (
                    f"learner {learner!r} has no ladder of settings that fit; give its settings, as {{kind: {learner}}}"
                    if isinstance(learner, str)
                    else f"learner {learner.name!r} takes scalars, not {self.blocking.name!r}"
                )
                raise PydanticCustomError("combination", "{reason}", {"reason": reason, "key": "learners"})
        return self

    def _ladder(self, learner: str | Learner) -> list[Quantize]:
        """One stage for each setting to be tried; none if the learner can't be used here."""
        settings = Learner.named(learner).ladder() if isinstance(learner, str) else (learner,)
        return [
            Quantize(learner=each, blocking=self.blocking, coder=self.coder, keep_energy=self.keep_energy)
            for each in settings
            if isinstance(self.blocking, Scalar) or not each.scalars_only
        ]

    def _ladders(self) -> list[list[Quantize]]:
        scalars = isinstance(self.blocking, Scalar)
        suitable = (name for name in registered("learner") if not (scalars and Learner.named(name).for_vectors))
        learners = self.learners or sorted(suitable, key=lambda name: (name != _QUICKEST, name))
        return [ladder for ladder in map(self._ladder, learners) if ladder]

    @property
    def chooses(self) -> str | None:
        return None if self.tolerance is None else "tolerance"

    def check(self, leaves: Mapping[str, Encoding]) -> None:
        select(self.match, leaves)

    def run(self, compressed: Compressed, context: Context) -> Compressed:
        plan = self.plan(compressed, context)
        print(plan)
        return plan.compressed

    def plan(self, compressed: Compressed, context: Context) -> Plan:
        """What `run` makes, with the account of it."""
        free = [path for path in select(self.match, compressed.leaves) if not compressed.leaves[path].uses()]
        if not free:
            raise ConfigError(
                "budget: every leaf that it matches has been quantized by an earlier stage; a recipe either says how "
                "finely to quantize, or how large the file may be"
            )
        ladders, narrow = self._ladders(), self.centroids == "float16"
        names = [unused(path, compressed.codebooks) for path in free]
        curves: list[Curve] = []
        with track("budget", len(free)) as progress:
            for index, (path, name) in enumerate(zip(free, names, strict=True)):
                key = jax.random.fold_in(context.key, index)
                curves.append(trace(path, compressed.leaves[path], ladders, name, key, narrow))
                progress.advance(note=path)
        planner = Planner(compressed, curves, names, self._worth(curves, compressed, context))
        limit = self.bytes if self.ratio is None else int(compressed.dense_bytes / self.ratio)
        plan = None if limit is None else self._within(limit, planner)
        notes = f"distortion: {self.distortion}"
        if self.tolerance is not None:
            plan, told = self._within_tolerance(self.tolerance, plan, planner, context)
            notes = f"{notes}; {told}"
        assert plan is not None, "the validator lets no other settings pass"
        return dataclasses.replace(plan, notes=notes)

    def _worth(self, curves: Sequence[Curve], compressed: Compressed, context: Context) -> list[float]:
        """What a squared error of 1 in each leaf counts."""
        if self.distortion == "absolute":
            return [1.0 for _ in curves]
        if self.distortion == "relative":
            return [1 / curve.energy if curve.energy else 0.0 for curve in curves]
        found = squared_gradients(
            context.model,
            compressed.decode(),
            unflatten(compressed.state),
            [curve.path for curve in curves],
            context.need_data(self.name),
            self.batches,
            seed=int(jax.random.randint(context.key, (), 0, 2**31 - 1)),
        )
        return [found[curve.path] for curve in curves]

    def _within(self, limit: int, planner: Planner) -> Plan:
        """The best plan of this many bytes; `ConfigError` if there is none."""
        plan = planner.within(limit)
        if plan is None:
            wanted = f"{self.bytes:,} bytes" if self.ratio is None else f"ratio {self.ratio:g}, {limit:,} bytes,"
            least = planner.smallest
            raise ConfigError(
                f"{wanted} can't be reached: the smallest file has {least.written:,} bytes (ratio {least.ratio:.2f}), "
                f"of which {planner.fixed:,} are what this stage does not take: other leaves, state, header "
                "(`cast` and `fold_statistics` make them smaller, if they stand before it)",
                self.bytes if self.ratio is None else self.ratio,
            )
        return plan

    def _within_tolerance(
        self, tolerance: float, plan: Plan | None, planner: Planner, context: Context
    ) -> tuple[Plan, str]:
        """The plan, if its validation metric is good enough; without one, the smallest for which that holds. And a
        sentence about it. `ConfigError` if there is none.
        """
        data, model, state = context.need_data(self.name), context.model, unflatten(planner.compressed.state)
        name, base = data.task.metric_name, baseline_score(model, data).metric
        metrics: dict[bytes, float] = {}

        def good(points: np.ndarray) -> bool:
            metric = metrics[points.tobytes()] = score(model, planner.params(points), state, data).metric
            worse = base - metric if data.task.direction == "max" else metric - base
            return worse <= tolerance + _ROUNDING * abs(base)

        def told(points: np.ndarray) -> str:
            return f"validation {name} {metrics[points.tobytes()]:.4f}, uncompressed {base:.4f}"

        if plan is not None and good(plan.points):
            return plan, told(plan.points)
        bad, enough = -1, len(planner.steps)
        if not good(planner.steps.first(enough)):
            raise ConfigError(
                f"tolerance {tolerance:g} can't be kept, not even with these leaves as they are: "
                f"{told(planner.steps.first(enough))}",
                tolerance,
            )
        while enough - bad > 1:
            middle = (bad + enough) // 2
            bad, enough = (bad, middle) if good(planner.steps.first(middle)) else (middle, enough)
        found = planner.plan(planner.steps.first(enough))
        if plan is not None:
            raise ConfigError(
                f"a file of {plan.written:,} bytes (ratio {plan.ratio:.2f}) is worse than tolerance {tolerance:g} "
                f"allows: {told(plan.points)}; the smallest that is good enough has {found.written:,} bytes (ratio "
                f"{found.ratio:.2f})",
                tolerance,
            )
        return found, told(found.points)
