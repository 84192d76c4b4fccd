import csv
import json

import pyarrow.csv
import pyarrow.parquet
import pytest

from experiments.report import write_report
from experiments.report.rows import SCHEMA


@pytest.fixture(scope="module")
def written(tmp_path_factory, demo, store):
    folder = store(tmp_path_factory.mktemp("sweep"), demo)
    return folder, write_report([folder])


def test_csv_holds_every_row_and_the_contracts_columns(written, demo):
    folder, _ = written
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = {row["trial"]: row for row in reader}
    assert reader.fieldnames == SCHEMA.names
    assert rows.keys() == {made["trial"] for made in demo}
    for made in demo:
        row = rows[made["trial"]]
        assert json.loads(row["settings"]) == made["settings"]
        for name in ("metric", "ratio", "file_bytes", "seed"):
            assert (float(row[name]) if row[name] else None) == made[name]
        assert row["error"] == (made["error"] or "")


def test_parquet_holds_the_same_with_types(written):
    folder, _ = written
    table = pyarrow.parquet.read_table(folder / "results.parquet")
    assert table.schema.equals(SCHEMA)
    options = pyarrow.csv.ConvertOptions(
        column_types=SCHEMA, strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""]
    )
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    assert pyarrow.csv.read_csv(folder / "results.csv", parse_options=parse, convert_options=options).equals(table)


def test_summary_has_a_row_per_setting(written):
    folder, summary = written
    with (folder / "summary.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(summary.settings) == 2 * 3 * 3 + 2
    for row, setting in zip(rows, summary.settings, strict=True):
        assert row["method"] == setting.first.method and row["settings"] == setting.first.settings_text
        assert (row["pareto"], row["chosen"]) == (str(setting.pareto).lower(), str(setting.chosen).lower())
        if setting.done:
            assert float(row["metric_mean"]) == setting.metric.mean
            assert row["seeds"] == str(len(setting.done))
        else:
            assert row["metric_mean"] == row["metric_std"] == ""
    assert "nan" not in (folder / "summary.csv").read_text().lower()


def test_a_report_is_the_same_bytes_again(written, tmp_path):
    folder, _ = written
    write_report([folder], tmp_path / "again")
    for name in ("results.csv", "results.parquet", "summary.csv", "pareto.png", "report.html"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == sorted(
        ["results.csv", "results.parquet", "summary.csv", "pareto.png", "report.html"]
    )
