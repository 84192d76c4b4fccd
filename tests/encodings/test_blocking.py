import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantree.encodings import Blocking, KernelSlices, Scalar, SubVectors
from quantree.registry import registered

shapes = st.lists(st.integers(1, 5), max_size=4).map(tuple)
blockings = st.one_of(
    st.just(Scalar()),
    st.builds(
        SubVectors,
        d=st.integers(1, 9),
        along=st.sampled_from(["inputs", "outputs"]),
        codebooks=st.sampled_from(["segment", "layer"]),
    ),
    st.builds(KernelSlices, d=st.integers(1, 9), slices=st.integers(1, 3)),
)


def numbered(*shape: int) -> np.ndarray:
    return np.arange(1, np.prod(shape, dtype=int) + 1, dtype=np.float32).reshape(shape)


@settings(max_examples=12)  # JAX compiles for each shape
@given(blockings, shapes)
def test_join_undoes_split_and_the_sizes_are_as_said(blocking: Blocking, shape: tuple[int, ...]) -> None:
    leaf = numbered(*shape)
    blocks = blocking.split(jnp.asarray(leaf))
    assert blocks.shape == (blocking.segments(shape), blocking.count(shape), blocking.width(shape))
    np.testing.assert_array_equal(blocking.join(blocks, shape), leaf)
    # Every weight stands once; the rest is filling, less than one block for each row.
    values = np.sort(np.asarray(blocks).reshape(-1))
    np.testing.assert_array_equal(values[values > 0], np.sort(leaf.reshape(-1)))
    assert values.size < 2 * leaf.size + 1


def test_every_blocking_that_is_registered_is_drawn_above() -> None:
    own = {name for name, plugin in registered("blocking").items() if plugin.__module__.startswith("quantree.")}
    assert own == {"scalar", "sub_vectors", "kernel_slices"}


def test_nine_along_the_inputs_of_a_3_by_3_convolution_are_its_kernel_slices() -> None:
    kernel = numbered(3, 3, 2, 4)
    blocks = np.asarray(SubVectors(d=9).split(jnp.asarray(kernel)))[0]
    slices = [kernel[:, :, channel, output].reshape(-1) for output in range(4) for channel in range(2)]
    np.testing.assert_array_equal(blocks, slices)
    np.testing.assert_array_equal(SubVectors(d=1).split(jnp.asarray(kernel)).reshape(-1), np.reshape(slices, -1))


def test_kernel_slices_are_sub_vectors_of_the_length_that_the_kernel_gives() -> None:
    for shape, d in (((3, 3, 4, 5), 18), ((2, 2, 4, 5), 8), ((1, 1, 8, 5), 4), ((8, 5), 4), ((5, 4, 3), 10)):
        kernel = numbered(*shape)
        blocks = KernelSlices(slices=2).split(jnp.asarray(kernel))
        np.testing.assert_array_equal(blocks, SubVectors(d=d).split(jnp.asarray(kernel)))


def test_segments_of_gong_are_blocks_of_columns_of_the_matrix_outputs_by_inputs() -> None:
    kernel = numbered(7, 5)  # Flax: [inputs, outputs]
    blocks = np.asarray(SubVectors(d=3, codebooks="segment").split(jnp.asarray(kernel)))
    matrix = np.pad(kernel.T, ((0, 0), (0, 2)))
    assert blocks.shape == (3, 5, 3)
    for i in range(3):
        np.testing.assert_array_equal(blocks[i], matrix[:, 3 * i : 3 * i + 3])


def test_along_the_outputs_a_sub_vector_holds_weights_of_one_input() -> None:
    kernel = numbered(7, 5)
    blocks = np.asarray(SubVectors(d=5, along="outputs").split(jnp.asarray(kernel)))[0]
    np.testing.assert_array_equal(blocks, kernel)
    conv = numbered(2, 2, 3, 4)
    blocks = np.asarray(SubVectors(d=4, along="outputs").split(jnp.asarray(conv)))[0]
    wanted = [conv[i, j, channel] for channel in range(3) for i in range(2) for j in range(2)]
    np.testing.assert_array_equal(blocks, wanted)


@pytest.mark.parametrize("along", ["inputs", "outputs"])
def test_a_vector_is_one_row_and_a_short_row_one_sub_vector(along: str) -> None:
    blocking = SubVectors.model_validate({"d": 4, "along": along})
    np.testing.assert_array_equal(blocking.split(jnp.arange(1.0, 7)), [[[1, 2, 3, 4], [5, 6, 0, 0]]])
    assert blocking.split(jnp.ones((2, 2))).shape == (1, 2, 2)
    assert blocking.split(jnp.ones(())).shape == (1, 1, 1)


def test_split_and_join_run_under_jit_and_carry_gradients() -> None:
    blocking = SubVectors(d=4, codebooks="segment")
    leaf = jnp.asarray(numbered(3, 3, 2, 4))
    blocks = jax.jit(blocking.split)(leaf)
    np.testing.assert_array_equal(jax.jit(blocking.join, static_argnums=1)(blocks, leaf.shape), leaf)
    weights = numbered(3, 3, 2, 4) / 7
    gradient = jax.grad(lambda value: jnp.sum(blocking.join(value, leaf.shape) * weights))(blocks)
    np.testing.assert_array_equal(gradient, blocking.split(jnp.asarray(weights)))
