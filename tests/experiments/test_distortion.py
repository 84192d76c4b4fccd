"""`python -m experiments.distortion`: the error of quantizing, before any training."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import quantree as qt
from experiments import distortion
from experiments.baseline import obtain
from experiments.config import load_experiment
from experiments.distortion import main
from experiments.store import Store
from experiments.sweep import plan

CONFIG = """
name: tiny
data: {name: digits}
model: {kind: mlp, hidden: [6]}
baseline: {epochs: 1}
seeds: [0, 1]
recipes:
  kmeans:
    - {kind: kmeans, match: fc1/kernel, k: {grid: [2, 8]}}
  kmeans and tune: # begins as the first one does
    - {kind: kmeans, match: fc1/kernel, k: 2}
    - {kind: finetune, epochs: 1}
  nothing: [{kind: cast}]
"""


def test_errors_are_those_of_the_leaves_and_recipes_that_begin_alike_are_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, work = tmp_path / "c.yaml", tmp_path / "w"
    config.write_text(CONFIG)
    assert main([str(config), "--workdir", str(work), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"kmeans", "kmeans 2"}
    wanted = []
    for trial in plan(load_experiment(config)):
        if trial.method == "kmeans" and trial.settings["stages"][0]["k"] == 8:
            model = obtain(trial.baseline, Store(work)).model
            kernel = np.asarray(model.params["fc1"]["kernel"], np.float64)
            recipe = qt.Recipe.from_config([{"kind": "kmeans", "match": "fc1/kernel", "k": 8}])
            coded = recipe.run(model, key=jax.random.key(trial.baseline.seed)).decode()["fc1"]["kernel"]
            wanted.append(np.sum((np.asarray(coded, np.float64) - kernel) ** 2) / np.sum(kernel**2))
    assert len(wanted) == 2
    assert found["kmeans 2"] == pytest.approx({"fc1/kernel": np.mean(wanted), "in all": np.mean(wanted)})
    assert found["kmeans"]["in all"] > found["kmeans 2"]["in all"]
    assert main([str(config), "--workdir", str(work)]) == 0
    told = capsys.readouterr().out
    assert "fc1/kernel" in told and f"{found['kmeans']['in all']:.5f}" in told


TWO_READERS = """
import jax.numpy as jnp
from flax import nnx

class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.stem, self.beside = nnx.Linear(64, 6, rngs=rngs), nnx.Linear(64, 3, rngs=rngs)
        self.left, self.right = nnx.Linear(6, 10, rngs=rngs), nnx.Linear(9, 10, rngs=rngs)

    def __call__(self, x):
        x = x.reshape(len(x), -1)
        h = nnx.relu(self.stem(x))
        return self.left(h) + self.right(jnp.concatenate([nnx.relu(self.beside(x)), h], -1))
"""


def test_leaves_that_share_an_order_of_channels_are_also_added_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, work = tmp_path / "c.yaml", tmp_path / "w"
    (tmp_path / "net.py").write_text(TWO_READERS)
    network = "plugins: [net.py]\nmodel: {kind: module, name: Net}"
    config.write_text(
        CONFIG.replace("model: {kind: mlp, hidden: [6]}", network)
        .replace("match: fc1/kernel, ", "")
        .replace("{grid: [2, 8]}", "2")
        .replace("seeds: [0, 1]", "seeds: [0]")
    )
    assert main([str(config), "--workdir", str(work), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["kmeans"]
    trial = next(trial for trial in plan(load_experiment(config)) if trial.method == "kmeans")
    model = obtain(trial.baseline, Store(work)).model
    coded = qt.Recipe.from_config([{"kind": "kmeans", "k": 2}]).run(model, key=jax.random.key(0)).decode()
    parts = [(model.params["left"]["kernel"], coded["left"]["kernel"])]
    parts += [(model.params["right"]["kernel"][3:], coded["right"]["kernel"][3:])]
    lost = sum(np.sum(np.square(np.asarray(new, np.float64) - old)) for old, new in parts)
    assert [name for name in found if name.startswith("along ")] == ["along stem"]
    assert found["along stem"] == pytest.approx(lost / sum(np.sum(np.square(old)) for old, _ in parts), rel=1e-5)


def test_a_group_that_one_seed_has_not_counts_for_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG)
    of_seeds = {0: {"a": 1.0, "in all": 1.0}, 1: {"a": 3.0, "along g": 5.0, "in all": 2.0}}
    monkeypatch.setattr(distortion, "_of", lambda trial, *_: of_seeds[trial.baseline.seed])
    assert main([str(config), "--workdir", str(tmp_path / "w"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kmeans"] == {"a": 2.0, "along g": 5.0, "in all": 1.5}
