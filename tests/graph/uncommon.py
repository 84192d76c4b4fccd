"""Networks as functions, less common ones: weights that are computed, memories, programs that look like none of these.

Every width is another number. `vectors` come as [2, 5].
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from quantree.model import Tree
from tests.graph.cases import function, vectors
from tests.graph.functions import TWO, X, hidden

# Weights that are computed.


@function({"a": (2, 3), "b": (3, 2), "w2": (6, 3)}, vectors(2, 6), {"a:1": 3, "b:1": 2})
def kronecker_product(p: Tree, x: Array) -> Array:
    return jnp.tanh(x @ jnp.kron(p["a"], p["b"])) @ p["w2"]


@function({"code": (4,), "w": (4, 30), "w2": (6, 3)}, X, {}, {"w:1": 6, "code:0": 4})
def kernel_from_a_network(p: Tree, x: Array) -> Array:
    return jnp.tanh(x @ (p["code"] @ p["w"]).reshape(5, 6)) @ p["w2"]


@function(TWO, X, {"w1:1": 6})
def kernel_rounded_by_its_largest(p: Tree, x: Array) -> Array:
    step = jnp.abs(p["w1"]).max(axis=0, keepdims=True) / 7
    return jnp.tanh(x @ (jnp.round(p["w1"] / step) * step)) @ p["w2"]


@function({"w1": (5, 24), "w2": (6, 3)}, X, {}, {"w1:1": 6})
def kernel_from_the_inputs(p: Tree, x: Array) -> Array:
    kernel, layout = (x.mean(axis=0) @ p["w1"]).reshape(1, 4, 6), ("NWC", "WIO", "NWC")
    return jax.lax.conv_general_dilated(x[None, :, :4], kernel, (1,), "SAME", dimension_numbers=layout)[0] @ p["w2"]


@function({"u": (5, 4), "core": (4, 3, 2), "v": (3, 6), "w": (2, 7)}, X, {"u:1": 4, "core:1": 3, "core:2": 2})
def tucker_form(p: Tree, x: Array) -> Array:
    return jnp.einsum("ni,ia,abc,bo,cq->noq", x, p["u"], p["core"], p["v"], p["w"])


# Structure without names.


@function({"a": (4, 5, 6), "b": (4, 6, 3)}, X, {"a:2": 6}, {"a:0": 4})
def ensemble(p: Tree, x: Array) -> Array:
    return jax.vmap(lambda a, b: jnp.tanh(x @ a) @ b)(p["a"], p["b"]).mean(axis=0)


@function({"w1": (5, 6), "v": (1, 4), "w2": (24, 3)}, X, {"w1:1": 6, "v:1": 4})
def one_network_for_each_channel(p: Tree, x: Array) -> Array:
    return jnp.tanh(hidden(p, x)[:, :, None] @ p["v"]).reshape(2, -1) @ p["w2"]


@function({"w1": (5, 6), "keys": (9, 6), "values": (9, 3)}, X, {"w1:1": 6}, {"keys:0": 9})
def memory(p: Tree, x: Array) -> Array:
    return jax.nn.softmax(hidden(p, x) @ p["keys"].T) @ p["values"]


@function({"centres": (7, 5), "rates": (7,), "w2": (7, 3)}, X, {"centres:0": 7})
def radial_functions(p: Tree, x: Array) -> Array:
    distances = ((x[:, None] - p["centres"][None]) ** 2).sum(axis=-1)
    return jnp.exp(-distances * p["rates"][None]) @ p["w2"]


@function(
    {"w1": (5, 6), "a": (6, 4), "b": (6, 4), "c": (6, 4), "w2": (6, 3)}, vectors(2, 7, 5), {}, {"w1:1": 6, "a:1": 4}
)
def state_space(p: Tree, x: Array) -> Array:
    def step(state: Array, now: Array) -> tuple[Array, Array]:
        state = state * jax.nn.sigmoid(p["a"])[None] + now[:, :, None] * p["b"][None]
        return state, (state * p["c"][None]).sum(axis=-1)

    return jax.lax.scan(step, jnp.zeros((2, 6, 4)), hidden(p, x).swapaxes(0, 1))[1][-1] @ p["w2"]


@function({"w1": (5, 6), "w2": (24, 3)}, vectors(2, 4, 4, 5), {"w1:1": 6})
def patches_of_an_image(p: Tree, x: Array) -> Array:
    layout = ("NHWC", "HWIO", "NHWC")
    found = jax.lax.conv_general_dilated_patches(hidden(p, x), (2, 2), (1, 1), "VALID", dimension_numbers=layout)
    return (found @ p["w2"]).mean(axis=(1, 2))


@function({"k1": (6, 3, 3, 3), "b": (6,), "k2": (4, 6, 3, 3)}, vectors(2, 3, 5, 5), {"k1:0": 6})
def images_with_channels_first(p: Tree, x: Array) -> Array:
    layout = ("NCHW", "OIHW", "NCHW")
    y = jax.lax.conv_general_dilated(x, p["k1"], (1, 1), "SAME", dimension_numbers=layout)
    y = jnp.tanh(y + p["b"].reshape(1, -1, 1, 1))
    return jax.lax.conv_general_dilated(y, p["k2"], (1, 1), "SAME", dimension_numbers=layout).mean(axis=(2, 3))


# What looks free and is not.


@function({"w1": (5, 6), "w2": (8, 3)}, X, None)
def zeros_meet_channels(p: Tree, x: Array) -> Array:
    one, other = jnp.split(jnp.pad(hidden(p, x), ((0, 0), (1, 1))), 2, axis=-1)
    return jnp.concatenate([one + other, one - other], axis=-1) @ p["w2"]


@function({"w1": (5, 6), "w2": (12, 3)}, vectors(2, 2, 5), None)
def second_step_shuffled_and_dealt_out(p: Tree, x: Array) -> Array:
    y = hidden(p, x)
    other = y[:, 1].reshape(2, 2, 3).swapaxes(1, 2).reshape(2, 6)
    return jnp.stack([y[:, 0], other], axis=-1).reshape(2, -1) @ p["w2"]


@function({"w1": (5, 8), "w2": (8, 3)}, X, {})
def times_a_hadamard_matrix(p: Tree, x: Array) -> Array:
    two = jnp.asarray([[1, 1], [1, -1]], jnp.float32)
    return hidden(p, x) @ jnp.kron(two, jnp.kron(two, two)) @ p["w2"]


@function({"w1": (5, 6), "w": (6, 6), "w2": (6, 3)}, X, {})
def autoregressive_mask(p: Tree, x: Array) -> Array:
    return jnp.tanh(hidden(p, x) @ (p["w"] * jnp.tril(jnp.ones((6, 6))))) @ p["w2"]


@function(TWO, X, {})
def noise_from_a_key(p: Tree, x: Array) -> Array:
    return (hidden(p, x) + jax.random.normal(jax.random.key(0), (2, 6))) @ p["w2"]


@function(TWO, X, {})
def summed_by_an_associative_scan(p: Tree, x: Array) -> Array:
    return jax.lax.associative_scan(jnp.add, hidden(p, x), axis=1) @ p["w2"]


@function(TWO, X, {})
def normed_by_its_neighbours(p: Tree, x: Array) -> Array:
    y = hidden(p, x)
    return y / (1 + jax.lax.reduce_window(y * y, 0.0, jax.lax.add, (1, 3), (1, 1), "SAME")) @ p["w2"]


@function({"w1": (5, 6), "w2": (6, 3)}, vectors(4, 5), {})
def whitened(p: Tree, x: Array) -> Array:
    y = hidden(p, x)
    return jnp.linalg.solve(y.T @ y + jnp.eye(6), y.T).T @ p["w2"]


@function(TWO, X, {})
def computed_by_the_host(p: Tree, x: Array) -> Array:
    y = hidden(p, x)
    return jax.pure_callback(lambda z: np.cumsum(z, axis=-1), jax.ShapeDtypeStruct(y.shape, y.dtype), y) @ p["w2"]


@function({"w1": (5, 6), "w2": (3, 4)}, X, {})
def the_largest_three(p: Tree, x: Array) -> Array:
    return jax.lax.top_k(hidden(p, x), 3)[0] @ p["w2"]


@function(TWO, X, None)
def changed_one_by_one_in_a_loop(p: Tree, x: Array) -> Array:
    y = jax.lax.fori_loop(0, 5, lambda i, y: y.at[:, i].set(y[:, i] + y[:, i + 1]), hidden(p, x))
    return y @ p["w2"]


@function({"w1": (5, 3), "w2": (3, 4)}, vectors(2, 2, 5), None)
def every_second_of_two_steps(p: Tree, x: Array) -> Array:
    return hidden(p, x).reshape(2, 6)[:, 1::2] @ p["w2"]  # channel 1 of the first step, 0 and 2 of the second
