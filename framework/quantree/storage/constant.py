"""Arrays of one value: folded statistics, fresh scales and biases."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from quantree.encodings import Raw, Stream
from quantree.encodings.base import stored

FEWEST = 16  # elements; below that the longer row of the header would eat what is saved


class Constant(Raw):
    """A raw array, all of whose elements are the same bits: one of them is stored, and what is restored is `Raw`.

    It exists in files only, so it is no encoding that a stage may use; no plug-in may have its name.
    """

    name: ClassVar[str] = "constant"

    def streams(self) -> dict[str, Stream]:
        return {"value": Stream(np.asarray(self.value).reshape(-1)[:1])}

    @classmethod
    def restore(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, shape: tuple[int, ...], dtype: np.dtype[Any], meta: tuple[Any, ...], streams: Mapping[str, np.ndarray]
    ) -> Raw:
        return Raw(jnp.asarray(np.broadcast_to(stored(streams, "value", (1,)), shape)), dtype)


def constant(raw: Raw) -> Raw:
    """The same array as `Constant` if it is one, bit for bit (-0 is not 0, a NaN is itself), and not tiny."""
    value = np.asarray(raw.value).reshape(-1)
    if value.size < FEWEST:
        return raw
    bits = value.view(np.dtype(f"V{value.itemsize}"))
    return Constant(raw.value, raw.dtype) if (bits == bits[0]).all() else raw
