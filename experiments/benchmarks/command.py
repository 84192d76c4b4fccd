"""What every benchmark has on the command line, and what it prints: machine, date, command, a table in Markdown."""

import argparse
import csv
import dataclasses
import datetime
import fnmatch
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from experiments.benchmarks.case import ROUNDS, Case, Row, compare
from experiments.benchmarks.machine import best_rates, description, roofline
from experiments.benchmarks.memory import peak

ROOT = Path(__file__).parent.parent.parent
HEADINGS = (
    "case",
    "peer",
    "peer's time / ours",
    "ours, s",
    "compiling, s",
    "our loss / peer's",
    "peak, MB",
    "roofline",
)
NOTES = (
    "Times are medians of alternating runs; compiling is the first run less that. Peak memory is that of ours in a",
    "fresh process, compilation included, data apart. Roofline: the least time that this machine's best matrix product",
    "or copy allows for the whole job, over ours.",
)

Builders = Callable[[argparse.Namespace], Sequence[Callable[[], Case]]]


def run(
    about: str,
    builders: Builders,
    arguments: argparse.ArgumentParser | None = None,
    *,
    rounds: int = ROUNDS,
    argv: Sequence[str] | None = None,
) -> int:
    """Measures cases and prints them -> 1 if the two programs of some case can't be compared, or a limit is passed.

    builders: settings -> the cases, each as a function that makes it with its data, so that one is held at a time.
    arguments: further ones of this benchmark, as a parser made with `add_help=False`.
    rounds: alternating runs if the command line does not say.
    """
    argv = sys.argv[1:] if argv is None else argv
    settings = _parser(about, arguments, rounds).parse_args(argv)
    cases = builders(settings)
    if settings.peak_of is not None:
        print(peak(cases[settings.peak_of]().ours))
        return 0
    command = [sys.executable, "-m", _module(builders), *argv]
    facts = {
        **description(),
        "date": datetime.date.today().isoformat(),
        "command": f"python -m {' '.join(command[2:])}",
    }
    rates = best_rates(settings.smoke)
    facts["best rates"] = f"{rates.flops / 1e9:.0f} GFLOP/s (float32 product), {rates.bytes / 1e9:.1f} GB/s (copy)"
    print("\n".join(f"- {name}: {value}" for name, value in facts.items()), end="\n\n")
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}", flush=True)
    rows, faults = [], []
    for place, build in enumerate(cases):
        case = build()
        if not fnmatch.fnmatch(f"{case.name} {case.peer}", settings.only):
            continue
        jax.clear_caches()  # another case of the same shape must not hide what compiling takes
        row = compare(case, settings.rounds)
        if case.work is not None:
            row = dataclasses.replace(row, roofline=roofline(case.work, rates, row.seconds))
        if not settings.smoke:
            row = dataclasses.replace(row, peak_bytes=_peak_in_fresh_process([*command, f"--peak-of={place}"]))
        rows.append(row)
        faults += _faults(case, row)
        print(f"| {' | '.join(_cells(case, row))} |", flush=True)
        del case
    if not rows:
        faults.append(f"no case is named {settings.only}")
    print("", *NOTES, "", *faults, sep="\n")
    if settings.out is not None:
        write(settings.out, facts, rows)
    return 1 if faults else 0


def write(path: Path, facts: dict[str, str], rows: list[Row]) -> None:
    """Machine and rows as JSON, or the rows alone as CSV if the file is called so."""
    records = [{**dataclasses.asdict(row), "ratio": row.ratio} for row in rows]
    if path.suffix != ".csv":
        path.write_text(json.dumps({**facts, "rows": records}, indent=1) + "\n")
        return
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, [*(field.name for field in dataclasses.fields(Row)), "ratio"])
        table.writeheader()
        table.writerows(records)


def _parser(about: str, arguments: argparse.ArgumentParser | None, rounds: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about, parents=[] if arguments is None else [arguments])
    parser.add_argument("--only", metavar="PATTERN", default="*", help="cases whose name and peer fit: 'Lloyd*faiss'")
    parser.add_argument("--rounds", type=_count, default=rounds, help="alternating runs, after one of each")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: whether it runs, not how fast")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows too: .json or .csv")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)  # what the fresh process is told
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of rounds; expected at least 1")
    return int(text)


def _module(builders: Builders) -> str:
    if builders.__module__ != "__main__":
        return builders.__module__
    spec = sys.modules["__main__"].__spec__
    assert spec is not None, "start it as python -m experiments.benchmarks.NAME"
    return spec.name


def _peak_in_fresh_process(command: list[str]) -> int:
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return int(done.stdout.split()[-1])


def _cells(case: Case, row: Row) -> list[str]:
    ratio = "" if not case.peer else "not installed" if row.ratio is None else f"{row.ratio:.2f}"
    losses = (
        f"{row.loss:.6g} alone"
        if row.peer_loss is None
        else f"{row.loss / row.peer_loss:.4f}"
        if row.peer_loss
        else f"{row.loss}"
    )
    return [
        row.case,
        row.peer,
        ratio if row.comparable else f"({ratio}, not comparable)",
        f"{row.seconds:.4g}",
        f"{row.compile_seconds:.2f}",
        losses,
        "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}",
        "" if row.roofline is None else f"{row.roofline:.2f}",
    ]


def _faults(case: Case, row: Row) -> list[str]:
    faults = []
    if not row.comparable:
        faults.append(f"{row.case}: the loss is {row.loss:.6g}, that of {row.peer} {row.peer_loss:.6g}")
    if case.memory_limit is not None and row.peak_bytes is not None and row.peak_bytes > case.memory_limit:
        faults.append(f"{row.case}: took {row.peak_bytes / 1e6:.0f} MB; the limit is {case.memory_limit / 1e6:.0f} MB")
    return faults
