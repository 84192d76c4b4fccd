"""VGG networks with batch norm, in their form for 32 x 32 images."""

from typing import Annotated

import jax.numpy as jnp
from flax import nnx
from jax import Array
from pydantic import Field

from experiments.zoo.network import Network
from quantree.registry import register

_POOL = 0  # in a list of widths: halve the image

Widths = tuple[Annotated[int, Field(ge=0)], ...]


class Vgg(Network):
    """Convolutions 3 x 3 with batch norm and ReLU, 2 x 2 max-pooling in between, and one linear layer at the end
    (Simonyan and Zisserman 2014; the form for CIFAR has global pooling in place of the wide dense layers).

    Leaves: `conv1/kernel`, `bn1/scale`, `bn1/bias`, ..., `linear/kernel`, `linear/bias`.
    """

    widths: Widths = Field(min_length=1, description="channels of each convolution; 0: 2 x 2 max-pooling")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of features dropped before the last layer")

    def build(self, rngs: nnx.Rngs, shape: tuple[int, ...], classes: int) -> nnx.Module:
        """See `Network.build`."""
        least = 2 ** sum(width == _POOL for width in self.widths)
        fits = len(shape) == 3 and min(shape[:2]) >= least
        self.need(fits, shape, f"[height, width, channels], {least} x {least} or more")
        return _Vgg(self.widths, self.dropout, shape[2], classes, rngs)


@register("vgg_small")
class VggSmall(Vgg):
    """Four convolutions, 242,474 parameters: trains on CIFAR-10 in minutes on two CPU cores."""

    widths: Widths = Field(default=(32, 0, 64, 0, 128, 128, 0), description=Vgg.model_fields["widths"].description)


_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
_VGG19 = (64, 64, 0, 128, 128, 0, *[256] * 4, 0, *[512] * 4, 0, *[512] * 4, 0)


@register("vgg16")
class Vgg16(Vgg):
    """VGG-16 with batch norm for CIFAR: thirteen convolutions, 14.7 million parameters."""

    widths: Widths = Field(default=_VGG16, description=Vgg.model_fields["widths"].description)


@register("vgg19")
class Vgg19(Vgg):
    """VGG-19 with batch norm for CIFAR: sixteen convolutions, 20.0 million parameters."""

    widths: Widths = Field(default=_VGG19, description=Vgg.model_fields["widths"].description)


class _Vgg(nnx.Module):
    def __init__(self, widths: Widths, dropout: float, channels: int, classes: int, rngs: nnx.Rngs) -> None:
        self.widths, number = widths, 0
        for width in widths:
            if width != _POOL:
                number += 1
                conv = nnx.Conv(channels, width, (3, 3), use_bias=False, rngs=rngs)  # batch norm has the bias
                setattr(self, f"conv{number}", conv)
                setattr(self, f"bn{number}", nnx.BatchNorm(width, momentum=0.9, rngs=rngs))
                channels = width
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.linear = nnx.Linear(channels, classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        number = 0
        for width in self.widths:
            if width == _POOL:
                x = _pooled(x)
            else:
                number += 1
                x = nnx.relu(getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x)))
        return self.linear(self.dropout(x.mean((1, 2))))


def _pooled(x: Array) -> Array:
    """Largest of each 2 x 2 field: [n, h, w, c] -> [n, h // 2, w // 2, c].

    On a CPU the gradient of XLA's own pooling takes longer than all the convolutions.
    """
    n, h, w, c = x.shape
    rows = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
    x = jnp.maximum(rows[:, :, 0], rows[:, :, 1])
    return jnp.maximum(x[:, :, :, 0], x[:, :, :, 1])
