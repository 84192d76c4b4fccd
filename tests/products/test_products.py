"""Every layout and every form against the dense product."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantree.encodings import Affine, Coded, Scalar, SubVectors, Table
from quantree.errors import LeafError
from quantree.products import CodedMatrix, Csc, Hac, IndexMap, Shac, coded_conv, coded_matmul, coded_matrix, pack
from quantree.products.matmul import _gradients, _part
from quantree.products.pack import LAYOUTS
from tests.compilations import compilations

FORMS = [(layout, form) for layout, kind in LAYOUTS.items() for form in kind.forms]
each_form = pytest.mark.parametrize(("layout", "form"), FORMS, ids=["-".join(pair) for pair in FORMS])
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
SHAPES = [(24, 6), (1, 1), (37, 150)]  # few of them, because each is compiled; the last has two tiles


def example(
    n: int, m: int, k: int, density: float, zero: bool, seed: int, skewed: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Symbols [n, m] with an empty row and an empty column, centroids [k], and the dense matrix."""
    rng = np.random.default_rng(seed)
    found = np.minimum(rng.geometric(0.3, (n, m)), k + zero) - 1 if skewed else rng.integers(0, k + zero, (n, m))
    symbols = np.where(rng.random((n, m)) < density, found, 0)
    symbols[n // 2], symbols[:, m // 2] = 0, 0
    centroids = rng.standard_normal(k).astype(np.float32)
    return symbols, centroids, (np.r_[np.float32(0), centroids] if zero else centroids)[symbols]


@functools.cache
def large(layout: str) -> CodedMatrix:
    """[500, 4000] in that layout; dense it would take 8 MB."""
    symbols, centroids, _ = example(500, 4000, 31, 0.05, True, 8)
    return coded_matrix(symbols, centroids, zero=True, layout=layout)


def inputs(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


@each_form
def test_product_is_the_dense_one(layout: str, form: str) -> None:
    symbols, centroids, dense = example(37, 150, 31, 0.3, True, 0)
    x = inputs(3, 37)
    matrix = coded_matrix(symbols, centroids, zero=True, layout=layout)
    np.testing.assert_allclose(coded_matmul(x, matrix, form=form), x @ dense, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@each_form
@given(
    shape=st.sampled_from(SHAPES),
    k=st.sampled_from([1, 2, 31]),
    density=st.sampled_from([0.0, 0.05, 0.4, 1.0]),
    zero=st.booleans(),
    skewed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_product_of_any_matrix(
    layout: str, form: str, shape: tuple[int, int], k: int, density: float, zero: bool, skewed: bool, seed: int
) -> None:
    symbols, centroids, dense = example(*shape, k, density, zero, seed, skewed)
    x = inputs(3, shape[0])
    matrix = coded_matrix(symbols, centroids, zero=zero, layout=layout)
    np.testing.assert_allclose(coded_matmul(x, matrix, form=form), x @ dense, rtol=1e-4, atol=1e-4)


@each_layout
def test_a_tile_is_the_symbols(layout: str) -> None:
    symbols, centroids, _ = example(50, 150, 31, 0.3, True, 0)
    matrix = coded_matrix(symbols, centroids, zero=True, layout=layout)
    tile = jax.jit(lambda matrix, first: matrix.tile(first))(matrix, jnp.int32(9))
    np.testing.assert_array_equal(tile, symbols[:, 9 : 9 + matrix.width])


@pytest.mark.parametrize(
    ("layout", "form"),
    [
        ("hac", "sums"),
        ("hac", "lockstep"),
        ("shac", "tile"),
        pytest.param("hac", "tile", marks=pytest.mark.slow),
        pytest.param("shac", "sums", marks=pytest.mark.slow),
        pytest.param("shac", "lockstep", marks=pytest.mark.slow),
    ],
)
def test_codewords_longer_than_the_table(layout: str, form: str) -> None:
    # 6000 symbols that occur once take more than 12 bits each, after runs of a common one.
    symbols = np.zeros((9000, 2), np.int32)
    symbols[::3, 0], symbols[1::3, 1] = np.arange(3000), np.arange(3000, 6000)
    centroids = np.random.default_rng(0).standard_normal(6000).astype(np.float32)
    matrix = coded_matrix(symbols, centroids, layout=layout)
    assert isinstance(matrix, Hac | Shac) and matrix.codes.deep
    x = inputs(2, 9000)
    np.testing.assert_allclose(coded_matmul(x, matrix, form=form), x @ centroids[symbols], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("form", Hac.forms)
def test_runs_of_any_length(form: str) -> None:
    # Column i begins with i of the commonest symbol, so the next codeword ends at every place around the 32nd bit.
    symbols = np.random.default_rng(0).integers(1, 31, (200, 80)) * np.eye(200, 80, dtype=np.int64)
    centroids = np.random.default_rng(0).standard_normal(31).astype(np.float32)
    matrix = coded_matrix(symbols, centroids, layout="hac")
    assert isinstance(matrix, Hac) and matrix.codes.runs
    x = inputs(2, 200)
    np.testing.assert_allclose(coded_matmul(x, matrix, form=form), x @ centroids[symbols], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@each_form
def test_any_batch_shape_and_bfloat16(layout: str, form: str) -> None:
    symbols, centroids, dense = example(24, 6, 5, 0.4, True, 1)
    matrix = coded_matrix(symbols, centroids, zero=True, layout=layout)
    for shape in [(24,), (2, 3, 24), (0, 24)]:
        x = inputs(*shape)
        np.testing.assert_allclose(coded_matmul(x, matrix, form=form), x @ dense, rtol=1e-4, atol=1e-4)
    x = jnp.asarray(inputs(3, 24), jnp.bfloat16)
    product = coded_matmul(x, matrix, form=form)
    assert product.dtype == jnp.bfloat16
    np.testing.assert_allclose(product.astype(jnp.float32), x.astype(jnp.float32) @ dense, rtol=1e-2, atol=1e-2)


@each_layout
@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_a_matrix_without_elements(layout: str, shape: tuple[int, int]) -> None:
    matrix = coded_matrix(np.zeros(shape, np.int32), np.ones(2, np.float32), layout=layout)
    np.testing.assert_array_equal(coded_matmul(inputs(2, shape[0]), matrix), np.zeros((2, shape[1])))


@pytest.mark.slow
@each_form
def test_columns_shared_among_threads_and_one_program_agree(layout: str, form: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("NPROC", "3")
    monkeypatch.setattr(LAYOUTS[layout], "alone", 0)
    symbols, centroids, dense = example(20, 400, 7, 0.3, True, 2)  # 134 columns each, and the last begins early
    matrix = coded_matrix(symbols, centroids, zero=True, layout=layout)
    x = jnp.asarray(inputs(3, 20))
    shared = coded_matmul(x, matrix, form=form)
    alone = jax.jit(lambda x, matrix: coded_matmul(x, matrix, form=form))(x, matrix)
    np.testing.assert_allclose(shared, x @ dense, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(shared, alone, rtol=1e-5, atol=1e-5)


@each_layout
@pytest.mark.parametrize("zero", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_gradients_are_those_of_the_dense_product(layout: str, zero: bool) -> None:
    symbols, centroids, _ = example(30, 150, 7, 0.3, zero, 3)
    matrix = coded_matrix(symbols, centroids, zero=zero, layout=layout)
    x, codes = jnp.asarray(inputs(2, 3, 30)), jnp.asarray(symbols)

    @jax.jit
    @jax.grad
    def coded(trained: tuple[jax.Array, jax.Array], matrix: Any) -> jax.Array:
        return jnp.sum(jnp.sin(coded_matmul(trained[0], dataclasses.replace(matrix, centroids=trained[1]))))

    @jax.jit
    @jax.grad
    def dense(trained: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, centroids = trained
        values = jnp.concatenate([jnp.zeros(1), centroids]) if zero else centroids
        return jnp.sum(jnp.sin(x @ values[codes]))

    trained = x, jnp.asarray(centroids)
    for ours, theirs in zip(coded(trained, matrix), dense(trained), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("kernel", "settings"),
    [
        ((3, 3), {}),
        ((2, 3), {"strides": (2, 1), "padding": ((1, 2), (0, 3)), "dilation": (2, 1)}),
        pytest.param((3, 2), {"strides": (2, 1), "padding": "VALID"}, marks=pytest.mark.slow),
    ],
)
def test_convolution(kernel: tuple[int, int], settings: dict[str, Any]) -> None:
    channels, out = 3, 5
    symbols, centroids, _ = example(kernel[0] * kernel[1] * channels, out, 6, 0.5, True, 4)
    dense = np.r_[np.float32(0), centroids][symbols].reshape(*kernel, channels, out)
    x = jnp.asarray(inputs(2, 9, 8, channels))
    expected = jax.lax.conv_general_dilated(
        x,
        jnp.asarray(dense),
        settings.get("strides", (1, 1)),
        settings.get("padding", "SAME"),
        rhs_dilation=settings.get("dilation", (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    matrix = coded_matrix(symbols.reshape(dense.shape), centroids, zero=True, layout="index_map")
    product = jax.jit(lambda x, matrix: coded_conv(x, matrix, kernel, **settings))(x, matrix)
    np.testing.assert_allclose(product, expected, rtol=1e-4, atol=1e-4)


def test_64_bits() -> None:
    # Symbol j occurs as often as the Fibonacci number says, so codewords have 1 to 16 bits and the table has 12.
    often = [1, 1]
    while len(often) < 17:
        often.append(often[-1] + often[-2])
    symbols = np.resize(np.random.default_rng(0).permutation(np.repeat(np.arange(17)[::-1], often)), (64, 65))
    centroids = np.random.default_rng(0).standard_normal(16).astype(np.float32)
    dense = np.r_[np.float32(0), centroids][symbols]

    @jax.jit
    def products(x: jax.Array, seed: jax.Array, matrices: dict[str, Any]) -> dict[Any, Any]:
        def product(trained: tuple[jax.Array, jax.Array], matrix: Any, form: str) -> tuple[jax.Array, jax.Array]:
            out = coded_matmul(trained[0], dataclasses.replace(matrix, centroids=trained[1]), form=form)
            return jnp.sum(out * seed), out

        return {
            (layout, form): jax.grad(product, has_aux=True)((x, matrices[layout].centroids), matrices[layout], form)
            for layout, form in FORMS
        }

    @jax.jit
    def convolve(x: jax.Array, matrix: Any) -> tuple[jax.Array, jax.Array]:
        kernel = dense.reshape(2, 2, 16, 65).astype(np.float64)
        expected = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME_LOWER", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return coded_conv(x, matrix, (2, 2), padding="SAME_LOWER"), expected

    with jax.enable_x64(True):
        matrices = {layout: coded_matrix(symbols, centroids, zero=True, layout=layout) for layout in LAYOUTS}
        x, seed, images = (inputs(*shape).astype(np.float64) for shape in ((3, 64), (3, 65), (1, 5, 6, 16)))
        found, convolved = products(x, seed, matrices), convolve(images, matrices["csc"])
        for name, ((of_x, of_centroids), out) in found.items():
            weights = x.T @ seed
            sums = [weights[symbols == j].sum() for j in range(1, 17)]
            assert out.dtype == of_x.dtype == np.float64 and of_centroids.dtype == np.float32
            np.testing.assert_allclose(out, x @ dense, rtol=1e-4, atol=1e-4, err_msg=str(name))
            np.testing.assert_allclose(of_x, seed @ dense.T, rtol=1e-4, atol=1e-4, err_msg=str(name))
            np.testing.assert_allclose(of_centroids, sums, rtol=1e-3, atol=1e-3, err_msg=str(name))
        np.testing.assert_allclose(*convolved, rtol=1e-4, atol=1e-4)


def test_a_vector_is_one_column() -> None:
    symbols, centroids = np.array([0, 1, 2, 1, 0]), np.ones(3, np.float32)
    assert {coded_matrix(symbols, centroids, layout=layout).shape for layout in LAYOUTS} == {(5, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("codebook", ["table", "affine"])
@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_a_leaf_is_packed_as_it_decodes(codebook: str, zero: bool, masked: bool) -> None:
    symbols, centroids, _ = example(24, 6, 5, 0.7, zero, 5)
    mask = jnp.asarray(np.random.default_rng(0).random(symbols.shape) < 0.5) if masked else None
    shape, dtype = (2, 12, 6), np.dtype(np.float32)
    leaf = Coded(
        jnp.asarray(symbols.reshape(1, -1).astype(np.uint8)),
        None if mask is None else mask.reshape(shape),
        "book",
        Scalar(),
        zero,
        shape,
        dtype,
    )
    book = Table(jnp.asarray(centroids)[None, :, None])
    if codebook == "affine":
        book = Affine(jnp.float32(0.5), jnp.float32(-1), 5)
    dense, x = np.asarray(leaf.decode({"book": book})).reshape(24, 6), inputs(3, 24)
    for layout in LAYOUTS:
        matrix = pack(leaf, {"book": book}, layout)
        np.testing.assert_allclose(coded_matmul(x, matrix), x @ dense, rtol=1e-4, atol=1e-4)


def test_the_smallest_layout_is_chosen() -> None:
    for density, kind in ((0.01, Csc | Shac), (1.0, IndexMap)):
        symbols, centroids, _ = example(200, 150, 15, density, True, 6)
        matrix = coded_matrix(symbols, centroids, zero=True)
        assert isinstance(matrix, kind)
        others = [coded_matrix(symbols, centroids, zero=True, layout=layout).nbytes for layout in LAYOUTS]
        assert matrix.nbytes == min(others)


@each_layout
def test_memory_counts_every_array(layout: str) -> None:
    symbols, centroids, _ = example(300, 200, 31, 0.1, True, 7)
    matrix = coded_matrix(symbols, centroids, zero=True, layout=layout)
    assert matrix.nbytes == sum(leaf.nbytes for leaf in jax.tree.leaves(matrix))
    assert sum(matrix.bits().values()) == 8 * matrix.nbytes


@each_form
def test_the_dense_matrix_is_never_in_memory(layout: str, form: str) -> None:
    matrix = large(layout)
    n, m = matrix.shape
    memory = _part.outer.lower(inputs(8, n), matrix.values(), matrix, np.int32(0), m, form).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * n * m / 8


@each_layout
def test_nor_for_a_gradient(layout: str) -> None:
    matrix = large(layout)
    n, m = matrix.shape
    arguments = inputs(8, n), matrix.values(), matrix, inputs(8, m)
    memory = _gradients.outer.lower(*arguments).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * n * m / 4


@pytest.mark.slow
@each_form
def test_equal_shapes_are_compiled_once(layout: str, form: str) -> None:
    symbols, centroids, _ = example(40, 9, 7, 0.4, True, 9)
    matrix = coded_matrix(symbols, centroids, zero=True, layout=layout)
    x = jnp.asarray(inputs(4, 40))
    other = dataclasses.replace(matrix, centroids=matrix.centroids + 1)
    coded_matmul(x, matrix, form=form)
    with compilations() as compiled:
        for _ in range(3):
            coded_matmul(x, other, form=form)
    assert compiled == []


def test_what_can_not_be_is_refused() -> None:
    symbols, centroids, _ = example(24, 6, 5, 0.5, False, 10)
    with pytest.raises(LeafError, match="did you mean 'shac'"):
        coded_matrix(symbols, centroids, layout="shak")
    with pytest.raises(LeafError, match=r"centroids explain 0\.\.3"):
        coded_matrix(symbols, centroids[:4])
    with pytest.raises(LeafError, match="array of integers"):
        coded_matrix(symbols.astype(np.float32), centroids)
    with pytest.raises(LeafError, match="floats"):
        coded_matrix(symbols, centroids[None])
    matrix = coded_matrix(symbols, centroids, layout="index_map")
    with pytest.raises(LeafError, match=r"x is an array of floats \[..., 24\]"):
        coded_matmul(inputs(2, 23), matrix)
    with pytest.raises(LeafError, match="no form 'sums'"):
        coded_matmul(inputs(2, 24), matrix, form="sums")
    with pytest.raises(LeafError, match="takes a CodedMatrix, made by coded_matrix or pack, not ndarray"):
        coded_matmul(inputs(2, 24), np.ones((24, 6), np.float32))  # pyright: ignore[reportArgumentType]
    with pytest.raises(LeafError, match="takes a CodedMatrix"):
        coded_conv(jnp.ones((1, 4, 4, 6)), symbols, (2, 2))  # pyright: ignore[reportArgumentType]
    with pytest.raises(LeafError, match="one group"):
        coded_conv(jnp.ones((1, 4, 4, 6)), matrix, (2, 2), groups=2)
    with pytest.raises(LeafError, match="not coded as a matrix of 24 rows"):
        coded_conv(jnp.ones((1, 4, 4, 6)), matrix, (3, 3))
    wrong: Any  # of types that a program without annotations may give
    for wrong in (1, None, "CIRCULAR", "FOO", "same", (1, 1), ((1, 1),), ((1, -1), (0, 0)), ((0.5, 0), (0, 0))):
        with pytest.raises(LeafError, match="'SAME', 'SAME_LOWER', 'VALID' or "):
            coded_conv(jnp.ones((1, 4, 4, 6)), matrix, (2, 2), padding=wrong)
    for wrong in (2, (4,), (2, 2, 1), (-2, -2), (2.0, 2), "ab"):
        with pytest.raises(LeafError, match="kernel: expected two integers"):
            coded_conv(jnp.ones((1, 4, 4, 6)), matrix, wrong)
    with pytest.raises(LeafError, match="strides: expected two integers"):
        coded_conv(jnp.ones((1, 4, 4, 6)), matrix, (2, 2), strides=(0, 1))
    with pytest.raises(LeafError, match="dilation: expected two integers"):
        coded_conv(jnp.ones((1, 4, 4, 6)), matrix, (2, 2), dilation=(1, 0))
    for kind in (Hac, Shac):
        with pytest.raises(LeafError, match="more than 32 bits"):
            kind.of(np.zeros((1 << 16, 1), np.int32), np.ones(1 << 16, np.float32), False)
    with pytest.raises(LeafError, match="1, 2 or 4"):
        Csc.of(symbols, centroids, False, group=3)
    vectors = Coded(jnp.zeros((1, 36), jnp.uint8), None, "book", SubVectors(d=4), False, (24, 6), np.dtype(np.float32))
    with pytest.raises(LeafError, match="one code for each weight"):
        pack(vectors, {})
