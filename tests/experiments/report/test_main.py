import io
import re

from rich.console import Console

from experiments.report import show, write_report
from experiments.report.__main__ import main


def test_the_table_tells_means_marks_and_failures(tmp_path, capsys, demo, store):
    assert main([str(store(tmp_path, demo))]) == 0
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith("product") and "k=16" in line)
    assert re.split(r" {2,}", line.strip()) == [
        "product",
        "k=16",
        "2",
        "94.74 ± 0.07 %",
        "94.94 ± 0.07 %",
        "22.61",
        "1,769",
        "front",
    ]
    assert any(line.split()[0] == "kmeans" and line.endswith("chosen") for line in out.splitlines() if line)
    assert (
        sum(line.split()[:2] == ["method", "setting"] and line.split()[-1] == "marks" for line in out.splitlines()) == 2
    )
    assert "failed" in out and "LeafError: </script>" in out
    assert "\x1b" not in out
    assert "chosen" in out and "front" in out


def test_a_terminal_gets_no_escape_sequences_from_an_error(tmp_path, demo, store):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    show(write_report([store(tmp_path, demo)]), console)
    assert "?[31m" in console.file.getvalue().replace("\n", "")  # pyright: ignore[reportAttributeAccessIssue]


def test_a_file_larger_than_the_model_is_told_with_its_ledger(tmp_path, capsys, row, store):
    assert main([str(store(tmp_path, [row(file_bytes=50_000)]))]) == 0
    out = capsys.readouterr().out
    assert "ratio 0.80" in out and "codes 49,800, header 120, codebooks 50, coding tables 30" in out


def test_failed_trials_alone_are_a_report(tmp_path, capsys, failed, store):
    assert main([str(store(tmp_path, [failed()]))]) == 0
    assert "LeafError: a/kernel: NaN" in capsys.readouterr().out
    assert (tmp_path / "report.html").is_file() and (tmp_path / "results.csv").is_file()


def test_nothing_to_report_is_one_clear_error(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 1
    (tmp_path / "trials" / "half").mkdir(parents=True)
    assert main([str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "nowhere/trials: no such folder" in error and "half: no result.json" in error
    assert list(tmp_path.glob("*.*")) == []


def test_several_folders_are_joined_where_asked(tmp_path, capsys, row, store):
    folders = [store(tmp_path / name, [row(name)]) for name in ("one", "two")]
    assert main([*map(str, folders), "--out", str(tmp_path / "both")]) == 0
    assert (tmp_path / "both" / "results.csv").read_text().count("\n") == 3
    assert not (folders[0] / "results.csv").exists()
