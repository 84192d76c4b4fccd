from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quantree import checkpoints
from quantree.errors import FormatError, LeafError
from quantree.model import flatten

ARRAYS = {
    "conv.weight": np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32),
    "bn.running_var": np.ones(4, np.float32),
    "head.weight": np.ones((2, 4), ml_dtypes.bfloat16),
    "logit_scale": np.asarray(2.5, np.float32),
}


@pytest.mark.parametrize("name", ["out.safetensors", "out"])
def test_a_checkpoint_survives_both_kinds_of_file(tmp_path: Path, name: str) -> None:
    save_file(ARRAYS, tmp_path / "in.safetensors")
    first = checkpoints.read(tmp_path / "in.safetensors")
    assert first.layout == "torch" and [*flatten(first.model.state)] == ["bn/var"]
    for _ in range(2):  # the second time it takes the place of the first
        checkpoints.write(tmp_path / name, first.model.params, first.model.state, "torch")
    second = checkpoints.read(tmp_path / name, "torch")
    checkpoints.write(tmp_path / "again.safetensors", second.model.params, second.model.state, "torch")
    again = load_file(tmp_path / "again.safetensors")
    assert again.keys() == ARRAYS.keys()
    for key, array in ARRAYS.items():
        assert again[key].shape == array.shape
        assert again[key].dtype == array.dtype and again[key].tobytes() == array.tobytes()
    assert {path.name for path in tmp_path.iterdir()} == {"in.safetensors", name, "again.safetensors"}


def test_what_is_no_checkpoint_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="can't be read: No such file"):
        checkpoints.read(tmp_path / "missing.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"abc")
    with pytest.raises(FormatError, match="not a safetensors file"):
        checkpoints.read(tmp_path / "bad.safetensors")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FormatError, match="not an Orbax checkpoint"):
        checkpoints.read(tmp_path / "folder")
    save_file({"n": np.ones(2, np.int64)}, tmp_path / "wide.safetensors")
    with pytest.raises(LeafError, match=r"wide.safetensors: n: JAX holds int64 only if"):
        checkpoints.read(tmp_path / "wide.safetensors")


@pytest.mark.parametrize(("name", "layout"), [("resnet20", "torch"), ("resnet8", "keras")])
def test_published_checkpoints_come_back_bit_for_bit(shared_data: Path, tmp_path: Path, name: str, layout: str) -> None:
    file = shared_data / "checkpoints" / f"cifar10_{name}.safetensors"
    found = checkpoints.read(file)
    assert found.layout == layout and found.left_out == ()
    checkpoints.write(tmp_path / "out.safetensors", found.model.params, found.model.state, found.layout)
    before, after = load_file(file), load_file(tmp_path / "out.safetensors")
    assert before.keys() == after.keys() and all(np.array_equal(before[key], after[key]) for key in before)
