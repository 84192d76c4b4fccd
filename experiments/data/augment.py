"""Random changes to training images, made on the device inside the training step."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from quantree.schema import Config


class Augment(Config):
    """Crops and flips, drawn anew for each image and step."""

    crop: int = Field(
        default=0, ge=0, description="black pixels added on each side before a crop of the old size is drawn"
    )
    flip: bool = Field(default=False, description="mirror half of the images left to right")


@dataclass(frozen=True)
class Augmentation:
    """What `Augment` asks for, on scaled images. Hashable: equal ones share compiled code.

    black: what a pixel of zeros is after scaling, one number per channel or one for all. Statistics of batch norms
    notice it: most networks were trained on images that were padded first and scaled afterwards.
    """

    settings: Augment
    black: tuple[float, ...] = (0.0,)

    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Images [n, h, w, c], float -> the same shape and dtype."""
        n, height, width, channels = images.shape
        places, mirrored = jax.random.split(key)
        crop = self.settings.crop
        if crop:
            shape = (n, height + 2 * crop, width + 2 * crop, channels)
            black = jnp.broadcast_to(jnp.asarray(np.array(self.black), images.dtype).reshape(1, 1, 1, -1), shape)
            padded = jax.lax.dynamic_update_slice(black, images, (0, crop, crop, 0))
            corners = jax.random.randint(places, (n, 2), 0, 2 * crop + 1)
            rows = corners[:, :1] + jnp.arange(height)[None]
            columns = corners[:, 1:] + jnp.arange(width)[None]
            images = padded[jnp.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
        if self.settings.flip:
            chosen = jax.random.bernoulli(mirrored, 0.5, (n, 1, 1, 1))
            images = jnp.where(chosen, images[:, :, ::-1], images)
        return images
