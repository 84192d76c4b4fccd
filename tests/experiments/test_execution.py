from pathlib import Path

import pytest

from experiments.execution import Execution
from quantree.errors import ConfigError


def test_auto_is_what_jax_is_told_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for platform, device in (("cuda,cpu", "gpu"), ("tpu", "tpu"), ("cpu", "cpu")):
        monkeypatch.setenv("JAX_PLATFORMS", platform)
        execution = Execution().resolved()
        assert execution.device == device
        assert "JAX_PLATFORMS" not in execution.environment(), "what the user chose stays"
    assert Execution(device="gpu").resolved().device == "gpu"


def test_the_environment_fixes_threads_and_deterministic_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "--mine")
    assert Execution(device="cpu", threads=3).environment()["NPROC"] == "3"
    gpu = Execution(device="gpu").environment()
    assert gpu["XLA_FLAGS"] == "--mine --xla_gpu_deterministic_ops=true"
    assert gpu["JAX_PLATFORMS"] == "cuda"


def test_programs_for_other_numbers_of_threads_are_kept_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    one, two = (Execution(device="cpu", threads=n).cache(tmp_path) for n in (1, 2))
    assert one != two and one.parent == two.parent == tmp_path / "cache"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    assert Execution(device="cpu").cache(tmp_path).parent == tmp_path / "mine"


def test_a_kind_of_device_that_is_not_here_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    Execution(device="cpu").check()
    Execution().check()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(ConfigError, match=r"JAX finds no gpu here.*; `auto` takes what there is"):
        Execution(device="gpu").check()
