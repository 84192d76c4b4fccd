import json

import pytest

from experiments.report.rows import SCHEMA, Trial, read_trials

CONTRACT = (
    "trial, experiment, dataset, model, method, seed, settings, metric_name, metric_direction, validation_metric",
    "baseline_metric, metric, dense_bytes, file_bytes, ratio, paper_ratio, bits_per_weight, compress_seconds",
    "recover_seconds, encode_seconds, decode_seconds, status, error",
)


def test_the_columns_are_the_contract_in_its_order():
    columns = [word for line in CONTRACT for word in line.split(", ")]
    assert SCHEMA.names == columns
    assert list(Trial.model_fields)[: len(columns)] == columns


def test_the_order_of_rows_does_not_hang_on_names_or_folders(tmp_path, row, store):
    rows = [row(method, k, seed) for method in ("b", "a") for k in (4, 16) for seed in (1, 0)]
    one = read_trials([store(tmp_path / "one", rows)])
    other = read_trials([store(tmp_path / "x", rows[5:]), store(tmp_path / "a", rows[:5])])
    assert one == other and one.problems == ()
    assert [(trial.method, trial.seed) for trial in one.trials[:2]] == [("a", 0), ("a", 1)]


def test_every_foreign_or_half_written_thing_is_named_and_the_rest_is_read(tmp_path, row, store):
    good = row()
    folder = store(tmp_path, [good])
    trials = folder / "trials"
    (trials / "notes.txt").write_text("mine")
    (trials / ".hidden").write_text("nobody's business")
    unfinished = {
        "empty": b"",
        "cut": json.dumps(row(seed=1)).encode()[:-40],
        "list": b"[]",
        "binary": b"\x00\xff\xfe",
        "surrogate": json.dumps(row(seed=2) | {"error": "x"}).replace('"x"', '"\\ud800"').encode(),
        "deep": b"[" * 100_000,
        "nan": json.dumps(row(seed=3, metric=float("nan"))).encode(),
        "huge": json.dumps(row(seed=4) | {"dense_bytes": 10**30}).encode(),
        "zero": json.dumps(row(seed=5) | {"ratio": 0.0}).encode(),
        "incomplete": json.dumps({key: value for key, value in row(seed=6).items() if key != "ratio"}).encode(),
    }
    for name, content in unfinished.items():
        (trials / name).mkdir()
        (trials / name / "result.json").write_bytes(content)
    (trials / "running").mkdir()
    (trials / "folder" / "result.json").mkdir(parents=True)
    reading = read_trials([folder, tmp_path / "nowhere"])
    assert [trial.trial for trial in reading.trials] == [good["trial"]]
    for name in (*unfinished, "notes.txt", "running", "folder", "nowhere"):
        assert sum(f"/{name}" in problem for problem in reading.problems) == 1, name
    assert len(reading.problems) == len(unfinished) + 4
    assert any("there is no ratio" in problem for problem in reading.problems)


def test_a_ledger_beside_the_result_is_used(tmp_path, row, store):
    made = row()
    ledger = made.pop("ledger")
    place = store(tmp_path, [made]) / "trials" / made["trial"]
    (place / "ledger.json").write_text(json.dumps(ledger))
    (trial,) = read_trials([tmp_path]).trials
    assert trial.ledger is not None and [line.kind for line in trial.ledger] == [
        "header",
        "codes",
        "codebooks",
        "coding tables",
    ]


@pytest.mark.parametrize("wrong", [[], [{"bytes": -1}], {}])
def test_a_row_survives_a_broken_ledger(tmp_path, row, store, wrong):
    made = row(ledger=None)
    place = store(tmp_path, [made]) / "trials" / made["trial"]
    (place / "ledger.json").write_text(json.dumps(wrong))
    reading = read_trials([tmp_path])
    assert len(reading.trials) == 1 and len(reading.problems) == 1


def test_sizes_that_disagree_are_told(tmp_path, row, store):
    made = row(file_bytes=4_000)
    made["ledger"][0]["bytes"] += 1
    place = store(tmp_path, [made]) / "trials" / made["trial"]
    (place / "model.qtree").write_bytes(b"x" * 3_999)
    ledger, file = read_trials([tmp_path]).problems
    assert "4001 bytes" in ledger and "4000" in ledger
    assert "3999 bytes" in file and "model.qtree" in file


def test_a_trial_found_twice_counts_once_and_a_difference_is_told(tmp_path, row, store):
    same = [store(tmp_path / name, [row()]) for name in ("a", "b")]
    assert len(read_trials(same).trials) == 1 and read_trials(same).problems == ()
    other = store(tmp_path / "c", [row(metric=0.5)])
    reading = read_trials([same[0], other])
    assert [trial.metric for trial in reading.trials] == [0.94]
    assert len(reading.problems) == 1 and "twice" in reading.problems[0]


def test_leftovers_of_an_earlier_version_are_pointed_out(tmp_path, row, store):
    folder = store(tmp_path, [row(), row() | {"trial": "older"}])
    (problem,) = read_trials([folder]).problems
    assert "older" in problem and "same settings and seed" in problem
