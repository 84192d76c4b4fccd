"""Arrays that are spread over a mesh of devices."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from quantree.errors import LeafError

WHOLE = PartitionSpec()


def mesh_of(x: jax.Array) -> Mesh | None:
    """The mesh over whose devices x is spread, if it is."""
    if isinstance(x, Tracer) or len(x.devices()) == 1 or not isinstance(x.sharding, NamedSharding):
        return None
    return automatic(x.sharding.mesh) if isinstance(x.sharding.mesh, Mesh) else None


def automatic(mesh: Mesh) -> Mesh:
    """The same mesh, of whose axes the compiler disposes: what we write has no words for axes that are explicit."""
    return Mesh(mesh.devices, mesh.axis_names)


def place(array: jax.Array, mesh: Mesh, split: PartitionSpec) -> jax.Array:
    """`array` split over an automatic mesh; it isn't copied where it lies there already.

    Of several processes each gives all of it, or an array that is spread over them. `LeafError` in all of them where
    they differ in an array that each must know whole.
    """
    sharding = NamedSharding(mesh, split)
    if isinstance(array, Tracer) or sharding.is_fully_addressable or not array.is_fully_addressable:
        return jax.device_put(array, sharding)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(place(jax.random.key_data(array), mesh, split), impl=jax.random.key_impl(array))
    host = np.asarray(array)
    if split != WHOLE:
        # JAX's own transfer would send all points to all processes, to compare them.
        return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)
    try:
        return jax.device_put(host, sharding)
    except AssertionError:
        raise LeafError(
            f"an array of shape {host.shape} is not the same in all processes; "
            "expected one key, one start and one set of pinned centroids for all"
        ) from None


def spread(array: jax.Array, mesh: Mesh, axis: int) -> jax.Array:
    """`array` with `axis` split over all devices of an automatic mesh; zeros at its end give all equally many."""
    room = -array.shape[axis] % mesh.size
    if room:
        own = mesh_of(array)
        if own is not None:
            assert isinstance(array.sharding, NamedSharding)
            array = place(array, own, array.sharding.spec)
        array = jnp.pad(array, [(0, room) if i == axis else (0, 0) for i in range(array.ndim)])
    return place(array, mesh, PartitionSpec(*[None] * axis, tuple(mesh.axis_names)))
