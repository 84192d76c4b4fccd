"""`python -m experiments.data prepare NAME --from RAW_DIR [--data-dir D]` and `python -m experiments.data list`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.data import prepared
from experiments.data.dataset import load, source_named
from experiments.data.source import Source
from quantree.errors import DataError, QuantreeError
from quantree.registry import registered


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.data", description="Prepares and lists data sets.")
    commands = parser.add_subparsers(dest="command", required=True)
    preparing = commands.add_parser("prepare", help="turn raw files into a prepared data set")
    preparing.add_argument("name", metavar="NAME", help="data set, as `list` shows it")
    preparing.add_argument("--from", dest="raw", metavar="RAW_DIR", type=Path, help="folder of the raw files")
    listing = commands.add_parser("list", help="show the known data sets and which are prepared")
    for command in (preparing, listing):
        where = "folder of all data sets (default: TFDS_DATA_DIR, else ~/tensorflow_datasets)"
        command.add_argument("--data-dir", metavar="D", help=where)
    given = parser.parse_args(arguments)
    try:
        if given.command == "list":
            show(prepared.data_root(given.data_dir))
        else:
            prepare(given.name, given.raw, prepared.data_root(given.data_dir))
    except QuantreeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def prepare(name: str, raw: Path | None, root: Path) -> None:
    """Prepares a data set and reads it back once, which also fills the cache. `DataError` tells what is wrong."""
    source = source_named(name)
    if prepared.is_prepared(source, root):
        print(f"{name} is prepared already; to prepare it anew, delete {prepared.folder_of(source, root)}")
        return
    if source.raw and raw is None:
        raise DataError(f"{name} is made from raw files: add --from RAW_DIR, a folder with {source.raw}")
    folder = prepared.write(source, raw, root)
    dataset = load(name, root)
    print(f"{name} {source.version}: {len(dataset.train[0])} train, {len(dataset.test[0])} test, in {folder}")


def show(root: Path) -> None:
    """Prints a line per data set: name, version, whether it is prepared, what it holds."""
    print(f"in {root}:")
    for name, source in sorted(registered(Source.family).items()):
        known = source()
        found = prepared.formats(prepared.folder_of(known, root))
        state = (
            f"prepared ({', '.join(sorted(found))})" if found else "not prepared" if known.raw else "made when needed"
        )
        sizes = ", ".join(f"{count} {split}" for split, count in known.sizes.items())
        print(f"  {name:<16}{known.version:<8}{state:<26}{known.title}; {sizes}")


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # `list | head` has seen enough; what is left in the buffer goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)
