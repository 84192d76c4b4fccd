from pathlib import Path

import jax
import pytest

import quantree as qt
from experiments.baseline import on_test
from experiments.data import DataConfig, splits
from experiments.evaluate import main
from experiments.zoo import MLP
from quantree import checkpoints
from quantree.encodings import Compressed
from quantree.recovery import evaluate

CONFIG = """
name: tiny
data: {name: digits}
model: {kind: mlp, hidden: [4]}
baseline: {epochs: 1}
recipes:
  kmeans:
    - {kind: kmeans, k: {grid: [2, 4]}}
"""


def test_a_file_and_a_checkpoint_are_measured_on_the_test_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    model = MLP(hidden=(4,)).model(3, (8, 8, 1), 10)
    compressed = qt.Recipe.from_config([{"kind": "kmeans", "k": 4}]).run(model, key=jax.random.key(0))
    size = qt.save(tmp_path / "net.qtree", compressed).total
    checkpoints.write(tmp_path / "net.safetensors", model.params, {}, "torch")
    data = on_test(splits(DataConfig(name="digits"), 0))
    for name, network in (("net.qtree", compressed), ("net.safetensors", Compressed.from_model(model))):
        assert main([str(tmp_path / name), str(tmp_path / "c.yaml")]) == 0
        told = capsys.readouterr().out
        assert f"accuracy {evaluate(network, model, data).metric:.4f}" in told and told.count("\n") == 1
        assert (f"{size:,} bytes, {model.dense_bytes / size:.2f} times smaller" in told) == (name == "net.qtree")
    assert main([str(tmp_path / "net.qtree"), str(tmp_path / "c.yaml"), "model.hidden=[5]"]) == 2
    assert "net.qtree: fc1/bias is float32 [4], the network needs float32 [5]" in capsys.readouterr().err
    assert main([str(tmp_path / "gone.qtree"), str(tmp_path / "c.yaml")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_file_of_fewer_channels_is_measured_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    model = MLP(hidden=(4,)).model(3, (8, 8, 1), 10)
    data = splits(DataConfig(name="digits"), 0)
    recipe = qt.Recipe.from_config([{"kind": "remove", "keep": 0.5}])
    compressed = recipe.run(model, key=jax.random.key(0), data=data.data)
    assert compressed.leaves["fc1/kernel"].shape == (64, 2)
    qt.save(tmp_path / "net.qtree", compressed)
    assert main([str(tmp_path / "net.qtree"), str(tmp_path / "c.yaml")]) == 0
    assert f"accuracy {evaluate(compressed, model, on_test(data)).metric:.4f}" in capsys.readouterr().out
