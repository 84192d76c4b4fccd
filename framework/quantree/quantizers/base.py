"""The two interfaces of this room: which weights share a codebook, and how it is found."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax

from quantree.encodings import Codebook, Encoding
from quantree.registry import Plugin


class Grouping(Plugin, family="grouping"):
    """Which leaves share one codebook."""

    @abstractmethod
    def groups(self, paths: Sequence[str], leaves: Mapping[str, Encoding]) -> dict[str, list[str]]:
        """Codebook name -> paths of the leaves that use it. Every path is in exactly one group."""


class Learner(Plugin, family="learner"):
    """Finds a codebook and the codes.

    This is the plug-in to write for a quantizer of one's own: it sees nothing but vectors.
    """

    scalars_only: ClassVar[bool] = False
    """Set by a learner that takes blocks of one weight only; a recipe that gives it others is refused."""

    @abstractmethod
    def learn(self, blocks: jax.Array, mask: jax.Array, key: jax.Array) -> tuple[Codebook, jax.Array]:
        """Quantizes `segments` independent sets of vectors.

        blocks: [segments, n, d] float32, finite. mask: [segments, n] bool; False where a block takes no part (it was
        pruned away, whole). At least one block of each segment takes part. Returns a codebook whose `table()` is
        [segments, k, d], and integer codes [segments, n] below k; codes of blocks that take no part are arbitrary.
        """
