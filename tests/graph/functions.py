"""Networks as plain functions of their parameters: one operation each that may move, split or tell apart channels.

Every width is another number, unless equal widths are the point. `vectors` come as [2, 5].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from quantree.model import Tree
from tests.graph.cases import function, vectors

X = vectors(2, 5)
TWO = {"w1": (5, 6), "w2": (6, 3)}  # one hidden layer of six units


def hidden(p: Tree, x: Array) -> Array:
    return jnp.tanh(x @ p["w1"])


# What leaves channels as free as in an MLP.


@function({"w1": (4, 4), "b1": (4,), "w2": (4, 4), "b2": (4,), "w3": (4, 4)}, vectors(4, 4), {"w1:1": 4, "w2:1": 4})
def all_widths_alike(p: Tree, x: Array) -> Array:
    x = jax.nn.relu(x @ p["w1"] + p["b1"][None])
    return jax.nn.relu(x @ p["w2"] + p["b2"][None]) @ p["w3"]


@function({"w1": (6, 5), "w2": (3, 6)}, X, {"w1:0": 6})
def kernels_stored_as_outputs_by_inputs(p: Tree, x: Array) -> Array:
    return jax.nn.gelu(x @ p["w1"].T) @ p["w2"].T


@function({**TWO, "slope": (6,)}, X, {"w1:1": 6})
def slopes_per_channel(p: Tree, x: Array) -> Array:
    y = x @ p["w1"]
    return jnp.where(y > 0, y, y * p["slope"][None]) @ p["w2"]


@function({**TWO, "slope": ()}, X, {"w1:1": 6})
def one_slope_for_all(p: Tree, x: Array) -> Array:
    y = x @ p["w1"]
    return jnp.where(y > 0, y, y * p["slope"]) @ p["w2"]


@function({"w1": (5, 14), "w2": (7, 3)}, X, {}, {"w1:1": 7})
def gated_by_its_second_half(p: Tree, x: Array) -> Array:
    value, gate = jnp.split(x @ p["w1"], 2, axis=-1)
    return (value * jax.nn.sigmoid(gate)) @ p["w2"]


@function({"w1": (5, 4), "w2": (5, 6), "w3": (10, 3)}, X, {"w1:1": 4, "w2:1": 6})
def concatenated(p: Tree, x: Array) -> Array:
    return jnp.concatenate([jnp.tanh(x @ p["w1"]), jnp.tanh(x @ p["w2"])], axis=1) @ p["w3"]


@function(TWO, X, {"w1:1": 6})
def channels_first(p: Tree, x: Array) -> Array:
    return (p["w1"].T @ x.T).T @ p["w2"]


@function({"down": (5, 4), "up": (4, 6), "w2": (6, 3)}, X, {"up:1": 6}, {"down:1": 4})
def low_rank_kernel(p: Tree, x: Array) -> Array:
    return jnp.tanh(x @ (p["down"] @ p["up"])) @ p["w2"]


@function({"w1": (5, 6), "w": (6, 6), "w2": (6, 3)}, X, {"w1:1": 6})
def one_layer_called_twice(p: Tree, x: Array) -> Array:
    return jnp.tanh(jnp.tanh(hidden(p, x) @ p["w"]) @ p["w"]) @ p["w2"]


@function({"w1": (5, 6), "w2": (12, 3)}, (vectors(2, 5), vectors(3, 5)[1:]), {"w1:1": 6})
def siamese(p: Tree, x: tuple[Array, Array]) -> Array:
    one, other = hidden(p, x[0]), hidden(p, x[1])
    return jnp.concatenate([jnp.abs(one - other), one * other], axis=1) @ p["w2"]


@function({"a": (5, 6), "b": (4, 6), "w2": (6, 3)}, {"left": X, "right": vectors(2, 4)}, {"a:1": 6})
def inputs_in_a_dict(p: Tree, x: dict[str, Array]) -> Array:
    return jnp.tanh(x["left"] @ p["a"] + x["right"] @ p["b"]) @ p["w2"]


@function({"w1": (5, 6), "w2": (12, 3)}, X, {"w1:1": 6}, {"w2:0": 2})
def repeated(p: Tree, x: Array) -> Array:
    return jnp.repeat(hidden(p, x), 2, axis=-1) @ p["w2"]


@function({"w1": (5, 6), "w2": (12, 3)}, X, {"w1:1": 6})
def tiled(p: Tree, x: Array) -> Array:
    return jnp.tile(hidden(p, x), (1, 2)) @ p["w2"]


@function({"w1": (5, 6), "w2": (6, 3)}, X, None)
def flipped(p: Tree, x: Array) -> Array:
    return jnp.flip(hidden(p, x), axis=-1) @ p["w2"]


@function({"w1": (5, 6), "w2": (6, 3)}, X, {}, {"w1:1#1": 4, "w1:1#2": 2})
def rolled(p: Tree, x: Array) -> Array:
    return jnp.roll(hidden(p, x), 2, axis=-1) @ p["w2"]


@function({"w1": (5, 6), "w2": (6, 3)}, X, {}, {"w1:1#1": 2, "w1:1#2": 3})
def shuffled_and_back(p: Tree, x: Array) -> Array:
    return hidden(p, x).reshape(2, 2, 3).swapaxes(1, 2).reshape(2, 6) @ p["w2"]


@function(TWO, X, {}, {"w1:1": 6})
def largest_added(p: Tree, x: Array) -> Array:
    y = hidden(p, x)
    return (y + y.max(axis=-1, keepdims=True)) @ p["w2"]


@function({"a": (5, 4), "b": (5, 6), "w2": (24, 3)}, X, {"a:1": 4, "b:1": 6})
def outer_product(p: Tree, x: Array) -> Array:
    a, b = jnp.tanh(x @ p["a"]), jnp.tanh(x @ p["b"])
    return (a[:, :, None] * b[:, None, :]).reshape(2, -1) @ p["w2"]


@function(TWO, vectors(2, 7, 5), {"w1:1": 6})
def summed_over_time_both_ways(p: Tree, x: Array) -> Array:
    y = jnp.cumsum(hidden(p, x), axis=1)
    return (jnp.flip(y, axis=1) + jnp.roll(y, 1, axis=1))[:, 2:6:2].mean(axis=1) @ p["w2"]


@function(TWO, vectors(2, 7, 5), {"w1:1": 6})
def masked_in_time(p: Tree, x: Array) -> Array:
    mask = jnp.asarray([1, 1, 0, 1, 0, 0, 1], jnp.float32).reshape(1, 7, 1)
    return (hidden(p, x) * mask).sum(axis=1) @ p["w2"]


@function({"embed": (9, 6), "w2": (6, 3)}, jnp.asarray([[1, 4, 8], [0, 0, 7]]), {"embed:1": 6})
def mean_of_embeddings(p: Tree, x: Array) -> Array:
    return p["embed"][x].mean(axis=1) @ p["w2"]


EDGES = np.array([[0, 1], [1, 2], [2, 0], [2, 3]])


@function({"w1": (5, 6), "w2": (6, 7), "w3": (7, 3)}, vectors(4, 5), None)
def messages_along_edges(p: Tree, x: Array) -> Array:
    for w in (p["w1"], p["w2"]):
        y = x @ w
        x = jnp.tanh(y + jnp.zeros_like(y).at[EDGES[:, 1]].add(y[EDGES[:, 0]]))
    return x @ p["w3"]


@function({"gate": (5, 4), "w1": (4, 5, 6), "w2": (4, 6, 3)}, X, {"w1:2": 6}, {"w1:0": 4})
def mixture_of_experts(p: Tree, x: Array) -> Array:
    y = jnp.einsum("neh,eho->neo", jnp.tanh(jnp.einsum("ni,eih->neh", x, p["w1"])), p["w2"])
    return jnp.einsum("ne,neo->no", jax.nn.softmax(x @ p["gate"]), y)


@function({"w1": (5, 6), "b1": (6,), "w2": (6, 3)}, X, {"w1:1": 6})
def in_bfloat16(p: Tree, x: Array) -> Array:
    p, x = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (p, x))
    return jnp.tanh(x @ p["w1"] + p["b1"][None]) @ p["w2"]


@function({"w1": (5, 6), "w2": (12, 3)}, vectors(2, 2, 5), {"w1:1": 6})
def two_steps_side_by_side(p: Tree, x: Array) -> Array:
    return hidden(p, x).reshape(2, -1) @ p["w2"]


@function({"w1": (5, 6), "w2": (12, 3)}, vectors(2, 2, 5), None)
def second_step_turned_round(p: Tree, x: Array) -> Array:
    y = hidden(p, x)
    return jnp.concatenate([y[:, 0], jnp.flip(y[:, 1], axis=-1)], axis=-1) @ p["w2"]


@function({"w1": (5, 6), "w2": (12, 3)}, vectors(2, 2, 5), None)
def second_step_turned_round_and_dealt_out(p: Tree, x: Array) -> Array:
    y = hidden(p, x)
    return jnp.stack([y[:, 0], jnp.flip(y[:, 1], axis=-1)], axis=-1).reshape(2, -1) @ p["w2"]


@function({"w1": (5, 6), "gain": (12,), "w2": (12, 3)}, X, {"w1:1": 6})
def twice_with_gains_of_their_own(p: Tree, x: Array) -> Array:
    y = hidden(p, x)
    return jnp.tanh(jnp.concatenate([y, y], axis=-1) * p["gain"][None]) @ p["w2"]


# Programs within the program.


@function(TWO, X, {"w1:1": 6})
def jitted_within(p: Tree, x: Array) -> Array:
    return jax.jit(lambda w, y: jnp.tanh(x @ w) @ y)(p["w1"], p["w2"])


@function(TWO, X, {"w1:1": 6})
def checkpointed(p: Tree, x: Array) -> Array:
    return jax.checkpoint(hidden)(p, x) @ p["w2"]


@jax.custom_vjp
def _straight_through(x: Array) -> Array:
    return jnp.round(4 * x) / 4


_straight_through.defvjp(lambda x: (_straight_through(x), None), lambda _, gradient: (gradient,))


@function(TWO, X, {"w1:1": 6})
def custom_gradient(p: Tree, x: Array) -> Array:
    return (_straight_through(hidden(p, x)) + jax.lax.stop_gradient(jax.nn.silu(x @ p["w1"]))) @ p["w2"]


@function(TWO, X, {"w1:1": 6})
def batched_by_vmap(p: Tree, x: Array) -> Array:
    return jax.vmap(lambda row: jnp.tanh(row @ p["w1"]) @ p["w2"])(x)


@function(TWO, X, {"w1:1": 6})
def mapped_over_examples(p: Tree, x: Array) -> Array:
    return jax.lax.map(lambda row: jnp.tanh(row @ p["w1"]) @ p["w2"], x)


@function({"w1": (5, 6), "w": (6, 6), "w2": (6, 3)}, X, {"w1:1": 6})
def loop_of_three(p: Tree, x: Array) -> Array:
    return jax.lax.fori_loop(0, 3, lambda _, y: jnp.tanh(y @ p["w"]), hidden(p, x)) @ p["w2"]


@function({"w1": (5, 6), "w": (6, 6), "w2": (6, 3)}, X, {}, {"w1:1": 6})
def loop_until_small(p: Tree, x: Array) -> Array:
    y = jax.lax.while_loop(lambda y: (y * y).sum() > 1, lambda y: 0.5 * jnp.tanh(y @ p["w"]), hidden(p, x))
    return y @ p["w2"]


@function({"w1": (5, 6), "a": (6, 6), "b": (6, 6), "w2": (6, 3)}, X, {"w1:1": 6})
def one_branch_or_the_other(p: Tree, x: Array) -> Array:
    y = hidden(p, x)
    for sum_of_inputs in (x.sum(), -x.sum()):  # either branch is taken once
        y = jax.lax.cond(sum_of_inputs > 0, lambda y: y @ p["a"], lambda y: y @ p["b"], y)
    return y @ p["w2"]


@function({"w1": (5, 6), "w": (4, 6, 6), "b": (4, 6), "w2": (6, 3)}, X, {"w1:1": 6})
def layers_stacked_in_a_scan(p: Tree, x: Array) -> Array:
    def layer(y: Array, each: tuple[Array, Array]) -> tuple[Array, None]:
        return jnp.tanh(y @ each[0] + each[1][None]), None

    return jax.lax.scan(layer, hidden(p, x), (p["w"], p["b"]))[0] @ p["w2"]


@function({"in": (5, 6), "rec": (6, 6), "start": (6,), "out": (6, 3)}, vectors(2, 7, 5), {"in:1": 6})
def recurrent_with_learned_start(p: Tree, x: Array) -> Array:
    def step(h: Array, now: Array) -> tuple[Array, Array]:
        h = jnp.tanh(now @ p["in"] + h @ p["rec"])
        return h, h @ p["out"]

    return jax.lax.scan(step, jnp.tile(p["start"][None], (2, 1)), x.swapaxes(0, 1))[1]


@function({"in": (5, 24), "rec": (6, 24), "b": (24,), "out": (6, 3)}, vectors(2, 7, 5), {}, {"in:1": 6})
def lstm(p: Tree, x: Array) -> Array:
    def step(carry: tuple[Array, Array], now: Array) -> tuple[tuple[Array, Array], None]:
        c, h = carry
        i, f, g, o = jnp.split(now @ p["in"] + h @ p["rec"] + p["b"][None], 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (c, jax.nn.sigmoid(o) * jnp.tanh(c)), None

    zeros = jnp.zeros((2, 6))
    return jax.lax.scan(step, (zeros, zeros), x.swapaxes(0, 1))[0][1] @ p["out"]


# What holds the number of channels but lets them move.


@function({"w1": (5, 6), "b": (5,)}, X, {}, {"w1:1": 6})
def autoencoder_with_one_kernel(p: Tree, x: Array) -> Array:
    return hidden(p, x) @ p["w1"].T + p["b"][None]


@function({"w1": (5, 6), "w": (6, 6), "w2": (6, 3)}, X, {}, {"w1:1": 6})
def symmetric_kernel(p: Tree, x: Array) -> Array:
    y = hidden(p, x)
    return (y + jnp.tanh(y @ (p["w"] + p["w"].T))) @ p["w2"]


@function(TWO, X, {}, {"w1:1": 6})
def softmax_over_channels(p: Tree, x: Array) -> Array:
    return jax.nn.softmax(hidden(p, x)) @ p["w2"]


@function(TWO, X, {}, {"w1:1": 6})
def norm_without_scale(p: Tree, x: Array) -> Array:
    return jax.nn.standardize(hidden(p, x)) @ p["w2"]


@function({**TWO, "scale": (6,)}, X, {}, {"w1:1": 6})
def root_mean_square_norm(p: Tree, x: Array) -> Array:
    y = hidden(p, x)
    return y * jax.lax.rsqrt((y * y).mean(axis=-1, keepdims=True) + 1e-6) * p["scale"][None] @ p["w2"]


@function(TWO, X, {}, {"w1:1": 6})
def unit_length(p: Tree, x: Array) -> Array:
    y = hidden(p, x)
    return y / jnp.linalg.norm(y, axis=-1, keepdims=True) @ p["w2"]


@function({**TWO, "gain": (6,)}, X, {}, {"gain:0": 6})
def weight_norm(p: Tree, x: Array) -> Array:
    kernel = p["w1"] / jnp.linalg.norm(p["w1"], axis=0, keepdims=True) * p["gain"][None]
    return jnp.tanh(x @ kernel) @ (p["w2"] / jnp.linalg.norm(p["w2"], axis=0, keepdims=True))


@function(TWO, X, {}, {"w1:1": 6})
def kernel_of_unit_size(p: Tree, x: Array) -> Array:
    return jnp.tanh(x @ (p["w1"] / jnp.sqrt((p["w1"] ** 2).sum()))) @ p["w2"]


@function({"a": (5, 6), "b": (4, 6)}, (X, vectors(2, 4)), {}, {"a:1": 6})
def two_towers(p: Tree, x: tuple[Array, Array]) -> Array:
    return (jnp.tanh(x[0] @ p["a"]) * jnp.tanh(x[1] @ p["b"])).sum(axis=-1)


@function({"a": (5, 6), "w": (6, 7), "b": (4, 7)}, (X, vectors(2, 4)), {"b:1": 7}, {"a:1": 6})
def bilinear(p: Tree, x: tuple[Array, Array]) -> Array:
    return jnp.einsum("ni,ij,nj->n", jnp.tanh(x[0] @ p["a"]), p["w"], jnp.tanh(x[1] @ p["b"]))


@function({"w1": (5, 12), "w2": (6, 3)}, X, {}, {"w1:1#1": 6, "w1:1#2": 2})
def maxout(p: Tree, x: Array) -> Array:
    return (x @ p["w1"]).reshape(2, 6, 2).max(axis=-1) @ p["w2"]


# What splits a layer's channels.


@function({"a": (5, 6), "b": (5, 4), "w3": (7, 3), "w4": (3, 3)}, X, {}, {"a:1": 6, "b:1#2": 3})
def concatenated_and_split_elsewhere(p: Tree, x: Array) -> Array:
    both = jnp.tanh(jnp.concatenate([x @ p["a"], x @ p["b"]], axis=1))
    return both[:, :7] @ p["w3"] + both[:, 7:] @ p["w4"]


@function({"w1": (5, 6), "w2": (3, 4)}, X, {}, {"w1:1#1": 3, "w1:1#2": 3})
def every_second_channel(p: Tree, x: Array) -> Array:
    return hidden(p, x)[..., ::2] @ p["w2"]


@function({"w1": (5, 6), "w2": (6, 3)}, X, None)
def masked_channels(p: Tree, x: Array) -> Array:
    return (hidden(p, x) * jnp.asarray([1, 1, 0, 0, 1, 0], jnp.float32)[None]) @ p["w2"]


@function({"w1": (5, 6), "w": (9, 9), "w2": (9, 3)}, X, {}, {"w1:1": 6, "w:1": 3})
def padded_shortcut(p: Tree, x: Array) -> Array:
    y = jnp.pad(hidden(p, x), ((0, 0), (1, 2)))
    for _ in range(2):  # what is zero at first is not the second time
        y = y + jnp.tanh(y @ p["w"])
    return y @ p["w2"]


@function({"w1": (5, 6), "w2": (6, 3)}, X, None)
def first_channel_is_set(p: Tree, x: Array) -> Array:
    return hidden(p, x).at[:, 0].set(0.5) @ p["w2"]


@function({"w1": (5, 6), "w2": (6, 3)}, X, None)
def channels_chosen_by_number(p: Tree, x: Array) -> Array:
    return hidden(p, x)[:, jnp.asarray([2, 0, 1, 5, 5, 3])] @ p["w2"]


@function({"w1": (5, 6), "w2": (3, 4)}, X, None)
def one_half_is_the_scale_of_the_other_turned(p: Tree, x: Array) -> Array:
    y = hidden(p, x)
    return (y[:, :3] * jnp.flip(y[:, 3:], axis=-1)) @ p["w2"]


@function({"w1": (5, 6), "w2": (6, 3)}, X, None)
def rotary(p: Tree, x: Array) -> Array:
    y = hidden(p, x)
    angle = jnp.arange(3, dtype=jnp.float32)[None]
    one, other = y[:, :3], y[:, 3:]
    y = [one * jnp.cos(angle) - other * jnp.sin(angle), one * jnp.sin(angle) + other * jnp.cos(angle)]
    return jnp.concatenate(y, axis=1) @ p["w2"]


# What tells channels apart, so that nothing may move.


@function(TWO, X, {})
def summed_along_channels(p: Tree, x: Array) -> Array:
    return jnp.cumsum(hidden(p, x), axis=-1) @ p["w2"]


@function(TWO, X, {})
def weighted_by_place(p: Tree, x: Array) -> Array:
    return (hidden(p, x) * jnp.sin(jnp.arange(6, dtype=jnp.float32))[None]) @ p["w2"]


@function(TWO, X, {})
def numbered_by_rank(p: Tree, x: Array) -> Array:
    return jnp.argsort(hidden(p, x), axis=-1).astype(jnp.float32) @ p["w2"] + jnp.argmax(hidden(p, x)).astype(float)


@function(TWO, X, {})
def sorted_channels_gate_them(p: Tree, x: Array) -> Array:
    y = hidden(p, x)
    return (y * jnp.sort(y, axis=-1)) @ p["w2"]


@function(TWO, X, {})
def spectrum_of_channels(p: Tree, x: Array) -> Array:
    return jnp.abs(jnp.fft.fft(hidden(p, x), axis=-1)) @ p["w2"]


@function({**TWO, "taps": (3, 1, 1)}, X, {})
def convolved_along_channels(p: Tree, x: Array) -> Array:
    y = hidden(p, x)
    layout = ("NWC", "WIO", "NWC")
    near = jax.lax.conv_general_dilated(y[..., None], p["taps"], (1,), "SAME", dimension_numbers=layout)
    return (y * jax.nn.sigmoid(near[..., 0])) @ p["w2"]


@function(TWO, X, {})
def differences_of_neighbours(p: Tree, x: Array) -> Array:
    y = hidden(p, x)
    return (y[:, 1:] - y[:, :-1]) @ p["w2"][1:]


@function(TWO, X, {})
def hidden_layer_is_an_output(p: Tree, x: Array) -> tuple[Array, Array]:
    y = hidden(p, x)
    return y @ p["w2"], y


@function({"w1": (5, 5), "w2": (5, 3)}, X, {})
def stream_that_begins_with_the_input(p: Tree, x: Array) -> Array:
    return (x + jnp.tanh(x @ p["w1"])) @ p["w2"]


@function({**TWO, "unused": (7, 8)}, X, {"w1:1": 6})
def a_leaf_that_nothing_reads(p: Tree, x: Array) -> Array:
    return hidden(p, x) @ p["w2"]


@function(TWO, (X, jnp.asarray(2)), {}, {"w2:0#2": 3})
def start_of_a_slice_from_the_inputs(p: Tree, x: tuple[Array, Array]) -> Any:
    part = jax.lax.dynamic_slice_in_dim(hidden(p, x[0]), x[1], 3, axis=1)
    return part @ p["w2"][:3]


@function(TWO, X, {}, {"w1:1": 6})
def signs_of_the_next_kernel(p: Tree, x: Array) -> Array:
    return jnp.tanh(x @ p["w1"]) @ (jnp.sign(p["w2"]) * 0.3)


@function({**TWO, "gain": (6,)}, X, {}, {"w1:1": 6})
def gains_in_the_next_kernel(p: Tree, x: Array) -> Array:
    return jnp.tanh(x @ p["w1"]) @ (p["w2"] * p["gain"][:, None])


@function(TWO, X, {}, {"w1:1": 6})
def divided_by_its_width(p: Tree, x: Array) -> Array:
    hidden = jnp.tanh(x @ p["w1"])
    return hidden @ p["w2"] / hidden.shape[-1]


@function({**TWO, "down": (6, 2), "up": (2, 3)}, X, {"w1:1": 6}, {"down:1": 2})
def kernel_and_what_is_added_to_it(p: Tree, x: Array) -> Array:
    return jnp.tanh(x @ p["w1"]) @ (p["w2"] + p["down"] @ p["up"] * 2.0)
