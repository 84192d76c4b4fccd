"""HAC and sHAC: matrices as Huffman codes of all symbols, or of those that are not skipped (Marino et al. 2021)."""

from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from quantree.coding.bits import width_of
from quantree.encodings.base import static
from quantree.errors import LeafError
from quantree.products.base import CodedMatrix, array_bits, checked, line_type, pytree, skipped_symbol
from quantree.products.lockstep import STEPS, Codes, after, row_of, run_of, summed, taken


@pytree
class Hac(CodedMatrix):
    """Huffman address map: codewords of all symbols, column by column.

    A product in sums leaves out the commonest symbol, whichever it is: with its value v0, the sum of x v is the sum of
    x (v - v0) and v0 times the sum of x. Runs of it are skipped if its codeword has one bit.
    """

    codes: Codes

    forms = ("sums", "lockstep", "tile")

    @classmethod
    def of(cls, symbols: np.ndarray, centroids: jax.Array | np.ndarray, zero: bool) -> Self:
        symbols, centroids = checked(symbols, centroids, zero)
        n, m = symbols.shape
        _check_size(n, len(centroids) + zero)
        counts = np.bincount(symbols.reshape(-1), minlength=len(centroids) + zero)
        codes = Codes.of(np.ascontiguousarray(symbols.T), counts)
        return cls(centroids, n, m, zero, codes.width, codes)

    @property
    def form(self) -> str:
        if not self.codes.runs:
            return "tile"
        return "sums" if jax.default_backend() == "cpu" else "lockstep"

    def tile(self, first: jax.Array) -> jax.Array:
        codes, at, end = self.codes.cut(first)

        def step(row: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            at, ranks = carry
            entry = jax.lax.optimization_barrier(codes.look(at, end, skip=False))
            ranks = jax.lax.dynamic_update_slice(ranks, (entry >> 12).astype(jnp.uint16)[None], (row, jnp.int32(0)))
            return after(at, end, entry), ranks

        _, ranks = jax.lax.fori_loop(
            jnp.int32(0), jnp.int32(self.n), step, (at, jnp.zeros((self.n, self.width), jnp.uint16))
        )
        return codes.order[ranks.astype(jnp.int32)].astype(jnp.int32)

    def sums(self, inputs: jax.Array, values: jax.Array, first: jax.Array) -> jax.Array:
        codes, at, end = self.codes.cut(first)
        common, values = self._differences(values)
        kinds = len(values)
        shift = kinds.bit_length()

        def decode(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            line, at, found = carry
            entry = jax.lax.optimization_barrier(codes.look(at, end, codes.runs))
            found = jax.lax.dynamic_update_slice(found, entry[None], (line, jnp.int32(0)))
            return line + 1, after(at, end, entry), found

        def locate(line: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
            row, found, entries = carry
            entry = jax.lax.dynamic_slice(found, (line, jnp.int32(0)), (1, self.width))
            packed = row + run_of(entry) << shift | entry >> 12
            return row + taken(entry), found, jax.lax.dynamic_update_slice(entries, packed, (line, jnp.int32(0)))

        def piece(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            at, row, total = carry
            lines = jnp.zeros((STEPS, self.width), jnp.uint32)
            used, at, found = jax.lax.while_loop(
                lambda carry: (carry[0] < STEPS) & jnp.any(carry[1] < end), decode, (jnp.int32(0), at, lines)
            )
            row, _, entries = jax.lax.fori_loop(0, used, locate, (row, found, lines))
            return at, row, total + summed(entries, used, inputs, values, self.width, kinds)

        start = (
            at,
            jnp.zeros((1, self.width), jnp.uint32),
            jnp.broadcast_to(common * inputs.sum(0), (self.width, inputs.shape[1])),
        )
        return jax.lax.while_loop(lambda carry: jnp.any(carry[0] < end), piece, start)[2]

    def column(self, inputs: jax.Array, values: jax.Array, place: jax.Array) -> jax.Array:
        codes, end = self.codes, self.codes.starts[place + 1]
        common, values = self._differences(values)

        def step(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            at, row, total = carry
            entry = codes.look(at, end, codes.runs)
            value = values[(entry >> 12).astype(jnp.int32)]
            return after(at, end, entry), row + taken(entry), total + value * row_of(inputs, row + run_of(entry))[0]

        start = codes.starts[place], jnp.uint32(0), common * inputs.sum(0)
        return jax.lax.while_loop(lambda carry: carry[0] < end, step, start)[2]

    def bits(self) -> dict[str, int]:
        codes = self.codes
        return array_bits(
            codewords=codes.words,
            starts=codes.starts,
            decoder=jnp.concatenate([codes.table, codes.past, codes.base]),
            symbols=codes.order,
            centroids=self.centroids,
        )

    def _differences(self, values: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The value of rank 0, and by rank how much the others differ from it."""
        ranked = values[self.codes.order.astype(jnp.int32)]
        return ranked[0], ranked - ranked[0]


@pytree
class Shac(CodedMatrix):
    """Sparse Huffman address map: rows of the symbols that are not `skipped`, and their codewords, column by column.

    rows: [q] in the smallest of 8, 16 or 32 bits. first: uint32 [m + 1], the place in `rows` at which a column begins.
    skipped: symbol 0 of a matrix with zeros, else the commonest one.
    """

    codes: Codes
    rows: jax.Array
    first: jax.Array
    skipped: int = static()

    forms = ("sums", "lockstep", "tile")

    @classmethod
    def of(cls, symbols: np.ndarray, centroids: jax.Array | np.ndarray, zero: bool) -> Self:
        symbols, centroids = checked(symbols, centroids, zero)
        n, m = symbols.shape
        counts = np.bincount(symbols.reshape(-1), minlength=len(centroids) + zero)
        skipped = skipped_symbol(counts, zero)
        columns, rows = np.nonzero(symbols.T - skipped)
        _check_size(n, len(centroids) + zero)
        if len(rows) >= 1 << 30:
            raise LeafError(f"shac: a matrix has fewer than 2**30 elements that are not zero, not {len(rows):,}")
        first = np.searchsorted(columns, np.arange(m + 1))
        counts[skipped] = 0
        codes = Codes.of(np.split(symbols[rows, columns], first[1:-1]) if m else [], counts)
        rows = np.concatenate([rows, [0]]).astype(line_type(n))  # one more, for what is read beyond the end
        return cls(
            centroids, n, m, zero, codes.width, codes, jnp.asarray(rows), jnp.asarray(first.astype(np.uint32)), skipped
        )

    @property
    def form(self) -> str:
        return "sums" if jax.default_backend() == "cpu" else "lockstep"

    def tile(self, first: jax.Array) -> jax.Array:
        codes, at, end = self.codes.cut(first)
        place, last = self._places(first)
        columns = jnp.arange(self.width, dtype=jnp.int32)

        def step(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            at, place, symbols = carry
            entry = codes.look(at, end, skip=False)
            row = jnp.where(place < last, self.rows[place].astype(jnp.int32), self.n)
            symbol = codes.order[(entry >> 12).astype(jnp.int32)].astype(jnp.int32)
            return after(at, end, entry), place + 1, symbols.at[row, columns].set(symbol, mode="drop")

        start = at, place, jnp.full((self.n, self.width), self.skipped, jnp.int32)
        return jax.lax.while_loop(lambda carry: jnp.any(carry[1] < last), step, start)[2]

    def sums(self, inputs: jax.Array, values: jax.Array, first: jax.Array) -> jax.Array:
        codes, at, end = self.codes.cut(first)
        place, last = self._places(first)
        common, values = self._differences(values)
        kinds = len(values)
        shift = kinds.bit_length()

        def decode(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            line, at, ranks = carry
            entry = jax.lax.optimization_barrier(codes.look(at, end, skip=False))
            ranks = jax.lax.dynamic_update_slice(ranks, (entry >> 12)[None], (line, jnp.int32(0)))
            return line + 1, after(at, end, entry), ranks

        def piece(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            at, place, total = carry
            used = jnp.minimum(jnp.max(last - place), STEPS)
            _, at, ranks = jax.lax.while_loop(
                lambda carry: carry[0] < used,
                decode,
                (jnp.int32(0), at, jnp.zeros((STEPS, self.width), jnp.uint32)),
            )
            places = place[None] + jnp.arange(STEPS, dtype=jnp.int32)[:, None]
            rows = self.rows[places].astype(jnp.uint32)
            entries = jnp.where(places < last[None], rows << shift | ranks, jnp.uint32(kinds - 1))
            return at, place + used, total + summed(entries, used, inputs, values, self.width, kinds)

        total = jnp.broadcast_to(common * inputs.sum(0), (self.width, inputs.shape[1]))
        return jax.lax.while_loop(lambda carry: jnp.any(carry[1] < last), piece, (at, place, total))[2]

    def column(self, inputs: jax.Array, values: jax.Array, place: jax.Array) -> jax.Array:
        codes, end = self.codes, self.codes.starts[place + 1]
        last = self.first[place + 1]
        common, values = self._differences(values)

        def step(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            at, place, total = carry
            entry = codes.look(at, end, skip=False)
            value = values[(entry >> 12).astype(jnp.int32)]
            row = self.rows[place.astype(jnp.int32)]
            return after(at, end, entry), place + 1, total + value * row_of(inputs, row)[0]

        start = codes.starts[place], self.first[place], common * inputs.sum(0)
        return jax.lax.while_loop(lambda carry: carry[1] < last, step, start)[2]

    def bits(self) -> dict[str, int]:
        codes = self.codes
        return array_bits(
            codewords=codes.words,
            starts=jnp.concatenate([codes.starts, self.first]),
            rows=self.rows,
            decoder=jnp.concatenate([codes.table, codes.past, codes.base]),
            symbols=codes.order,
            centroids=self.centroids,
        )

    def _places(self, first: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Where the columns of a tile begin and end in `rows`: int32 [width] each."""
        starts = jax.lax.dynamic_slice(self.first, (first,), (self.width,))
        ends = jax.lax.dynamic_slice(self.first, (first + 1,), (self.width,))
        return starts.astype(jnp.int32), ends.astype(jnp.int32)

    def _differences(self, values: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The value of the skipped symbol, and by rank how much the others differ from it; then a 0."""
        common = values[self.skipped]
        ranked = values[self.codes.order.astype(jnp.int32)] - common
        return common, jnp.concatenate([ranked, jnp.zeros(1, jnp.float32)])


def _check_size(n: int, kinds: int) -> None:
    """`LeafError` if a row and a rank, or what stands for none, do not fit in 32 bits."""
    if width_of(n) + width_of(kinds + 1) > 32:
        raise LeafError(f"a matrix of {n:,} rows and {kinds:,} symbols needs more than 32 bits for a row and a symbol")
