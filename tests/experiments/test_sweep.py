import json
from pathlib import Path

import pytest

from experiments.config import load_experiment
from experiments.store import Store
from experiments.sweep import Order, plan, prepare, spread
from experiments.trial import Trial
from quantree.errors import ConfigError, DataError
from quantree.schema import parse_yaml

TINY = """\
name: tiny
data: {name: digits}
model: {kind: mlp, hidden: [8]}
baseline: {epochs: 1}
seeds: [0]
recipes:
  one:
    - {kind: kmeans, k: 4}
  two:
    - {kind: finetune, epochs: 1}
    - {kind: kmeans, k: 4}
"""
PLUGIN = """
from experiments.zoo import MLP
from quantree import Stage, register

@register("tests-sweep-stage-%(n)s")
class Nothing(Stage):
    pass

@register("tests-sweep-net-%(n)s")
class Net(MLP):
    pass
"""


def planned(folder: Path, *overrides: str, text: str = TINY) -> tuple[Trial, ...]:
    folder.mkdir(exist_ok=True)
    (folder / "tiny.yaml").write_text(text)
    return plan(load_experiment(folder / "tiny.yaml", overrides))


def ids(trials: tuple[Trial, ...]) -> dict[str, str]:
    return {trial.method: trial.id for trial in trials}


def test_the_id_knows_what_decides_the_numbers_and_nothing_else(tmp_path: Path) -> None:
    base = ids(planned(tmp_path / "a"))
    assert len(set(base.values())) == 2
    assert ids(planned(tmp_path / "elsewhere", "name=renamed")) == base
    preset = "recipes.one=[{kind: quantize, learner: {kind: kmeans, k: 4}}]"
    assert ids(planned(tmp_path / "a", preset)) == base, "a preset is what it stands for"
    for override in (
        "seeds=[1]",
        "baseline.epochs=2",
        "model.hidden=[9]",
        "data.validation=0.3",
        "execution.threads=2",
    ):
        changed = ids(planned(tmp_path / "a", override))
        assert not set(changed.values()) & set(base.values()), override
    changed = ids(planned(tmp_path / "a", "recipes.one.0.k=5"))
    assert changed["two"] == base["two"] and changed["one"] != base["one"]


def test_equal_settings_in_a_row_mean_the_same_trial_but_for_the_seed(tmp_path: Path) -> None:
    def settings(*overrides: str) -> str:
        (row,) = [trial.labels() for trial in planned(tmp_path / "a", *overrides) if trial.method == "one"]
        return json.dumps(row["settings"], sort_keys=True)

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.py").write_text(PLUGIN % {"n": 4})
    assert settings("seeds=[1]") == settings("name=renamed") == settings()
    changes = (
        "baseline.epochs=2",
        "model.hidden=[9]",
        "data.validation=0.3",
        "execution.threads=2",
        "recipes.one.0.k=5",
        "plugins=[mine.py]",
    )
    assert len({settings(), *map(settings, changes)}) == 1 + len(changes)


def test_settings_are_told_and_do_not_decide_the_id(tmp_path: Path) -> None:
    for trial in planned(tmp_path):
        fields = {name: getattr(trial, name) for name in Trial.model_fields}
        assert Trial(**{**fields, "settings": {"stages": ()}}).id == trial.id


def test_the_source_of_a_plug_in_is_part_of_the_id_and_of_a_baseline_that_uses_it(tmp_path: Path) -> None:
    trials = {}
    for n in (1, 2, 3):
        (tmp_path / "mine.py").write_text(PLUGIN % {"n": n})
        network = [f"model.kind=tests-sweep-net-{n}"] if n == 3 else []
        (trials[n], _) = planned(tmp_path, "plugins=[mine.py]", *network)
    assert trials[1].id != trials[2].id
    assert trials[1].baseline.id == trials[2].baseline.id, "only a quantizer changed"
    assert trials[3].baseline.sources == (trials[3].plugins[0].sha256,)


def test_seeds_share_no_baseline_and_recipes_do(tmp_path: Path) -> None:
    trials = planned(tmp_path, "seeds=[0, 1]")
    assert len(trials) == 4
    assert len({trial.baseline.id for trial in trials}) == 2


def test_trials_that_train_come_first_and_workers_begin_apart(tmp_path: Path) -> None:
    trials = planned(tmp_path, "recipes.one.0.k={grid: [2, 3]}")
    assert [trial.method for trial in trials] == ["two", "one", "one"]
    assert [trial.method for trial in spread(trials, 1, 2)] == ["one", "one", "two"]
    assert sorted(trial.id for trial in spread(trials, 5, 8)) == sorted(trial.id for trial in trials)


def test_two_recipes_that_are_the_same_trial_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="recipes 'one' and 'again' ask for the same trial"):
        planned(tmp_path, "recipes.again=[{kind: kmeans, k: 4}]")


def test_an_order_comes_through_json_unchanged(tmp_path: Path) -> None:
    order = Order(workdir="w", data_dir=None, trials=planned(tmp_path))
    again = Order.model_validate(parse_yaml(order.model_dump_json()).data)
    assert again == order
    assert [trial.id for trial in again.trials] == [trial.id for trial in order.trials]


def test_what_is_not_here_is_told_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY.replace("digits", "mnist"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no TensorFlow that could download it
    with pytest.raises(ConfigError, match=r"tiny\.yaml:2: data\.name: mnist is not prepared in .*empty") as caught:
        plan(load_experiment(config), tmp_path / "empty")
    assert "experiments.data prepare mnist" in str(caught.value)
    with pytest.raises(DataError, match=r"^\S*tiny\.yaml is a file; give a folder"):
        plan(load_experiment(config), config)
    config.write_text(f"{TINY}execution: {{device: tpu}}\n")
    with pytest.raises(ConfigError, match=r"tiny\.yaml:12: execution\.device: JAX finds no tpu here"):
        plan(load_experiment(config))


def test_baselines_may_come_from_another_kind_of_device(tmp_path: Path) -> None:
    here, there = planned(tmp_path / "a"), planned(tmp_path / "a", "execution.threads=2")
    elsewhere = planned(tmp_path / "a", "trained_on={device: cpu, threads: 2}")
    assert {trial.baseline.id for trial in elsewhere} == {trial.baseline.id for trial in there}
    assert not {trial.id for trial in elsewhere} & {trial.id for trial in (*here, *there)}
    assert elsewhere[0].runs_on == here[0].runs_on != there[0].runs_on
    told = elsewhere[0].labels()["settings"]
    assert (told["execution"]["threads"], told["trained_on"]["threads"]) == (1, 2)
    store = Store(tmp_path / "work")
    with pytest.raises(ConfigError, match=r"is missing\. `trained_on` says that it comes from a sweep on cpu with 2"):
        prepare(elsewhere, store)
    for trial in elsewhere:
        (store.root / "baselines" / trial.baseline.id).mkdir(exist_ok=True)
    assert prepare(elsewhere, store) == list(elsewhere)
    with pytest.raises(ConfigError, match=r"tiny\.yaml.*: trained_on\.device: say which kind of device"):
        planned(tmp_path / "a", "trained_on={threads: 2}")
