"""Files that can be made of the leaves' curves, and the best of a size."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quantree.encodings import Compressed
from quantree.model import Flat, Tree, unflatten
from quantree.quantizers.curves import HEADER, Curve, Point
from quantree.quantizers.planning import Steps
from quantree.storage.file import account, to_bytes

_ROUNDS = 4  # of planning again with what the last file has taught


@dataclass(frozen=True)
class Row:
    """What one leaf gets. slope: the distortion that each of its last bytes saves; None if it is at its smallest."""

    curve: Curve
    point: Point
    slope: float | None

    @property
    def setting(self) -> str:
        """The learner and what is not its default, in words."""
        learner = self.point.learner
        if learner is None:
            return "as it was"
        return " ".join(
            [learner.name, *(f"{key} {value}" for key, value in learner.model_dump(exclude_defaults=True).items())]
        )

    @property
    def bits(self) -> float:
        """Per weight, without the leaf's part of the header."""
        return 8 * self.point.size / self.curve.weights

    @property
    def snr(self) -> float:
        """Signal over noise in dB."""
        energy, error = self.curve.energy, self.point.error
        return float(10 * np.log10(energy / error)) if error > 0 and energy > 0 else float("inf")


@dataclass(frozen=True, eq=False)
class Plan:
    """A model whose leaves have got their settings.

    points: of each leaf, an index into its hull. predicted: bytes of its file by the sum that was planned with.
    written: bytes that storage makes of it. distortion: summed over leaves.
    """

    compressed: Compressed
    points: np.ndarray
    rows: tuple[Row, ...]
    predicted: int
    written: int
    distortion: float
    notes: str = ""

    @property
    def ratio(self) -> float:
        """How many times smaller than the dense model the file is."""
        return self.compressed.dense_bytes / self.written

    def __str__(self) -> str:
        console = Console(width=120, color_system=None)
        with console.capture() as capture:
            console.print(self.table())
        return capture.get()

    def table(self) -> Table:
        """A row for each leaf, for a terminal."""
        title = f"{self.written:,} bytes ({self.predicted:,} planned), {self.ratio:.2f}x smaller than the dense model"
        table = Table("leaf", "shape", "setting", title=title, caption=self.notes or None)
        for name in ("bits per weight", "SNR dB", "slope"):
            table.add_column(name, justify="right")
        for row in self.rows:
            shape = "x".join(map(str, row.point.leaf.shape))
            slope = "" if row.slope is None else f"{row.slope:.2e}"
            words = (Text(word) for word in (row.curve.path, shape, row.setting))
            table.add_row(*words, f"{row.bits:.3f}", f"{row.snr:.1f}", slope)
        return table


class Planner:
    """Every file that can be made by giving each leaf a point of its curve.

    names: of the leaves' codebooks. worth: what a squared error of 1 in each leaf counts.
    """

    def __init__(
        self, compressed: Compressed, curves: Sequence[Curve], names: Sequence[str], worth: Sequence[float]
    ) -> None:
        self.compressed, self.names = compressed, names
        now = to_bytes(compressed)
        self.curves = list(curves)
        self.fixed = len(now) - sum(curve.as_it_was.size for curve in curves)
        coarsest = [curve.points[0] for curve in curves]
        coded = sum(point.book is not None for point in coarsest)
        grown = _header(to_bytes(self._with(coarsest))) - _header(now)
        self.header = round(grown / coded) if coded else HEADER
        self.curves = [curve.on_hull(self.header) for curve in curves]
        self._sizes = [curve.sizes(self.header) for curve in self.curves]
        self._distortions = [
            np.asarray([factor * point.error for point in curve.points])
            for curve, factor in zip(self.curves, worth, strict=True)
        ]
        self.steps = Steps.of(self._sizes, self._distortions)

    @cached_property
    def smallest(self) -> Plan:
        """Every leaf at its smallest."""
        return self.plan(self.steps.first(0))

    def within(self, target: int) -> Plan | None:
        """The least distortion of those that take at most `target` bytes; None if none does."""
        best, last, room = None, np.zeros(0), target - self.fixed
        for attempt in itertools.count(1):
            points = self.steps.within(room)
            if points is None or (best is not None and (attempt > _ROUNDS or np.array_equal(points, last))):
                break
            last, plan = points, self.plan(points)
            if plan.written <= target and (best is None or plan.distortion < best.distortion):
                best = plan
            # Leaves may share coding tables and words of the header: the next sum will be as wrong as this one. After a
            # file that is too large less than its sum is left, so that this comes to an end.
            room = target - self.fixed - (plan.written - plan.predicted)
        return self.smallest if best is None and self.smallest.written <= target else best

    def plan(self, points: np.ndarray) -> Plan:
        """Each leaf at this point of its hull, written once to know its size."""
        made = self._with([curve.points[i] for curve, i in zip(self.curves, points, strict=True)])
        rows = tuple(
            Row(curve, curve.points[i], None if not i else float((loss[i - 1] - loss[i]) / (size[i] - size[i - 1])))
            for curve, i, loss, size in zip(self.curves, points, self._distortions, self._sizes, strict=True)
        )
        predicted = self.fixed + sum(int(size[i]) for size, i in zip(self._sizes, points, strict=True))
        distortion = sum(float(loss[i]) for loss, i in zip(self._distortions, points, strict=True))
        return Plan(made, points, rows, predicted, len(to_bytes(made)), distortion)

    def params(self, points: np.ndarray) -> Tree:
        """The parameters that such a file decodes to."""
        taken = {curve.path: curve.points[i].decoded for curve, i in zip(self.curves, points, strict=True)}
        return unflatten({**self._others, **taken})

    @cached_property
    def _others(self) -> Flat:
        taken = {curve.path for curve in self.curves}
        leaves = self.compressed.leaves
        return {path: leaf.decode(self.compressed.codebooks) for path, leaf in leaves.items() if path not in taken}

    def _with(self, points: Sequence[Point]) -> Compressed:
        leaves = {curve.path: point.leaf for curve, point in zip(self.curves, points, strict=True)}
        books = {name: point.book for name, point in zip(self.names, points, strict=True) if point.book is not None}
        return self.compressed.replace(leaves, books)


def _header(data: bytes) -> int:
    return account(data).entries[0].bytes
