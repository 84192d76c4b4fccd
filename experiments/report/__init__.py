"""The report of a sweep: tables, picture and page, from the results that its trials left behind."""

from collections.abc import Iterable
from pathlib import Path

from experiments.report.chart import write_png
from experiments.report.page import write_html
from experiments.report.rows import read_trials
from experiments.report.summary import Summary, summarize
from experiments.report.tables import results_table, summary_table, write_csv, write_parquet
from experiments.report.terminal import show
from quantree.errors import DataError

__all__ = ["Summary", "show", "write_report"]


def write_report(folders: Iterable[str | Path], out: str | Path | None = None) -> Summary:
    """Joins the trials of sweeps' work folders and writes the report into `out` (default: the first folder).

    Writes results.csv, results.parquet, summary.csv, pareto.png and report.html. What is not a whole result is left out
    and named in the returned summary's `problems`. Raises `DataError` if there is not one result.
    """
    places = [Path(folder) for folder in folders]
    summary = summarize(read_trials(places))
    if not summary.trials:
        raise DataError("\n".join(["nothing to report: no trial has a result", *summary.problems]))
    target = Path(out) if out is not None else places[0]
    target.mkdir(parents=True, exist_ok=True)
    results = results_table(summary.trials)
    write_csv(results, target / "results.csv")
    write_parquet(results, target / "results.parquet")
    write_csv(summary_table(summary.settings), target / "summary.csv")
    write_png(summary, target / "pareto.png")
    write_html(summary, target / "report.html")
    return summary
