"""A table that a terminal, a program or a document can take."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quantree.errors import QuantreeError

PLAIN_WIDTH = 240  # columns of a pipe or a file


@dataclass(frozen=True)
class Sheet:
    """columns: name -> format of its numbers, as in an f-string. rows: by column; None, NaN and what is absent are
    blank. notes: sentences below the table.
    """

    title: str
    columns: dict[str, str]
    rows: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()

    def cells(self, row: dict[str, Any]) -> list[str]:
        """A row as text, in the order of the columns."""
        return [_told(row.get(name), form) for name, form in self.columns.items()]

    def is_number(self, name: str) -> bool:
        """Whether a column stands to the right."""
        return all(not isinstance(row.get(name), str) for row in self.rows)


def _told(value: Any, form: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value if isinstance(value, str) else format(value, form)


def show(sheets: Sequence[Sheet], console: Console) -> None:
    """Prints the tables."""
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    for sheet in sheets:
        table = Table(
            title=Text(sheet.title, "bold"),
            title_justify="left",
            box=box.SIMPLE_HEAD if console.is_terminal else None,
            pad_edge=False,
        )
        for name in sheet.columns:
            table.add_column(Text(name), justify="right" if sheet.is_number(name) else "left", overflow="fold")
        for row in sheet.rows:
            table.add_row(*map(Text, sheet.cells(row)))
        console.print(table)
        for note in sheet.notes:
            console.print(Text(note, "dim"))
        console.print()


def markdown(sheets: Sequence[Sheet]) -> str:
    """The tables for a document."""
    parts = []
    for sheet in sheets:
        rule = ["---:" if sheet.is_number(name) else "---" for name in sheet.columns]
        rows = [list(sheet.columns), rule, *map(sheet.cells, sheet.rows)]
        lines = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
        parts.append("\n".join([f"**{sheet.title}**", "", *lines, *(f"\n{note}" for note in sheet.notes)]))
    return "\n\n".join(parts)


def as_json(sheets: Sequence[Sheet]) -> str:
    """The tables for a program: numbers as they are, null for what is blank."""

    def known(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(
        [
            {
                "title": sheet.title,
                "rows": [{name: known(row.get(name)) for name in sheet.columns} for row in sheet.rows],
                "notes": list(sheet.notes),
            }
            for sheet in sheets
        ],
        indent=1,
        ensure_ascii=False,
    )


Made = tuple[list[Sheet], tuple[str, ...]]
"""Tables, and what was wrong."""


class Flag(NamedTuple):
    """Tables that a flag prints in place of those about work folders."""

    about: str
    make: Callable[[], Made]


def command(
    name: str,
    about: str,
    make: Callable[[Sequence[Path]], Made],
    arguments: Sequence[str] | None,
    flags: Mapping[str, Flag] | None = None,
) -> int:
    """The command line of a paper: prints what `make(folders)` gives, or one of the `flags`; the exit status."""
    parser = argparse.ArgumentParser(prog=f"python -m experiments.papers.{name}", description=about)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folders", metavar="WORKDIR", nargs="*", type=Path, help="work folder of a sweep")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs")
    form.add_argument("--markdown", action="store_true", help="for documents")
    choice = parser.add_mutually_exclusive_group()
    for flag, each in (flags or {}).items():
        choice.add_argument(f"--{flag}", action="store_true", help=each.about)
    given = parser.parse_args(arguments)
    chosen = next((each for flag, each in (flags or {}).items() if getattr(given, flag)), None)
    if chosen is not None and given.folders:
        parser.error("these tables read no work folder; leave out WORKDIR")
    try:
        sheets, problems = make(given.folders) if chosen is None else chosen.make()
    except (QuantreeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(as_json(sheets))
    elif given.markdown:
        print(markdown(sheets))
    else:
        show(sheets, Console())
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    return 0
