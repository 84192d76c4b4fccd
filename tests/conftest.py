"""A strict environment for every test, and what several tests share."""

import os
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
