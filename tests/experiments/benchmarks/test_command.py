"""The command line of a benchmark: exit status, table and files."""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmarks import command
from experiments.benchmarks.case import Case, Work

ROOT = Path(__file__).parent.parent.parent.parent


def cases(_: argparse.Namespace) -> list[Callable[[], Case]]:
    work = Work(flops=1.0, bytes=1.0)
    return [
        lambda: Case("good", "peer", lambda: 1.0, lambda: 1.0, work=work),
        lambda: Case("bad", "peer", lambda: 2.0, lambda: 1.0),
        lambda: Case("lonely", "nobody's", lambda: 1.0, None),
        lambda: Case("large", "", lambda: float(np.ones(8_000_000).sum()), None),
    ]


def run(*argv: str) -> int:
    return command.run("A benchmark.", cases, argv=["--smoke", "--rounds", "1", *argv])


def test_all_is_well(capsys):
    assert run("--only", "good*") == 0
    printed = capsys.readouterr().out
    assert "- jax: " in printed and "- processor: " in printed and "--only good*" in printed
    assert "| good | peer | " in printed and "| bad |" not in printed


def test_unequal_losses_are_said_and_fail(capsys):
    assert run() == 1
    printed = capsys.readouterr().out
    assert "not comparable)" in printed
    assert "bad: the loss is 2, that of peer 1" in printed


def test_pattern_fits_the_peer_too(capsys):
    assert run("--only", "*nobody's") == 0
    assert "| lonely | nobody's | not installed | " in capsys.readouterr().out


def test_pattern_that_fits_nothing_is_no_success(capsys):
    assert run("--only", "nothing") == 1
    assert "no case is named nothing" in capsys.readouterr().out


def test_rows_as_json(tmp_path):
    run("--only", "good*", "--out", str(tmp_path / "rows.json"))
    found = json.loads((tmp_path / "rows.json").read_text())
    (row,) = found["rows"]
    assert row["case"] == "good" and row["ratio"] == pytest.approx(row["peer_seconds"] / row["seconds"])
    assert row["roofline"] > 0 and found["date"] and found["command"]


def test_rows_as_csv(tmp_path):
    run("--out", str(tmp_path / "rows.csv"))
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["comparable"]) for row in rows][:2] == [("good", "True"), ("bad", "False")]


def test_rounds_below_one_are_refused(capsys):
    with pytest.raises(SystemExit):
        command.run("A benchmark.", cases, argv=["--rounds", "0"])
    assert "expected at least 1" in capsys.readouterr().err


def test_peak_of_a_case(capsys):
    assert run("--peak-of", "3") == 0
    assert 60_000_000 < int(capsys.readouterr().out) < 200_000_000


@pytest.mark.parametrize(("limit", "status"), [(1, 1), (10**12, 0)])
def test_limit_of_memory(limit, status, capsys, monkeypatch):
    monkeypatch.setattr(command, "_peak_in_fresh_process", lambda _: 1000)

    def limited(_: argparse.Namespace) -> list[Callable[[], Case]]:
        return [lambda: Case("a", "", lambda: 1.0, None, memory_limit=limit)]

    monkeypatch.setattr(command, "best_rates", lambda _: Work(1.0, 1.0))
    assert command.run("A benchmark.", limited, argv=["--rounds", "1"]) == status
    assert ("a: took 0 MB; the limit is" in capsys.readouterr().out) == bool(status)


@pytest.mark.slow
def test_a_whole_command(tmp_path):
    """One row of a true benchmark, with its memory from a process of its own."""
    out = tmp_path / "rows.json"
    options = ["--only", "assign n=65536*", "--rounds", "1", "--out", str(out)]
    subprocess.run([sys.executable, "-m", "experiments.benchmarks.clustering", *options], cwd=ROOT, check=True)
    (row,) = json.loads(out.read_text())["rows"]
    assert row["comparable"] and 4 * 65536 * 9 < row["peak_bytes"] < 1e9
