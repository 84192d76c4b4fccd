"""A user's class through the config: found, built, checked, and part of the trial's name."""

from pathlib import Path

import numpy as np
import pytest

from experiments.config import load_experiment
from experiments.sweep import Order, plan
from experiments.trial import Trial
from experiments.zoo import Outside
from quantree.errors import ConfigError
from quantree.model import flatten
from quantree.schema import parse_yaml

NET = """
from flax import linen, nnx
from flax.linen import Dense

class Net(nnx.Module):
    def __init__(self, features, rngs):
        self.fc1, self.fc2 = nnx.Linear(64, features, rngs=rngs), nnx.Linear(features, %(outputs)d, rngs=rngs)
        self.norm = nnx.BatchNorm(features, rngs=rngs)
    def __call__(self, x):
        return self.fc2(nnx.relu(self.norm(self.fc1(x.reshape(len(x), -1)))))

class Lean(linen.Module):
    features: int = 8
    @linen.compact
    def __call__(self, x, training):
        x = linen.BatchNorm(use_running_average=not training)(linen.Dense(self.features)(x.reshape(len(x), -1)))
        return linen.Dense(10)(linen.Dropout(0.5, deterministic=not training)(linen.relu(x)))

class Pair(linen.Module):
    @linen.compact
    def __call__(self, x):
        return x, x

class Narrow(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(3)(x.reshape(7, 5))
"""
CONFIG = """\
name: tiny
data: {name: digits}
model: {kind: module, name: Net, arguments: {features: 8}}
plugins: [net.py]
baseline: {epochs: 1}
recipes: {one: [{kind: kmeans, k: 4}]}
"""


def planned(folder: Path, old: str = "", new: str = "", *, outputs: int = 10, extra: str = "") -> tuple[Trial, ...]:
    (folder / "net.py").write_text(NET % {"outputs": outputs} + extra)
    (folder / "c.yaml").write_text(CONFIG.replace(old, new) if old else CONFIG)
    return plan(load_experiment(folder / "c.yaml"))


def told(folder: Path, old: str, new: str, outputs: int = 10) -> str:
    with pytest.raises(ConfigError) as caught:
        planned(folder, old, new, outputs=outputs)
    return str(caught.value).removeprefix(f"{folder}/")


def test_both_kinds_of_classes_become_models(tmp_path: Path) -> None:
    (nnx_trial,) = planned(tmp_path)
    (linen_trial,) = planned(tmp_path, "name: Net, arguments: {features: 8}", "name: Lean")
    images = np.ones((3, 8, 8, 1), np.float32)
    for trial in (nnx_trial, linen_trial):
        network = trial.baseline.model
        first, again, other = (network.model(seed, (8, 8, 1), 10) for seed in (0, 0, 1))
        assert first.apply is not None and first.apply == other.apply
        assert len(flatten(first.params)) == 6 and len(flatten(first.state)) == 2
        outputs = [np.asarray(model.apply(model.params, model.state, images)[0]) for model in (first, again, other)]  # pyright: ignore[reportOptionalCall]
        assert outputs[0].shape == (3, 10)
        np.testing.assert_array_equal(outputs[0], outputs[1])
        assert not np.array_equal(outputs[0], outputs[2])
    assert [trial.labels()["model"] for trial in (nnx_trial, linen_trial)] == ["Net", "Lean"]


def test_the_file_of_the_class_is_part_of_the_name_of_trial_and_baseline(tmp_path: Path) -> None:
    (first,), (again,) = planned(tmp_path), planned(tmp_path)
    (changed,) = planned(tmp_path, extra="# changed\n")
    (back,) = planned(tmp_path)
    assert first.id == again.id == back.id
    assert len({first.baseline.id, changed.baseline.id}) == 2
    assert changed.baseline.sources == (changed.plugins[0].sha256,)
    (other,) = planned(tmp_path, "features: 8", "features: 9")
    assert other.baseline.id != first.baseline.id


def test_a_network_is_hashable_and_comes_through_an_order(tmp_path: Path) -> None:
    order = Order(workdir="w", data_dir=None, trials=planned(tmp_path, "features: 8", "features: {grid: [8, 9]}"))
    again = Order.model_validate(parse_yaml(order.model_dump_json()).data)
    assert again == order
    networks = [trial.baseline.model for trial in (*order.trials, *again.trials)]
    assert len(set(map(hash, networks))) == 2
    assert all(isinstance(network, Outside) for network in networks)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: Net", "name: Nett", "c.yaml:3: model.name: no class 'Nett' in the plug-in files"),
        ("name: Net", "name: Nett", "did you mean 'Net'?"),
        ("name: Net", "name: Dense", "'Dense' is no Flax module that"),
        ("name: Net, ", "", "c.yaml:3: model.name: field required"),
        ("features: 8", "featurs: 8", "c.yaml:3: model: Net: unknown argument 'featurs'; did you mean 'features'?"),
        ("features: 8", "features: 8, rngs: 1", "c.yaml:3: model: Net: `rngs` is given by the sweep, from its seed"),
        ("{features: 8}", "{features: 8, deep: 1}", "c.yaml:3: model: Net: unknown argument 'deep'; known: features"),
        ("features: 8", "features: wide", "c.yaml:3: model: Net(features='wide') can't be built: TypeError"),
        ("name: Net, arguments: {features: 8}", "name: Pair", "model: Pair() gives a tuple for 2 inputs"),
        ("name: Net, arguments: {features: 8}", "name: Narrow", "model: Narrow() can't be built: TypeError"),
    ],
)
def test_what_does_not_fit_is_told_with_its_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert message in told(tmp_path, old, new)


def test_logits_of_another_width_are_refused(tmp_path: Path) -> None:
    message = told(tmp_path, "seeds", "seeds", outputs=7)
    assert message == "c.yaml:3: model: Net(features=8) gives [2, 7] for 2 inputs; the data want logits [2, 10]"


def test_a_class_whose_file_is_not_imported_is_told(tmp_path: Path) -> None:
    network = Outside.from_config({"kind": "module", "name": "Net", "source": "0" * 16})
    with pytest.raises(ConfigError, match="the file that defines 'Net'"):
        network.abstract((8, 8, 1), 10)
