"""Points that are read by rows from wherever they lie, a piece at a time: what they hold, and samples of them."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from quantree.clustering.pieces import Pieces, in_order, pieces_of
from quantree.clustering.problem import power_of_two
from quantree.errors import LeafError

GAP = 256  # rows between two wanted ones that are rather read along than jumped over


class Rows(Protocol):
    """An array that gives ranges of its rows: of NumPy, in memory or mapped to it, or a data set of h5py or zarr."""

    @property
    def shape(self) -> tuple[int, ...]:
        """All axes, rows first."""
        ...

    @property
    def dtype(self) -> Any:
        """The type of its numbers."""
        ...

    def __getitem__(self, rows: slice, /) -> Any: ...


class _Glance(NamedTuple):
    """What `source` sees in one piece: how many points and weights are no numbers, and what it needs of the others."""

    bad: int
    unfit: int
    negative: bool = False
    largest: float = 0.0
    heaviest: float = 0.0
    mass: float = 0.0
    present: int = 0


@dataclass(frozen=True)
class Source:
    """Points x [n, d] with weights [n], or without, handed out as `width` (float32 or float64) in units of their own.

    mass and present [pieces]: of each `size` rows the sum of weights, and how many have any. unit and weight_unit:
    powers of two close to the largest magnitudes; the sums are in weight_unit.
    """

    x: Rows
    weights: Rows | None
    width: Any
    size: int
    mass: np.ndarray
    present: np.ndarray
    unit: float = 1.0
    weight_unit: float = 1.0

    def load(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Points [rows, d] and weights [rows] of a range."""
        return self._points(self.x[rows]), self.load_weights(rows)

    def load_weights(self, rows: slice) -> np.ndarray:
        """Weights [rows] of a range."""
        if self.weights is None:
            return np.ones(rows.stop - rows.start, self.width)
        return np.asarray(self.weights[rows]).astype(self.width) / self.width.type(self.weight_unit)

    def pieces(self) -> Pieces:
        """All of it."""
        return pieces_of(self.x.shape[0], self.load)

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points [m, d] and weights [m] of row numbers [m] that ascend."""
        weights = np.ones(len(rows), self.width)
        if self.weights is not None:
            weights = _take(self.weights, rows, self.size).astype(self.width) / self.width.type(self.weight_unit)
        return self._points(_take(self.x, rows, self.size)), weights

    def draw(self, random: np.random.Generator, count: int, by_weight: bool) -> np.ndarray:
        """Row numbers [count] that ascend, drawn with replacement by weight, or alike among those that have weight."""
        ends = np.cumsum(self.mass if by_weight else self.present)
        wanted = np.sort(random.random(count)) * ends[-1]
        piece = np.minimum(np.searchsorted(ends, wanted, side="right"), len(ends) - 1)
        rows = np.empty(count, np.int64)
        for i in np.unique(piece):
            first, here = int(i) * self.size, piece == i
            odds = self.load_weights(slice(first, min(self.x.shape[0], first + self.size)))
            within = np.cumsum(odds if by_weight else odds > 0, dtype=np.float64)
            found = np.searchsorted(within, wanted[here] - (ends[i - 1] if i else 0), side="right")
            rows[here] = first + np.minimum(found, len(within) - 1)
        return rows

    def _points(self, x: Any) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.asarray(x).astype(self.width) / self.width.type(self.unit)


def source(x: Any, weights: Any) -> Source:
    """Looks once at all points and weights; `LeafError` for shapes and types that don't fit, NaN, infinity, and
    negative weights.
    """
    x = _rows("x", x)
    if len(x.shape) != 2 or 0 in x.shape:
        raise LeafError(f"x has shape {tuple(x.shape)}; expected [n, d], with at least one point")
    n = x.shape[0]
    if weights is not None:
        weights = _rows("weights", weights)
        if tuple(weights.shape) != (n,):
            raise LeafError(f"weights has shape {tuple(weights.shape)}; expected one entry per point, ({n},)")
    width = np.dtype(jax.dtypes.canonicalize_dtype(x.dtype))
    width = width if width == np.float64 else np.dtype(np.float32)
    plain = Source(x, weights, width, 0, np.zeros(0), np.zeros(0))
    size = plain.pieces().size

    def visit(i: int) -> _Glance:
        points, heavy = plain.load(slice(i * size, min(n, (i + 1) * size)))
        bad, unfit = (each.size - int(np.count_nonzero(np.isfinite(each))) for each in (points, heavy))
        if bad or unfit:
            return _Glance(bad, unfit)
        largest, heaviest = (float(max(each.max(), -each.min())) for each in (points, heavy))
        total = float(heavy.sum(dtype=np.float64))
        return _Glance(0, 0, bool(heavy.min() < 0), largest, heaviest, total, int(np.count_nonzero(heavy)))

    with in_order() as run:
        seen = list(run(visit, -(-n // size)))
    bad, unfit, negative, largest, heaviest, mass, present = (np.array(each) for each in zip(*seen, strict=True))
    for name, shape, count in (("x", tuple(x.shape), bad.sum()), ("weights", (n,), unfit.sum())):
        if count:
            raise LeafError(f"{name} of shape {shape} holds {count} NaN or infinite values; expected only numbers")
    if negative.any():
        raise LeafError("weights are negative somewhere; expected an importance of at least 0 per point")
    unit, weight_unit = (float(power_of_two(jnp.asarray(each.max(), width))) for each in (largest, heaviest))
    return Source(x, weights, width, size, mass / weight_unit, present, unit, weight_unit)


def _rows(name: str, value: Any) -> Any:
    """`value` as something that gives its rows; `LeafError` for values inside `jax.jit` and for what isn't real."""
    if isinstance(value, Tracer):
        raise LeafError(f"{name} is traced; points that are read by rows can't be clustered inside jax.jit")
    if isinstance(value, jax.Array) or not (hasattr(value, "shape") and hasattr(value, "dtype")):
        value = np.asarray(value)
    kind = np.dtype(value.dtype)
    if kind.kind not in "biuf" and not jnp.issubdtype(kind, jnp.floating):
        raise LeafError(f"{name} is {kind}; expected real numbers")
    return value


def _take(array: Rows, rows: np.ndarray, size: int) -> np.ndarray:
    """The rows of these ascending numbers, by ranges of at most `size`."""
    if isinstance(array, np.ndarray):
        return array[rows]
    apart = (np.diff(rows) > GAP) | (np.diff(rows // size) > 0)
    runs = np.split(rows, np.flatnonzero(apart) + 1)
    return np.concatenate([np.asarray(array[int(run[0]) : int(run[-1]) + 1])[run - run[0]] for run in runs])
