"""One trial after another in this process: what they leave behind, and that it is always the same."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import trial as module
from experiments.config import load_experiment
from experiments.store import Busy, Store
from experiments.sweep import plan, prepare, work
from experiments.trial import Trial, run_trial
from quantree import storage

TINY = """\
name: tiny
data: {name: digits}
model: {kind: mlp, hidden: [8]}
baseline: {epochs: 3, learning_rate: 1e-2}
recipes:
  kmeans:
    - {kind: kmeans, k: 8}
  long:
    - {kind: prune, density: 0.5}
    - {kind: finetune, epochs: 1}
    - {kind: kmeans, k: {grid: [4, 8]}}
    - {kind: finetune, epochs: 1}
  failing:
    - {kind: kmeans, k: 8}
    - {kind: cast, match: nothing/*}
"""
AGAIN = """
import dataclasses, json, sys
from pathlib import Path
from quantree import storage
from quantree.recovery import evaluate
from quantree.schema import freeze
from experiments.baseline import obtain, on_test
from experiments.store import Store
from experiments.trial import Trial
folder = Path(sys.argv[1])
trial = Trial.model_validate(freeze(json.loads((folder / "config.json").read_text())))
trained = obtain(trial.baseline, Store(folder.parent.parent))
print(trial.id, evaluate(storage.load(folder / "model.qtree"), trained.model, on_test(trained.splits)).metric)
"""
TIMES = {"compress_seconds", "recover_seconds", "encode_seconds", "decode_seconds"}


def tiny(folder: Path) -> tuple[Trial, ...]:
    (folder / "tiny.yaml").write_text(TINY)
    return plan(load_experiment(folder / "tiny.yaml"))


def contents(store: Store) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in store.root.glob("trials/*/model.qtree")}


def rows(store: Store, trials: tuple[Trial, ...]) -> list[dict]:
    found = [store.result(trial.id) or {} for trial in trials]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in found]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, tuple[Trial, ...]]:
    folder = tmp_path_factory.mktemp("run")
    trials, store = tiny(folder), Store(folder / "w")
    work(trials, store)
    return store, trials


def test_a_trial_leaves_a_row_a_ledger_a_config_and_the_file_that_it_measured(
    run: tuple[Store, tuple[Trial, ...]],
) -> None:
    store, trials = run
    trial = next(trial for trial in trials if trial.method == "kmeans")
    row, folder = store.result(trial.id), store.trial(trial.id)
    assert row is not None and row["status"] == "done"
    size = (folder / "model.qtree").stat().st_size
    assert row["file_bytes"] == size == sum(line["bytes"] for line in json.loads((folder / "ledger.json").read_text()))
    weights = 64 * 8 + 8 + 8 * 10 + 10
    assert row["dense_bytes"] == 4 * weights
    assert row["ratio"] == 4 * weights / size and row["bits_per_weight"] == 8 * size / weights
    assert (row["trial"], row["dataset"], row["model"], row["seed"]) == (trial.id, "digits", "mlp", 0)
    assert row["settings"]["stages"] == [{"kind": "kmeans", "k": 8}]
    assert 0.3 < row["baseline_metric"] <= 1 and 0.2 < row["metric"] <= 1
    taken = {leaf["leaf"]: leaf["taken_by"] for leaf in row["leaves"]}
    assert taken == {"fc1/bias": None, "fc1/kernel": "quantize", "fc2/bias": None, "fc2/kernel": "quantize"}
    resolved = json.loads((folder / "config.json").read_text())
    assert resolved["version"] == 1 and resolved["baseline"]["training"]["batch_size"] == 128
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "ledger.json",
        "model.qtree",
        "result.json",
    ]


def test_a_failing_trial_is_a_row_with_its_error_and_the_others_go_on(run: tuple[Store, tuple[Trial, ...]]) -> None:
    store, trials = run
    states = {trial.method: (store.result(trial.id) or {})["status"] for trial in trials}
    assert states == {"kmeans": "done", "long": "done", "failing": "failed"}
    failing = next(trial for trial in trials if trial.method == "failing")
    row = store.result(failing.id)
    assert row is not None and row["error"].startswith("ConfigError: ") and "metric" not in row
    assert "Traceback" in (store.trial(failing.id) / "error.txt").read_text()
    assert not (store.trial(failing.id) / "model.qtree").exists()


def test_a_fresh_process_measures_the_same_on_the_file(run: tuple[Store, tuple[Trial, ...]]) -> None:
    store, trials = run
    trial = next(trial for trial in trials if trial.method == "long")
    told = subprocess.run(
        [sys.executable, "-c", AGAIN, str(store.trial(trial.id))],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ).stdout.split()
    assert told == [trial.id, str((store.result(trial.id) or {})["metric"])]


def test_a_second_run_gives_the_same_rows_and_bytes(run: tuple[Store, tuple[Trial, ...]], tmp_path: Path) -> None:
    store, trials = run
    other = Store(tmp_path)
    work(tuple(reversed(trials)), other)
    assert contents(other) == contents(store)
    assert rows(other, trials) == rows(store, trials)


def test_a_shared_beginning_is_computed_once_and_changes_nothing(
    run: tuple[Store, tuple[Trial, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, trials = run
    assert len(list((store.root / "stages").iterdir())) == 1
    shared = [trial for trial in trials if trial.method == "long"]
    alone = Store(tmp_path)
    shutil.copytree(store.root / "baselines", alone.root / "baselines", dirs_exist_ok=True)
    # With no stage that counts as training there is nothing to store on the way.
    monkeypatch.setattr(type(shared[0].stages[1]), "trains", False)
    work(shared, alone)
    assert not list((alone.root / "stages").iterdir())
    assert contents(alone) == {trial.id: contents(store)[trial.id] for trial in shared}


def test_what_another_process_is_at_is_busy_and_leaves_nothing(
    run: tuple[Store, tuple[Trial, ...]], tmp_path: Path
) -> None:
    trial, store = run[1][0], Store(tmp_path)
    with store.lock(f"baselines-{trial.baseline.id}"), pytest.raises(Busy):
        run_trial(trial, store)
    with store.lock(f"trials-{trial.id}"), pytest.raises(Busy):
        run_trial(trial, store)
    assert not store.trial(trial.id).exists()


def test_failed_trials_are_tried_again_done_ones_only_take_new_names(
    run: tuple[Store, tuple[Trial, ...]], tmp_path: Path
) -> None:
    shutil.copytree(run[0].root, tmp_path / "w")
    store, trials = Store(tmp_path / "w"), tuple(trial.model_copy(update={"experiment": "new"}) for trial in run[1])
    before = contents(store)
    waiting = prepare(trials, store)
    assert [trial.method for trial in waiting] == ["failing"]
    assert store.result(waiting[0].id) is None
    names = {(store.result(trial.id) or {"experiment": None})["experiment"] for trial in trials}
    assert names == {"new", None}
    assert contents(store) == before


def test_the_metric_is_that_of_the_file_and_not_of_what_was_saved(
    run: tuple[Store, tuple[Trial, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, trials = run
    first, second = (trial for trial in trials if trial.method == "long")
    other = Store(tmp_path)
    for kind in ("baselines", "stages"):
        shutil.copytree(store.root / kind, other.root / kind, dirs_exist_ok=True)
    # The wrong file on the disk must show in the row.
    swapped = storage.load(store.trial(second.id) / "model.qtree")
    save = storage.save
    monkeypatch.setattr(module.storage, "save", lambda path, compressed: save(path, swapped))
    run_trial(first, other)
    row = other.result(first.id)
    assert row is not None and row["metric"] == (store.result(second.id) or {})["metric"]
