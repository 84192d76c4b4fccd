"""Networks with fewer channels than their modules were built with. Channels come in equal pairs, and one of each pair
is taken away: what is left must compute what the whole network did.
"""

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import quantree as qt
from quantree.encodings import Compressed
from quantree.errors import LeafError
from quantree.graph import Group, Member, shrink
from quantree.model import Model, flatten, unflatten
from quantree.task import Classification, Data

Axes = Mapping[str, tuple[int, int]]  # path -> (axis, times that the channels lie along it)
ROWS, IMAGES, WORDS, SENTENCES = (4, 6), (4, 6, 6, 2), (4,), (4, 5, 6)
WIDE = 8


@dataclasses.dataclass(frozen=True)
class Case:
    """shape: of the inputs. own: what makes the channels or has a number for each; next: what sums over them."""

    shape: tuple[int, ...]
    build: Callable[[Any], Any]
    own: Axes
    next: Axes
    consecutive: bool = False  # the places of one channel, where it has several
    state: Axes = dataclasses.field(default_factory=dict)

    @property
    def inputs(self) -> jax.Array:
        rng = np.random.default_rng(0)
        if self.shape == WORDS:
            return jnp.asarray(rng.integers(0, 10, self.shape), jnp.int32)
        return jnp.asarray(rng.normal(size=self.shape), jnp.float32)

    @property
    def group(self) -> Group:
        def member(path: str, axis: int, times: int, role: Any, state: bool = False) -> Member:
            places = np.arange(WIDE * times)
            places = places.reshape(WIDE, times) if self.consecutive else places.reshape(times, WIDE).T
            return Member(path, axis, places, role, state)

        members = [member(path, *where, "producer") for path, where in self.own.items()]
        members += [member(path, *where, "consumer") for path, where in self.next.items()]
        members += [member(path, *where, "per-channel", True) for path, where in self.state.items()]
        return Group("pairs", tuple(members))


def paired(model: Model, group: Group) -> Compressed:
    """Random arrays in which channel 2 i + 1 is the same as 2 i."""
    rng = np.random.default_rng(1)
    leaves, state = (
        {path: rng.normal(size=leaf.shape).astype(leaf.dtype) for path, leaf in flatten(part).items()}
        for part in (model.params, model.state)
    )
    for member in group.members:
        flat = state if member.state else leaves
        if member.state:
            flat[member.path] = np.abs(flat[member.path])
        if member.role != "consumer":
            rows = np.moveaxis(flat[member.path], member.axis, 0)
            rows[member.places[1::2]] = rows[member.places[::2]]
    return Compressed.from_model(qt.from_params(unflatten(leaves), unflatten(state)))


def halved(compressed: Compressed, group: Group) -> Compressed:
    mean, total = np.zeros((2, WIDE // 2, WIDE))
    for i in range(WIDE // 2):
        mean[i, [2 * i, 2 * i + 1]], total[i, [2 * i, 2 * i + 1]] = 0.5, 1
    return shrink(compressed, group, np.arange(0, WIDE, 2), mean, total)


def run(model: Model, compressed: Compressed, inputs: jax.Array) -> np.ndarray:
    assert model.apply is not None
    return np.asarray(jax.jit(model.apply)(compressed.decode(), unflatten(compressed.state), inputs)[0])


def flat(x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1)


conv, dense = (2, WIDE, (3, 3)), {"layers/0/kernel": (1, 1), "layers/0/bias": (0, 1)}
NNX = {
    "dense": Case(
        ROWS,
        lambda r: nnx.Sequential(nnx.Linear(6, WIDE, rngs=r), nnx.relu, nnx.Linear(WIDE, 3, rngs=r)),
        dense,
        {"layers/2/kernel": (0, 1)},
    ),
    "conv, batch norm, depthwise, flatten, dense": Case(
        IMAGES,
        lambda r: nnx.Sequential(
            nnx.Conv(*conv, rngs=r),
            nnx.BatchNorm(WIDE, rngs=r),
            nnx.relu,
            nnx.Conv(WIDE, WIDE, (3, 3), feature_group_count=WIDE, rngs=r),
            flat,
            nnx.Linear(36 * WIDE, 3, rngs=r),
        ),
        {"layers/0/kernel": (3, 1), "layers/0/bias": (0, 1), "layers/1/scale": (0, 1), "layers/1/bias": (0, 1)}
        | {"layers/3/kernel": (3, 1), "layers/3/bias": (0, 1)},
        {"layers/5/kernel": (0, 36)},
        state={"layers/1/mean": (0, 1), "layers/1/var": (0, 1)},
    ),
    "depthwise with two filters per channel": Case(
        IMAGES,
        lambda r: nnx.Sequential(
            nnx.Conv(*conv, use_bias=False, rngs=r),
            nnx.Conv(WIDE, 2 * WIDE, (3, 3), feature_group_count=WIDE, use_bias=False, rngs=r),
            nnx.Conv(2 * WIDE, 3, (1, 1), rngs=r),
        ),
        {"layers/0/kernel": (3, 1), "layers/1/kernel": (3, 2)},
        {"layers/2/kernel": (2, 2)},
        consecutive=True,
    ),
    "norms over channels": Case(
        ROWS,
        lambda r: nnx.Sequential(
            nnx.Linear(6, WIDE, rngs=r),
            nnx.LayerNorm(WIDE, rngs=r),
            nnx.RMSNorm(WIDE, rngs=r),
            lambda x: x[:, None],
            nnx.GroupNorm(WIDE, num_groups=2, rngs=r),
            lambda x: x[:, 0],
            nnx.Linear(WIDE, 3, rngs=r),
        ),
        {**dense, **{f"layers/{i}/scale": (0, 1) for i in (1, 2, 4)}, **{f"layers/{i}/bias": (0, 1) for i in (1, 4)}},
        {"layers/6/kernel": (0, 1)},
    ),
    "attention": Case(
        SENTENCES,
        lambda r: nnx.Sequential(
            nnx.Linear(6, WIDE, rngs=r), nnx.MultiHeadAttention(2, WIDE, 4, 3, decode=False, rngs=r)
        ),
        dense,
        {f"layers/1/{each}/kernel": (0, 1) for each in ("query", "key", "value")},
    ),
    "transposed convolution": Case(
        IMAGES,
        lambda r: nnx.Sequential(
            nnx.Conv(*conv, rngs=r),
            nnx.ConvTranspose(WIDE, 3, (3, 3), transpose_kernel=True, rngs=r),
        ),
        {"layers/0/kernel": (3, 1), "layers/0/bias": (0, 1)},
        {"layers/1/kernel": (3, 1)},
    ),
    "embedding, einsum": Case(
        WORDS,
        lambda r: nnx.Sequential(nnx.Embed(10, WIDE, rngs=r), nnx.Einsum("bd,dhk->bhk", (WIDE, 2, 3), (2, 3), rngs=r)),
        {"layers/0/embedding": (1, 1)},
        {"layers/1/kernel": (0, 1)},
    ),
    "einsum, general dense": Case(
        ROWS,
        lambda r: nnx.Sequential(
            nnx.Einsum("bd,dhk->bhk", (6, 2, WIDE), (2, WIDE), rngs=r),
            nnx.LinearGeneral((2, WIDE), (3, 2), axis=(-2, -1), rngs=r),
        ),
        {"layers/0/kernel": (2, 1), "layers/0/bias": (1, 1)},
        {"layers/1/kernel": (1, 1)},
    ),
    "general dense, general dense": Case(
        ROWS,
        lambda r: nnx.Sequential(
            nnx.LinearGeneral(6, (2, WIDE), rngs=r), nnx.LinearGeneral((2, WIDE), 3, axis=(-2, -1), rngs=r)
        ),
        {"layers/0/kernel": (2, 1), "layers/0/bias": (1, 1)},
        {"layers/1/kernel": (1, 1)},
    ),
    "recurrent": Case(
        SENTENCES,
        lambda r: nnx.Sequential(nnx.RNN(nnx.GRUCell(6, WIDE, rngs=r)), nnx.Linear(WIDE, 3, rngs=r)),
        {
            f"layers/0/cell/{each}": (axis, 3)
            for each, axis in {"dense_i/kernel": 1, "dense_i/bias": 0, "dense_h/kernel": 1}.items()
        },
        {"layers/0/cell/dense_h/kernel": (0, 1), "layers/1/kernel": (0, 1)},
    ),
}


@pytest.mark.parametrize("name", NNX)
def test_an_nnx_network_runs_with_half_of_its_channels(name: str) -> None:
    case = NNX[name]
    module = case.build(nnx.Rngs(0))
    model = qt.from_nnx(module)
    whole = dataclasses.replace(paired(model, case.group), dense_bytes=model.dense_bytes)
    half = halved(whole, case.group)
    assert half.narrower and not whole.narrower
    wanted = run(model, whole, case.inputs)
    np.testing.assert_allclose(run(model, half, case.inputs), wanted, rtol=1e-4, atol=1e-5)
    narrow = half.to_nnx(module)
    again = qt.from_nnx(narrow)  # a model like any other
    assert again.dense_bytes < model.dense_bytes
    np.testing.assert_allclose(run(again, Compressed.from_model(again), case.inputs), wanted, rtol=1e-4, atol=1e-5)


class Own(linen.Module):
    """A layer of someone's own, in a network whose field is no width."""

    features: int

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.param("kernel", linen.initializers.lecun_normal(), (x.shape[-1], self.features))


class Net(linen.Module):
    """Layers that are fields, and that are called by `__call__` or otherwise."""

    layers: tuple[Any, ...]
    features: int = 3

    @linen.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for layer in self.layers:
            x = layer(x, use_running_average=not train) if isinstance(layer, linen.BatchNorm) else layer(x)
        return linen.Dense(self.features)(flat(x))


first = {"layers_0/kernel": (1, 1), "layers_0/bias": (0, 1)}
LINEN = {
    "dense": Case(ROWS, lambda _: Net((linen.Dense(WIDE), nnx.relu)), first, {"Dense_0/kernel": (0, 1)}),
    "a layer of one's own": Case(
        ROWS, lambda _: Net((Own(WIDE), nnx.relu)), {"layers_0/kernel": (1, 1)}, {"Dense_0/kernel": (0, 1)}
    ),
    "conv, batch norm, depthwise, flatten, dense": Case(
        IMAGES,
        lambda _: Net(
            (
                linen.Conv(WIDE, (3, 3)),
                linen.BatchNorm(),
                nnx.relu,
                linen.Conv(WIDE, (3, 3), feature_group_count=WIDE),
            )
        ),
        {"layers_0/kernel": (3, 1), "layers_0/bias": (0, 1), "layers_1/scale": (0, 1), "layers_1/bias": (0, 1)}
        | {"layers_3/kernel": (3, 1), "layers_3/bias": (0, 1)},
        {"Dense_0/kernel": (0, 36)},
        state={"batch_stats/layers_1/mean": (0, 1), "batch_stats/layers_1/var": (0, 1)},
    ),
    "norms over channels": Case(
        ROWS,
        lambda _: Net((linen.Dense(WIDE), linen.LayerNorm(), linen.RMSNorm(), linen.GroupNorm(2))),
        {**first, **{f"layers_{i}/scale": (0, 1) for i in (1, 2, 3)}, **{f"layers_{i}/bias": (0, 1) for i in (1, 3)}},
        {"Dense_0/kernel": (0, 1)},
    ),
    "attention": Case(
        SENTENCES,
        lambda _: Net((linen.Dense(WIDE), linen.MultiHeadAttention(2, qkv_features=4, out_features=3))),
        first,
        {f"layers_1/{each}/kernel": (0, 1) for each in ("query", "key", "value")},
    ),
    "transposed convolutions": Case(
        IMAGES,
        lambda _: Net(
            (linen.ConvTranspose(WIDE, (3, 3), transpose_kernel=True), nnx.relu, linen.ConvTranspose(2, (3, 3)))
        ),
        {"layers_0/kernel": (2, 1), "layers_0/bias": (0, 1)},
        {"layers_2/kernel": (2, 1)},
    ),
    "embedding, einsum": Case(
        WORDS,
        lambda _: Net((linen.Embed(10, WIDE), linen.Einsum((WIDE, 2, 3), "bd,dhk->bhk"))),
        {"layers_0/embedding": (1, 1)},
        {"layers_1/kernel": (0, 1)},
    ),
    "general dense, general dense": Case(
        ROWS,
        lambda _: Net((linen.DenseGeneral((2, WIDE)), linen.DenseGeneral(3, axis=(-2, -1)))),
        {"layers_0/kernel": (2, 1), "layers_0/bias": (1, 1)},
        {"layers_1/kernel": (1, 1)},
    ),
}


@pytest.mark.parametrize("name", LINEN)
def test_a_linen_network_runs_with_half_of_its_channels(name: str) -> None:
    case = LINEN[name]
    module = case.build(None)
    model = qt.from_linen(module, module.init(jax.random.key(0), case.inputs))
    whole = dataclasses.replace(paired(model, case.group), dense_bytes=model.dense_bytes)
    half = halved(whole, case.group)
    wanted = run(model, whole, case.inputs)
    np.testing.assert_allclose(run(model, half, case.inputs), wanted, rtol=1e-4, atol=1e-5)
    assert module == case.build(None)
    np.testing.assert_array_equal(run(model, whole, case.inputs), wanted)


def build(kind: str) -> tuple[Case, Any, Model]:
    """The network with most kinds of layers."""
    case = {"nnx": NNX, "linen": LINEN}[kind]["conv, batch norm, depthwise, flatten, dense"]
    module = case.build(nnx.Rngs(0))
    if kind == "nnx":
        return case, module, qt.from_nnx(module)
    return case, module, qt.from_linen(module, module.init(jax.random.key(0), case.inputs))


FRESH = """
import sys
import numpy as np
import quantree as qt
from tests.test_widths import build, run
for kind in ("nnx", "linen"):
    case, _, model = build(kind)
    np.save(f"{sys.argv[1]}/{kind}.npy", run(model, qt.load(f"{sys.argv[1]}/{kind}.qtree"), case.inputs))
"""


@pytest.mark.filterwarnings("ignore:.*is larger than the dense model")
def test_it_is_saved_trained_and_loaded_by_another_process(tmp_path: Path) -> None:
    wanted = {}
    for kind in ("nnx", "linen"):
        case, module, model = build(kind)
        labels = np.arange(len(case.inputs)) % 3
        split = np.asarray(case.inputs), labels.astype(np.int32)
        data = Data.from_arrays(split, split, Classification())
        half = halved(Compressed.from_model(model), case.group)
        stages = [{"kind": "batchnorm"}, {"kind": "finetune", "epochs": 1, "distill": 0.5}]
        recipe, tuned = qt.Recipe.from_config(stages), half
        for index in range(len(stages)):
            tuned = recipe.run_stage(index, tuned, model=model, key=jax.random.key(0), data=data)
        for before, after in zip(jax.tree.leaves(half), jax.tree.leaves(tuned), strict=True):
            assert before.shape == after.shape and not np.array_equal(before, after)
        qt.save(tmp_path / f"{kind}.qtree", tuned)
        assert qt.load(tmp_path / f"{kind}.qtree").narrower
        wanted[kind] = run(model, tuned, case.inputs)
        if kind == "linen":
            narrow = Net(tuple(_narrowed(layer) for layer in module.layers))
            alone: Any = narrow.apply(tuned.to_linen(), case.inputs)
            np.testing.assert_allclose(alone, wanted[kind], rtol=1e-4, atol=1e-5)
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", FRESH, tmp_path], cwd=root, check=True, timeout=100)
    for kind, outputs in wanted.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{kind}.npy"), outputs, rtol=1e-4, atol=1e-5)


def _narrowed(layer: Any) -> Any:
    """A layer as one would write it for the narrower network."""
    if not isinstance(layer, linen.Conv):
        return layer
    return linen.Conv(WIDE // 2, (3, 3), feature_group_count=max(1, layer.feature_group_count // 2))


def test_only_a_narrower_model_may_have_other_shapes_than_a_module() -> None:
    case = NNX["dense"]
    model = qt.from_nnx(case.build(nnx.Rngs(0)))
    whole = Compressed.from_model(model)
    half = halved(whole, case.group)

    def module(inner: int | tuple[int, int], outer: int) -> nnx.Module:
        rngs = nnx.Rngs(0)
        return nnx.Sequential(nnx.LinearGeneral(6, inner, rngs=rngs), nnx.relu, nnx.Linear(outer, 3, rngs=rngs))

    for compressed, wrong, told in (
        (whole, module(7, 7), r"\(7,\), the model has shape \(8,\)"),
        (half, module(3, 3), r"\(3,\), the model has shape \(4,\)"),
        (half, module((2, WIDE), WIDE), r"\(2, 8\), the model has shape \(4,\)"),
    ):
        with pytest.raises(LeafError, match=f"layers/0/bias: the module wants shape {told}"):
            compressed.to_nnx(wrong)
    # The baseline was no wider network than this one, so these are not its widths.
    with pytest.raises(LeafError, match=r"the module wants shape \(16,\), the model has shape \(4,\)"):
        half.to_nnx(module(16, 16))
