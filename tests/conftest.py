"""A strict environment for every test, and what several tests share."""

import contextlib
import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"

# Set before JAX is imported, and as variables, so that programs which a test starts are as strict as the test itself.
# Optax mixes integer step counts with floats, so whoever calls an optimizer's `update` does so inside
# `jax.numpy_dtype_promotion("standard")`.
os.environ.update(
    JAX_PLATFORMS=os.environ.get("JAX_PLATFORMS", "cpu"),
    JAX_NUMPY_DTYPE_PROMOTION="strict",
    JAX_NUMPY_RANK_PROMOTION="raise",
    JAX_COMPILATION_CACHE_DIR=str(ROOT / ".pytest_cache" / "jax"),
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0.1",
    XLA_FLAGS=f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2",
    MPLBACKEND="agg",
)

import hypothesis  # noqa: E402
import pytest  # noqa: E402

hypothesis.settings.register_profile("quick", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=300, print_blob=True)
hypothesis.settings.load_profile("quick")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of raw data sets and checkpoints beside the clone; the test is skipped where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no raw data at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def raw_dir(shared_data: Path, pytestconfig: pytest.Config) -> Path:
    """Folder with the raw files of mnist, fashion_mnist and cifar10, unpacked once per clone."""
    names = ("mnist", "fashion_mnist", "cifar10")
    raw = _dataset_cache(pytestconfig) / "-".join(("raw", *names))
    with _lock(raw):
        if not raw.is_dir():
            half = raw.with_name(f"{raw.name}.incomplete")
            subprocess.run([sys.executable, shared_data / "unpack.py", half, *names], check=True)
            half.rename(raw)
    return raw


@pytest.fixture(scope="session")
def mnist_dir(raw_dir: Path, pytestconfig: pytest.Config) -> Path:
    """Data directory with mnist, prepared once per clone and version of the code; takes half a minute."""
    return _prepared("mnist", raw_dir, pytestconfig)


@pytest.fixture(scope="session")
def fashion_mnist_dir(raw_dir: Path, pytestconfig: pytest.Config) -> Path:
    """As `mnist_dir`, with fashion_mnist."""
    return _prepared("fashion_mnist", raw_dir, pytestconfig)


@pytest.fixture(scope="session")
def cifar10_dir(raw_dir: Path, pytestconfig: pytest.Config) -> Path:
    """As `mnist_dir`, with cifar10."""
    return _prepared("cifar10", raw_dir, pytestconfig)


def _prepared(name: str, raw: Path, config: pytest.Config) -> Path:
    from experiments.data.__main__ import main

    code = b"".join(path.read_bytes() for path in sorted((ROOT / "experiments" / "data").rglob("*.py")))
    root = _dataset_cache(config) / hashlib.sha256(code).hexdigest()[:16]
    with _lock(root):
        assert main(["prepare", name, "--from", str(raw), "--data-dir", str(root)]) == 0
    return root


def _dataset_cache(config: pytest.Config) -> Path:
    assert config.cache is not None
    return config.cache.mkdir("datasets")


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    # pytest-xdist's workers share the cache.
    with open(f"{path}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
