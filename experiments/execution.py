"""What computes the numbers: kind of device and threads.

Part of every trial's identity, unlike the number of workers.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from quantree.errors import ConfigError
from quantree.schema import Config

Kind = Literal["cpu", "gpu", "tpu"]
_KINDS: Mapping[str, Kind] = {"cpu": "cpu", "gpu": "gpu", "cuda": "gpu", "rocm": "gpu", "tpu": "tpu"}


class Execution(Config):
    """Where one trial runs.

    XLA splits sums over its threads, so the last bits of a result depend on how many there are: the number is fixed
    here, and a sweep with more workers computes the same bytes.
    """

    device: Literal["auto", "cpu", "gpu", "tpu"] = Field(
        default="auto", description="kind of device; auto: the one that JAX picks"
    )
    threads: int = Field(default=1, ge=1, description="CPU threads of one worker; changes the last bits of a result")

    def resolved(self) -> "Execution":
        """The same with the device that `auto` means here, found without starting a device in this process."""
        return self if self.device != "auto" else self.model_copy(update={"device": _default_device()})

    def check(self) -> None:
        """`ConfigError` if the config asks for a kind of device that JAX does not find here."""
        if self.device in ("auto", "cpu"):
            return
        asked = _ask_jax({**os.environ, **self.environment()})
        if _KINDS.get(asked.stdout.strip()) != self.device:
            said = asked.stderr.strip().rpartition("\n")[2]
            reason = f" ({said})" if ": " in said else ""  # a bare `AssertionError` tells nothing
            raise ConfigError(f"JAX finds no {self.device} here{reason}; `auto` takes what there is")

    def environment(self) -> dict[str, str]:
        """Environment variables for a worker. Only a resolved execution has them; JAX reads them when it starts."""
        threads = str(self.threads)
        variables = {
            "NPROC": threads,  # the size of XLA's own thread pools
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several workers may share one GPU
        }
        if _KINDS.get(_first_platform()) != self.device:
            variables["JAX_PLATFORMS"] = "cuda" if self.device == "gpu" else self.device
        if self.device == "gpu":
            variables["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()
        return variables

    def cache(self, workdir: Path) -> Path:
        """Folder of compiled programs: beside the results, or inside of `JAX_COMPILATION_CACHE_DIR` if that is set.

        JAX does not tell programs for different numbers of threads apart, so each execution has a folder of its own.
        """
        root = os.environ.get("JAX_COMPILATION_CACHE_DIR")
        return (Path(root) if root else workdir / "cache") / f"{self.device}-{self.threads}"


def _first_platform() -> str:
    return os.environ.get("JAX_PLATFORMS", "").split(",")[0]


def _default_device() -> Kind:
    named = _KINDS.get(_first_platform())
    if named is not None:
        return named
    if not any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu")):
        return "cpu"
    # To ask JAX is to start the device, which a process that only starts workers must not hold.
    return _KINDS.get(_ask_jax(os.environ).stdout.strip(), "cpu")


def _ask_jax(environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """What a process with these variables prints as its device, and why it finds none."""
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
