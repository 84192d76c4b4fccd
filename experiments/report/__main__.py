"""`python -m experiments.report DIR [DIR ...] [--out DIR]`: writes the report of a sweep and prints its table."""

import argparse
import sys
from pathlib import Path

from experiments.report import show, write_report
from quantree.errors import DataError


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 if there was anything to report, failed trials included, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=write_report.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "folders", metavar="DIR", nargs="+", type=Path, help="work folder of a sweep; several are joined"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="where to write; the first work folder if not given")
    chosen = parser.parse_args(arguments)
    try:
        summary = write_report(chosen.folders, chosen.out)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(summary)
    names = "results.csv, results.parquet, summary.csv, pareto.png and report.html"
    print(f"wrote {names} in {chosen.out or chosen.folders[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
