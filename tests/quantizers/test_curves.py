"""What a setting costs and loses on one leaf, against the file that it makes and what is decoded from it."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantree import registry
from quantree.encodings import Blocking, Codebook, Compressed, Encoding, Pruned, Raw, Scalar, SubVectors
from quantree.quantizers import KMeans, Learner, Quantize, Uniform
from quantree.quantizers.curves import HEADER, Curve, trace
from quantree.storage.file import account, to_bytes

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def traced(leaf: Encoding, *learners: Learner, blocking: Blocking | None = None, narrow: bool = True) -> Curve:
    ladder = [Quantize(learner=learner, blocking=blocking or Scalar()) for learner in learners]
    return trace("fc/kernel", leaf, [ladder], "book", KEY, narrow)


def plain(values: np.ndarray) -> Raw:
    return Raw.of(jnp.asarray(values.astype(np.float32)))


def pruned(values: np.ndarray, density: float) -> Pruned:
    return Pruned.of(jnp.asarray(values.astype(np.float32)), jnp.asarray(RNG.random(values.shape) < density))


@pytest.mark.parametrize("leaf", [plain(RNG.normal(size=(40, 30))), pruned(RNG.normal(size=(40, 30)), 0.3)])
@pytest.mark.parametrize("blocking", [Scalar(), SubVectors(d=4)])
@pytest.mark.parametrize("narrow", [True, False])
def test_size_and_error_are_those_of_the_file(leaf: Encoding, blocking: Blocking, narrow: bool) -> None:
    curve = traced(leaf, KMeans(k=2), KMeans(k=5), blocking=blocking, narrow=narrow)
    original = np.asarray(leaf.decode({}), np.float64)
    assert len(curve.points) == 3 and curve.points[-1] is curve.as_it_was
    for point in curve.points:
        books = {} if point.book is None else {"book": point.book}
        data = to_bytes(Compressed({"fc/kernel": point.leaf}, books, {}, 0))
        head, *_, checksum = account(data).entries
        assert point.size == len(data) - head.bytes - checksum.bytes
        decoded = np.asarray(point.leaf.decode(books))
        assert point.error == pytest.approx(np.sum((decoded - original) ** 2), rel=1e-9)
        np.testing.assert_array_equal(np.asarray(point.decoded), decoded, strict=True)
        zeros = leaf.zeros()
        assert zeros is None or not decoded[zeros].any()
    assert curve.energy == pytest.approx(np.sum(original**2)) and curve.weights == 1200
    (book, *_) = (point.book for point in curve.points)
    assert book is not None and book.table().dtype == (np.float16 if narrow else np.float32)
    coded = [point.book is not None for point in curve.points]
    np.testing.assert_array_equal(curve.sizes(7) - curve.sizes(0), 7 * np.asarray(coded))


@pytest.mark.parametrize("scale", [1e-9, 1e6])
def test_codebooks_that_16_bits_can_not_hold_keep_32(scale: float) -> None:
    curve = traced(plain(scale * RNG.choice([-1.0, 1.0, 3.0], size=(50, 20))), KMeans(k=3))
    exact = curve.points[-1]
    assert exact.book is not None and exact.book.table().dtype == np.float32 and exact.error == 0
    assert exact.size < curve.as_it_was.size, "what is exact and smaller makes the leaf as it was superfluous"


class Counted(Uniform):
    """Remembers which k were learned."""

    seen: ClassVar[list[int]] = []

    def learn(self, blocks: jax.Array, mask: jax.Array, key: jax.Array) -> tuple[Codebook, jax.Array]:
        self.seen.append(self.k)
        return super().learn(blocks, mask, key)


def learned(leaf: Encoding, before: Learner | None = None) -> list[int]:
    Counted.seen.clear()
    first = [] if before is None else [[Quantize(learner=before)]]
    with registry.temporarily():
        registry.register("counted")(Counted)
        ladder = [Quantize(learner=Counted(k=k)) for k in (2, 3, 4, 5, 6, 8, 11, 16, 256)]
        trace("fc/kernel", leaf, [*first, ladder], "book", KEY, True)
    return list(Counted.seen)


def test_a_ladder_ends_where_it_is_exact_too_large_or_beaten() -> None:
    assert learned(plain(np.linspace(-1, 1, 3).repeat(40).reshape(8, 15))) == [2, 3]
    assert len(learned(plain(RNG.normal(size=(2, 3))))) < 9, "six weights of 32 bits need no codebook"
    assert len(learned(plain(RNG.normal(size=(50, 20))))) == 9
    cheating = Uniform(k=256)  # nothing below a finer setting of another ladder that is on the hull is beaten by it
    assert len(learned(plain(RNG.normal(size=(50, 20))), cheating)) == 9


def test_a_beaten_ladder_is_left_unless_the_leaf_has_few_values() -> None:
    class Worse(Counted):
        """Far off, at any k."""

        def learn(self, blocks: jax.Array, mask: jax.Array, key: jax.Array) -> tuple[Codebook, jax.Array]:
            return super().learn(blocks + 5, mask, key)

    ks, weights = (2, 3, 4, 5, 6, 8), RNG.normal(size=(40, 40))
    with registry.temporarily():
        registry.register("worse")(Worse)
        for values, times in ((weights, 4), (np.round(weights * 4) / 4, 6)):
            Counted.seen.clear()
            good = [Quantize(learner=Uniform(k=k)) for k in ks]
            bad = [Quantize(learner=Worse(k=k)) for k in ks]
            curve = trace("fc/kernel", plain(values), [good, bad], "book", KEY, True)
            assert len(Counted.seen) == times
            assert {type(point.learner) for point in curve.points} == {Uniform, type(None)}


def test_the_header_may_push_a_point_off_the_hull() -> None:
    curve = traced(plain(RNG.normal(size=(8, 8))), KMeans(k=2))
    assert len(curve.points) == 2
    assert curve.on_hull(HEADER).points == curve.points
    assert curve.on_hull(1000).points == (curve.as_it_was,)
