"""The two interfaces of this room: which weights share a codebook, and how it is found."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import jax
import pydantic

from quantree.encodings import Codebook, Encoding
from quantree.registry import Plugin

LADDER = (2, 3, 4, 5, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 256)
"""Numbers of centroids that `budget` tries, half a bit apart."""


class Grouping(Plugin, family="grouping"):
    """Which leaves share one codebook."""

    @abstractmethod
    def groups(self, paths: Sequence[str], leaves: Mapping[str, Encoding]) -> dict[str, list[str]]:
        """Codebook name -> paths of the leaves that use it. Every path is in exactly one group."""


class Learner(Plugin, family="learner"):
    """Finds a codebook and the codes.

    This is the plug-in to write for a quantizer of one's own: it sees nothing but vectors.
    """

    usage: ClassVar = "{{kind: quantize, learner: {{kind: {name}}}}}"
    scalars_only: ClassVar[bool] = False
    """Set by a learner that takes blocks of one weight only; a recipe that gives it others is refused."""
    for_vectors: ClassVar[bool] = False
    """Set by a learner that gains nothing on blocks of one weight: there `budget` tries it only if it is named."""

    @abstractmethod
    def learn(self, blocks: jax.Array, mask: jax.Array, key: jax.Array) -> tuple[Codebook, jax.Array]:
        """Quantizes `segments` independent sets of vectors.

        blocks: [segments, n, d] float32, finite. mask: [segments, n] bool; False where a block takes no part (it was
        pruned away, whole). At least one block of each segment takes part. Returns a codebook whose `table()` is
        [segments, k, d], and integer codes [segments, n] below k; codes of blocks that take no part are arbitrary.
        """

    @classmethod
    def ladder(cls) -> tuple[Self, ...]:
        """Settings for the stage `budget` to try, from coarse to fine.

        With a field `k` they are the numbers of centroids in `LADDER` that it allows; else the defaults alone. Nothing
        if another field has no default.
        """
        steps = [{"k": k} for k in LADDER] if "k" in cls.model_fields else [{}]
        found = []
        for settings in steps:
            try:
                found.append(cls(**settings))
            except pydantic.ValidationError:
                continue
        return tuple(found)
