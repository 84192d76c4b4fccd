import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import Augment, Augmentation

IMAGES = jnp.arange(1.0, 1 + 64 * 4 * 5 * 2).reshape(64, 4, 5, 2)


def test_every_image_is_a_window_of_itself_with_black_around() -> None:
    found = np.asarray(Augmentation(Augment(crop=2), black=(-1, -2))(jax.random.key(0), IMAGES))
    wide = ((0, 0), (2, 2), (2, 2))
    channels = [np.pad(np.asarray(IMAGES[..., c]), wide, constant_values=-1 - c) for c in range(2)]
    padded = np.stack(channels, axis=-1)
    windows = {(i, j): padded[:, i : i + 4, j : j + 5] for i in range(5) for j in range(5)}
    hits = [next(at for at, window in windows.items() if (window[n] == found[n]).all()) for n in range(64)]
    assert len(set(hits)) > 12, "each image draws a place of its own"


def test_about_half_of_the_images_are_mirrored() -> None:
    found, images = np.asarray(Augmentation(Augment(flip=True))(jax.random.key(0), IMAGES)), np.asarray(IMAGES)
    mirrored = [(found[n] == images[n, :, ::-1]).all() for n in range(64)]
    assert all((found[n] == images[n]).all() or mirrored[n] for n in range(64)) and 16 < sum(mirrored) < 48


def test_equal_augmentations_share_a_program_and_nothing_asked_changes_nothing() -> None:
    one, other = (Augmentation(Augment(crop=4, flip=True), (0.5,)) for _ in range(2))
    assert hash(one) == hash(other) and one == other
    assert (Augmentation(Augment())(jax.random.key(0), IMAGES) == IMAGES).all()
