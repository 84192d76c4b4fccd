"""Whether a network runs with fewer channels, for transforms that merge or remove some: tried, not believed."""

import jax

from quantree.encodings import Compressed
from quantree.errors import DataError, QuantreeError
from quantree.model import unflatten
from quantree.stage import Context

_TRIED = 2  # examples


def assert_runs(compressed: Compressed, context: Context, what: str) -> None:
    """`QuantreeError` if the network's function fails on the shapes that its arrays have now.

    Layers of Flax take the widths of their arrays; a function or layer of anyone's own may have a width written into
    it. what: was done, such as "merge: conv1 has 5 channels in place of 20". Computes nothing, and says nothing where
    there is nothing to run: a bare checkpoint, or no data. `DataError` if the validation split is empty.
    """
    apply = context.model.apply
    if apply is None or context.data is None:
        return
    batch = next(iter(context.data.validation(_TRIED)), None)
    if batch is None:
        raise DataError("there is nothing to try the narrower network on: the validation split is empty")
    try:
        jax.eval_shape(lambda net, inputs: apply(net.decode(), unflatten(net.state), inputs), compressed, batch[0])
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise QuantreeError(
            f"{what}, and the network does not run with that: {type(error).__name__}: {reason}. A width may be "
            "written into it where it could be read off an array; or leave these channels out of `match`"
        ) from error
