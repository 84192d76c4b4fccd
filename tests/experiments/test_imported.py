from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.baseline import on_test
from experiments.data import DataConfig, Normal, splits
from experiments.imported import Checkpoint, Imported
from experiments.zoo import MLP, Network
from quantree import checkpoints
from quantree.encodings import Compressed
from quantree.errors import DataError, LeafError
from quantree.model import flatten
from quantree.recovery import evaluate

FRESH = MLP(hidden=(4,)).model(0, (8, 8, 1), 10)


def test_a_checkpoint_takes_the_place_of_fresh_weights(tmp_path: Path) -> None:
    other = MLP(hidden=(4,)).model(1, (8, 8, 1), 10)
    checkpoints.write(tmp_path / "net.safetensors", other.params, {}, "torch")
    found = Imported.at(tmp_path, Checkpoint(file="net.safetensors"))
    model = found.into(FRESH)
    assert model.apply == FRESH.apply
    for path, leaf in flatten(other.params).items():
        np.testing.assert_array_equal(flatten(model.params)[path], leaf)
    (tmp_path / "moved").mkdir()
    checkpoints.write(tmp_path / "moved" / "x.safetensors", other.params, {}, "torch")
    moved = Imported.at(tmp_path / "moved", Checkpoint(file="x.safetensors"))
    assert moved.sha256 == found.sha256 and moved.path != found.path


def test_a_checkpoint_that_does_not_fit_is_told_by_its_leaf(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"can't read the checkpoint .*net.safetensors: No such file"):
        Imported.at(tmp_path, Checkpoint(file="net.safetensors"))
    for hidden, reason in (((5,), r"fc1/bias is float32 \[5\], the network needs float32 \[4\]"), ((4, 3), "fc2/bias")):
        checkpoints.write(tmp_path / "net.safetensors", MLP(hidden=hidden).model(0, (8, 8, 1), 10).params, {}, "flax")
        with pytest.raises(LeafError, match=reason):
            Imported.at(tmp_path, Checkpoint(file="net.safetensors")).into(FRESH)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scale", "accuracy"),
    [
        ("resnet20", Normal(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225)), 0.9173),
        ("resnet32", Normal(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225)), 0.9263),
        ("resnet8", "raw", 0.8719),
    ],
)
def test_published_networks_reach_the_accuracy_that_was_measured_elsewhere(
    name: str, scale: Any, accuracy: float, shared_data: Path, cifar10_dir: Path
) -> None:
    checkpoint = Checkpoint(file=f"cifar10_{name}.safetensors")
    found = Imported.at(shared_data / "checkpoints", checkpoint)
    model = found.into(Network.named(name)().model(0, (32, 32, 3), 10))
    data = splits(DataConfig(name="cifar10", scale=scale), 0, cifar10_dir)
    assert evaluate(Compressed.from_model(model), model, on_test(data)).metric == pytest.approx(accuracy, abs=2e-4)
