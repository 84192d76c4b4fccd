"""Compressed sparse columns in which the elements of a column are sorted by their symbol."""

from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from quantree.encodings.base import static
from quantree.errors import LeafError
from quantree.products.base import CodedMatrix, array_bits, checked, line_type, pytree, skipped_symbol, tile_width
from quantree.products.lockstep import AT_ONCE, row_of

_GROUPS = (4, 2, 1)


@pytree
class Csc(CodedMatrix):
    """Groups of `group` rows that hold the same symbol, column by column; rows n fill up groups.

    So a product sums up inputs before it multiplies: one multiplication per group, and per column as many as it has
    symbols where groups are long enough. rows: [g group] and symbols: [g], each in the smallest of 8, 16 or 32 bits.
    starts: uint32 [m + 1], the group with which a column begins. skipped: the symbol that has no rows, 0 of a matrix
    with zeros, else the commonest one. group: 1, 2 or 4, whichever takes least memory.
    """

    rows: jax.Array
    symbols: jax.Array
    starts: jax.Array
    skipped: int = static()
    group: int = static()

    forms = ("sums", "lockstep", "tile")
    alone = 1 << 30

    @classmethod
    def of(cls, symbols: np.ndarray, centroids: jax.Array | np.ndarray, zero: bool, group: int | None = None) -> Self:
        """From integers [..., m] or [n]; `group` is the smallest if None. `LeafError` if they are too many."""
        symbols, centroids = checked(symbols, centroids, zero)
        n, m = symbols.shape
        kinds = len(centroids) + zero
        skipped = skipped_symbol(np.bincount(symbols.reshape(-1), minlength=kinds), zero)
        columns, rows = np.nonzero(symbols.T - skipped)
        found = symbols[rows, columns]
        order = np.lexsort((found, columns))  # stable: rows ascend within a symbol
        columns, rows, found = columns[order], rows[order], found[order]
        runs = np.flatnonzero(np.diff(columns * kinds + found, prepend=-1))
        lengths = np.diff(np.append(runs, len(rows)))
        if len(rows) >= 1 << 29:
            raise LeafError(f"csc: a matrix has fewer than 2**29 elements that are not zero, not {len(rows):,}")
        row_type, symbol_type = line_type(n), line_type(kinds - 1)
        if group is None:
            row_size, symbol_size = row_type().itemsize, symbol_type().itemsize
            group = min(_GROUPS, key=lambda size: int((-(-lengths // size)).sum()) * (size * row_size + symbol_size))
        elif group not in _GROUPS:
            raise LeafError(f"csc: groups have 1, 2 or 4 rows, not {group}")
        often = -(-lengths // group)
        ends = np.cumsum(often)
        # Some more groups, without rows, for what is read beyond the end.
        filled = np.full(((int(ends[-1]) if len(ends) else 0) + AT_ONCE, group), n, row_type)
        within = np.arange(len(rows)) - np.repeat(runs, lengths)
        filled[np.repeat(ends - often, lengths) + within // group, within % group] = rows
        of_group = np.repeat(found[runs], often)
        starts = np.searchsorted(np.repeat(columns[runs], often), np.arange(m + 1))
        return cls(
            centroids,
            n,
            m,
            zero,
            tile_width(m),
            jnp.asarray(filled.reshape(-1)),
            jnp.asarray(np.concatenate([of_group, np.full(AT_ONCE, skipped)]).astype(symbol_type)),
            jnp.asarray(starts.astype(np.uint32)),
            skipped,
            group,
        )

    @property
    def form(self) -> str:
        return "sums" if jax.default_backend() == "cpu" else "lockstep"

    def tile(self, first: jax.Array) -> jax.Array:
        at = jax.lax.dynamic_slice(self.starts, (first,), (self.width,)).astype(jnp.int32)
        end = jax.lax.dynamic_slice(self.starts, (first + 1,), (self.width,)).astype(jnp.int32)
        columns = jnp.arange(self.width, dtype=jnp.int32)

        def step(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            at, symbols = carry
            symbol = self.symbols[at].astype(jnp.int32)
            for k in range(self.group):
                row = jnp.where(at < end, self.rows[at * self.group + k].astype(jnp.int32), self.n)
                symbols = symbols.at[row, columns].set(symbol, mode="drop")
            return at + 1, symbols

        start = at, jnp.full((self.n, self.width), self.skipped, jnp.int32)
        return jax.lax.while_loop(lambda carry: jnp.any(carry[0] < end), step, start)[1]

    def sums(self, inputs: jax.Array, values: jax.Array, first: jax.Array) -> jax.Array:
        inputs, common, values = self._filled(inputs, values)

        def column(place: jax.Array, out: jax.Array) -> jax.Array:
            total = self._column(inputs, values, first + place)
            return jax.lax.dynamic_update_slice(out, total, (place, jnp.int32(0)))

        out = jax.lax.fori_loop(
            jnp.int32(0), jnp.int32(self.width), column, jnp.zeros((self.width, inputs.shape[1]), jnp.float32)
        )
        return out + (common * inputs.sum(0))[None]

    def column(self, inputs: jax.Array, values: jax.Array, place: jax.Array) -> jax.Array:
        inputs, common, values = self._filled(inputs, values)
        return self._column(inputs, values, place)[0] + common * inputs.sum(0)

    def _column(self, inputs: jax.Array, values: jax.Array, place: jax.Array) -> jax.Array:
        """The sums of one column: inputs [n + 1, b], the last row zeros -> [1, b]."""
        end = self.starts[place + 1].astype(jnp.int32)
        groups = AT_ONCE // self.group

        def step(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            at, total = carry
            for k in range(groups):
                rows = (self.rows[(at + k) * self.group + i] for i in range(self.group))
                value = jnp.where(at + k < end, values[self.symbols[at + k].astype(jnp.int32)], jnp.float32(0))
                total = total + value * sum(row_of(inputs, row) for row in rows)
            return at + groups, total

        start = self.starts[place].astype(jnp.int32), jnp.zeros((1, inputs.shape[1]), jnp.float32)
        return jax.lax.while_loop(lambda carry: carry[0] < end, step, start)[1]

    def bits(self) -> dict[str, int]:
        return array_bits(rows=self.rows, symbols=self.symbols, starts=self.starts, centroids=self.centroids)

    def _filled(self, inputs: jax.Array, values: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Inputs with a row of zeros, the value of the skipped symbol, and how much the others differ from it."""
        common = values[self.skipped]
        return jnp.concatenate([inputs, jnp.zeros((1, inputs.shape[1]), jnp.float32)]), common, values - common
