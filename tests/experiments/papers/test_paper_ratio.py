"""The column `paper_ratio`: a rule that a config names, applied to the trial's own file."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments.config import json_schema, load_experiment
from experiments.papers import PaperRule
from experiments.papers.accounting import Han2016, Marino2021
from experiments.report.rows import read_trials
from experiments.store import Store
from experiments.sweep import plan, prepare
from experiments.trial import Trial, paper_columns, renamed, run_trial
from quantree import storage
from quantree.encodings import Compressed
from quantree.errors import ConfigError, DataError

CONFIG = """\
name: tiny
data: {name: digits}
model: {kind: mlp, hidden: [8]}
baseline: {epochs: 1}
paper: {kind: marino2021, part: dense}
recipes:
  kmeans: [{kind: kmeans, k: 4}]
"""


def written(folder: Path, text: str = CONFIG) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


def planned(folder: Path, paper: PaperRule | None) -> Trial:
    [trial] = plan(load_experiment(written(folder)))
    return trial.model_copy(update={"paper": paper})


@pytest.mark.slow
def test_a_trial_counts_its_file(tmp_path: Path) -> None:
    rule, store = load_experiment(written(tmp_path)).points[0].experiment.paper, Store(tmp_path / "w")
    assert rule == Marino2021(part="dense")
    trial = planned(tmp_path, rule)
    run_trial(trial, store)
    row = store.result(trial.id)
    assert row is not None and row["status"] == "done"
    file = storage.load(store.trial(trial.id) / "model.qtree")
    assert row["paper_ratio"] == Marino2021(part="dense").count(file).ratio != row["ratio"]
    assert read_trials([store.root]).trials[0].row()["paper_ratio"] == row["paper_ratio"]
    assert json.loads((store.trial(trial.id) / "config.json").read_text())["paper"]["kind"] == "marino2021"


def test_a_finished_trial_is_counted_again_by_another_rule(tmp_path: Path, model: Callable[..., Compressed]) -> None:
    made = model({"fc/kernel": np.tile([1.0, 2.0, 3.0, 0.0], (50, 20))}, coded={"fc/kernel": "a"})
    storage.save(tmp_path / "model.qtree", made)
    first = planned(tmp_path, Marino2021())
    row = {**first.labels(), **paper_columns(first, made), "metric": 0.9}
    assert row["paper_ratio"] == Marino2021().count(made).ratio

    other = first.model_copy(update={"paper": Han2016(), "experiment": "other"})
    assert other.id == first.id
    again = renamed(other, row, tmp_path)
    assert again["paper_ratio"] == Han2016().count(made).ratio != row["paper_ratio"]
    assert (again["experiment"], again["metric"]) == ("other", 0.9)
    assert renamed(planned(tmp_path, None), again, tmp_path)["paper_ratio"] is None
    unknown = {name: value for name, value in row.items() if not name.startswith("paper")}  # of an earlier version
    assert renamed(other, unknown, tmp_path) == again
    (tmp_path / "model.qtree").unlink()
    assert renamed(other, again, tmp_path) == again, "there was nothing to count"
    with pytest.raises(DataError, match="can't be read"):
        renamed(first, again, tmp_path)


@pytest.mark.parametrize(
    ("paper", "reason"),
    [
        ("{kind: marino2021, part: conv}", "5: paper: marino2021: in part 'conv' the network has no kernel"),
        ("marino21", "5: paper: no paper_rule is called 'marino21'; did you mean 'marino2021'"),
        ("{kind: han2016, gap_bits: {grid: [4, 5]}}", "it changes no network"),
        ("{kind: han2016, gap_bits: 0}", "5: paper.gap_bits"),
    ],
)
def test_a_rule_that_can_not_count_is_told_before_anything_runs(tmp_path: Path, paper: str, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_experiment(written(tmp_path, CONFIG.replace("{kind: marino2021, part: dense}", paper)))
    assert reason in str(error.value)


def test_editors_learn_the_rules() -> None:
    definitions = json_schema()["$defs"]
    assert {"paper_rule:han2016", "paper_rule:marino2021", "paper_rule:marino2023"} < definitions.keys()


def test_a_sweep_counts_by_the_rule_of_its_config(tmp_path: Path, model: Callable[..., Compressed]) -> None:
    [trial] = plan(load_experiment(written(tmp_path)))
    assert trial.paper == Marino2021(part="dense")
    store, made = Store(tmp_path / "w"), model({"fc/kernel": np.tile([1.0, 2.0], (9, 9))}, coded={"fc/kernel": "a"})
    folder = store.trial(trial.id)
    folder.mkdir()
    storage.save(folder / "model.qtree", made)
    (folder / "result.json").write_text(json.dumps({**trial.labels(), "status": "done", "paper_ratio": None}))
    assert prepare([trial], store) == []
    assert (store.result(trial.id) or {})["paper_ratio"] == Marino2021(part="dense").count(made).ratio
