"""k-means over several devices and processes gives what one device gives."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from quantree.clustering import KMeans, assign, kmeans
from quantree.clustering.problem import Limits, Problem, Settings, solve
from quantree.clustering.starts import Start
from quantree.errors import LeafError
from tests.clustering.spread import CASES, K, X, already
from tests.compilations import compilations

KEY = jax.random.key(7)
ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds


@pytest.fixture
def mesh() -> Mesh:
    """Two devices in a row."""
    return Mesh(np.array(jax.devices()), ("points",))


def same(found: KMeans, alone: KMeans) -> None:
    """Holds what came from many devices to what came from one."""
    for name in ("codes", "counts", "steps", "converged", "repaired"):
        np.testing.assert_array_equal(getattr(found, name), getattr(alone, name), err_msg=name)
    for name in ("centroids", "inertia", "history"):
        np.testing.assert_allclose(getattr(found, name), getattr(alone, name), rtol=1e-4, atol=1e-5, err_msg=name)


LONG = ("restarts", "annealed", "bfloat16")  # to compile; `kmeans` of one device has them, too


@pytest.mark.parametrize(
    ("case", "devices"),
    [
        *(pytest.param(case, 2, marks=[pytest.mark.slow] if case in LONG else []) for case in CASES),
        ("lost", 1),
        pytest.param("batch", 1, marks=pytest.mark.slow),
    ],
)
def test_a_mesh_gives_what_one_device_gives(case: str, devices: int) -> None:
    found = CASES[case](Mesh(np.array(jax.devices()[:devices]), ("points",)))
    same(found, CASES[case](None))
    assert all(leaf.is_fully_replicated for leaf in found._replace(codes=found.centroids))
    assert np.all(found.repaired) or case != "lost"


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("split", [("points",), (None, None)])
def test_points_may_be_spread_already(kind: AxisType, split: tuple[str | None, ...]) -> None:
    mesh = jax.make_mesh((2,), ("points",), axis_types=(kind,))
    x = jax.device_put(X[:1000], NamedSharding(mesh, PartitionSpec(*split)))
    found, alone = kmeans(x, K, key=KEY, initial=X[:K]), kmeans(X[:1000], K, key=KEY, initial=X[:K])
    same(found, alone)
    assert not found.codes.is_fully_replicated
    codes = assign(x, alone.centroids)
    np.testing.assert_array_equal(codes, alone.codes)
    assert codes.is_fully_replicated != ("points" in split)
    with compilations() as compiled:
        kmeans(x, K, key=KEY, initial=X[1 : K + 1])
        assign(x, X[:K])
    assert not compiled


def test_a_spread_batch_is_assigned_where_it_is(mesh: Mesh) -> None:
    x = X[:1000].reshape(2, 500, 3)
    centroids = np.stack([X[:K], X[K : 2 * K]])
    for split in (PartitionSpec("points"), PartitionSpec(None, "points")):
        codes = assign(jax.device_put(x, NamedSharding(mesh, split)), centroids)
        np.testing.assert_array_equal(codes, assign(x, centroids))
        assert not codes.is_fully_replicated


@pytest.mark.parametrize("outlier", [0, 499, 500, 999])
def test_a_lost_centroid_goes_to_the_farthest_point_on_whatever_device(outlier: int, mesh: Mesh) -> None:
    x = X[:1000].copy()
    x[outlier] = 50
    start = np.concatenate([X[:3], np.full((1, 3), -999, np.float32)])
    found = kmeans(x, 4, key=KEY, initial=start, iterations=1, mesh=mesh)
    assert found.repaired == 1
    np.testing.assert_allclose(found.centroids[3], x[outlier], rtol=1e-6)


def test_of_equally_far_points_that_of_the_first_device_is_taken(mesh: Mesh) -> None:
    x = np.zeros((8, 1), np.float32)
    x[[3, 4]] = [[-1], [1]]
    found = kmeans(x, 2, key=KEY, initial=[[0.0], [9.0]], iterations=1, mesh=mesh)
    np.testing.assert_allclose(found.centroids[:, 0], [0, -1], atol=1e-6)


def test_a_mesh_inside_another_program(mesh: Mesh) -> None:
    found = jax.jit(lambda x: kmeans(x, K, key=KEY, initial=X[:K], mesh=mesh))(X)
    same(found, CASES["start"](None))


@pytest.mark.parametrize("wrong", ["x", "weights"])
def test_what_is_wrong_is_said_of_spread_arrays_too(wrong: str, mesh: Mesh) -> None:
    x, weights = X[:1000].copy(), np.ones(1000, np.float32)
    {"x": x, "weights": weights}[wrong][999] = np.nan if wrong == "x" else -1
    spread = NamedSharding(mesh, PartitionSpec("points"))
    with pytest.raises(LeafError, match=wrong):
        kmeans(jax.device_put(x, spread), K, key=KEY, weights=jax.device_put(weights, spread))


@pytest.mark.parametrize("init", [None, "k-means++", pytest.param("random", marks=pytest.mark.slow)])
def test_no_device_gathers_the_points(init: Start | None, mesh: Mesh) -> None:
    n, d, sample = 40_000, 7, 8192
    split, whole = NamedSharding(mesh, PartitionSpec("points")), NamedSharding(mesh, PartitionSpec())

    def like(shape: tuple[int, ...], kind: type, where: NamedSharding) -> jax.Array:
        described: object = jax.ShapeDtypeStruct(shape, kind, sharding=where)
        assert isinstance(described, jax.ShapeDtypeStruct)
        return described  # pyright: ignore[reportReturnType]

    initial = like((K, d), jnp.float32, whole) if init is None else None
    problem = Problem(
        like((n, d), jnp.float32, split),
        like((n,), jnp.float32, split),
        like((n,), jnp.bool, split),
        like((0, d), jnp.float32, whole),
        initial,
        jax.device_put(KEY, whole),
    )
    limits = Limits(*(like((), kind, whole) for kind in (jnp.int32, jnp.float32, jnp.int32)))
    settings = Settings(K, init or "random", 1, None, 32)
    text = solve.inner.lower(problem, limits, settings=settings, mesh=mesh).compile().as_text()
    moved = re.findall(
        r"= (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(", text
    )
    sizes = [
        int(np.prod([int(each) for each in shape.split(",") if each]))
        for shapes in moved
        for shape in re.findall(r"\w\[([\d,]*)\]", shapes)
    ]
    assert K * d in sizes
    assert max(sizes) <= {None: K * d, "k-means++": max(n, sample * d), "random": n}[init]


@pytest.mark.slow
def test_many_devices_on_two_axes(tmp_path: Path) -> None:
    _hold(tmp_path, {**CASES, "already": already}, _run(tmp_path, 8))


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    folders = [tmp_path / "0", tmp_path / "1"]
    running = [_run(folder, 2, port, i, 2) for i, folder in enumerate(folders)]
    try:
        for folder, process in zip(folders, running, strict=True):
            _hold(folder, {"all": CASES["all"], "lost": CASES["lost"], "already": already}, process)
    finally:
        for process in running:
            process.kill()


def _run(folder: Path, devices: int, *distributed: int) -> subprocess.Popen[str]:
    """Starts `spread`."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.clustering.spread", str(folder), *map(str, distributed)]
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | flags, stderr=subprocess.PIPE, text=True)


def _hold(folder: Path, cases: dict, process: subprocess.Popen[str]) -> None:
    """Holds what a process wrote to what one device gives."""
    try:
        errors = process.communicate(timeout=PATIENCE)[1]
    finally:
        process.kill()
    assert process.returncode == 0, errors
    for name, case in cases.items():
        with np.load(folder / f"{name}.npz") as arrays:
            same(KMeans(**arrays), case(None))
