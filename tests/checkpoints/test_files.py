from pathlib import Path

import ml_dtypes
import numpy as np
import orbax.checkpoint as orbax
import pytest
from orbax.checkpoint import v1 as orbax_v1
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from quantree import checkpoints
from quantree.checkpoints import Layout
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


def test_a_folder_is_what_other_programs_restore(tmp_path: Path) -> None:
    tree = {"a": {"kernel": np.ones((2, 3), np.float32), "scale": np.asarray(3, np.float32)}}
    checkpoints.write(tmp_path / "ours", tree, {}, "flax")
    orbax_v1.save(str(tmp_path / "v1"), tree)
    for checkpointer in (orbax.StandardCheckpointer(), orbax.PyTreeCheckpointer()):
        with checkpointer:
            found = flatten(checkpointer.restore(tmp_path / "ours"))
        assert {path: leaf.shape for path, leaf in found.items()} == {"a/kernel": (2, 3), "a/scale": ()}
    for name in ("ours", "v1"):
        found = flatten(checkpoints.read(tmp_path / name).model.params)
        assert {path: leaf.shape for path, leaf in found.items()} == {"a/kernel": (2, 3), "a/scale": ()}
    checkpoints.write(tmp_path / "v1", tree, {}, "flax")
    assert (tmp_path / "v1" / "_METADATA").exists()


def test_a_folder_of_steps_tells_which_to_give(tmp_path: Path) -> None:
    tree = {"a": np.ones(3, np.float32)}
    with orbax.CheckpointManager(tmp_path / "mgr") as manager:
        manager.save(3, args=orbax.args.StandardSave(tree))
    with pytest.raises(FormatError, match=r"mgr: .*holds steps 3; give \S*mgr/3$"):
        checkpoints.read(tmp_path / "mgr")
    with pytest.raises(FormatError, match=r"mgr/3/default: not an Orbax .* part of \S*mgr/3, give that$"):
        checkpoints.read(tmp_path / "mgr" / "3" / "default")
    assert [*checkpoints.read(tmp_path / "mgr" / "3").model.params] == ["a"]
    with orbax.CheckpointManager(tmp_path / "mgr") as manager:
        manager.save(20, args=orbax.args.StandardSave(tree))
    with pytest.raises(FormatError, match=r"holds steps 3, 20; give one of them, such as \S*mgr/20$"):
        checkpoints.read(tmp_path / "mgr")


def test_orbax_holds_no_empty_array(tmp_path: Path) -> None:
    empty = {"a": {"kernel": np.ones((0, 4), np.float32)}}
    with pytest.raises(LeafError, match=r"out: a/kernel has no elements \(shape \(0, 4\)\).* ends in \.safetensors"):
        checkpoints.write(tmp_path / "out", empty, {}, "flax")
    assert not any(tmp_path.iterdir())
    checkpoints.write(tmp_path / "out.safetensors", empty, {}, "flax")
    assert load_file(tmp_path / "out.safetensors")["a/kernel"].shape == (0, 4)


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.bin", "x.h5", "x.npz", "x.CKPT", "x.msgpack"])
def test_a_name_of_another_format_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormatError, match=rf"{name}: \.\w+ files are not written; .*\.safetensors gives a file"):
        checkpoints.write(tmp_path / name, {"a": np.ones(3, np.float32)}, {}, "flax")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("layout", "metadata"), [("torch", {"format": "pt"}), ("flax", None)])
def test_a_file_of_pytorch_says_so(tmp_path: Path, layout: Layout, metadata: dict[str, str] | None) -> None:
    checkpoints.write(tmp_path / "x.safetensors", {"a": {"kernel": np.ones((2, 3), np.float32)}}, {}, layout)
    with safe_open(tmp_path / "x.safetensors", framework="numpy") as file:
        assert file.metadata() == metadata


@pytest.mark.parametrize(("name", "layout"), [("resnet20", "torch"), ("resnet8", "keras")])
def test_published_checkpoints_come_back_bit_for_bit(shared_data: Path, tmp_path: Path, name: str, layout: str) -> None:
    file = shared_data / "checkpoints" / f"cifar10_{name}.safetensors"
    found = checkpoints.read(file)
    assert found.layout == layout and found.left_out == ()
    checkpoints.write(tmp_path / "out.safetensors", found.model.params, found.model.state, found.layout)
    before, after = load_file(file), load_file(tmp_path / "out.safetensors")
    assert before.keys() == after.keys() and all(np.array_equal(before[key], after[key]) for key in before)
