"""The report as a table of text: coloured on a terminal, plain lines elsewhere."""

import math

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.report.summary import Panel, Setting, Spread, Summary, baselines, ledger_by_kind, rounded

PLAIN_WIDTH = 240  # columns of a pipe or a file: lines are not folded there
NOTE = (
    "mean ± standard deviation over seeds. front: no setting has both a better test metric and a better ratio. "
    "chosen: per method, the largest ratio whose validation metric is not worse than the baseline's."
)
MOST_FAILED = 20  # failed trials that are told one by one


def show(summary: Summary, console: Console | None = None) -> None:
    """Prints a table per data set and model, then warnings, failed trials, and what was skipped."""
    console = console or Console()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    for panel, settings in summary.drawn.items():
        console.print(_table(panel, settings, plain=not console.is_terminal))
        console.print()
    if any(summary.drawn.values()):
        console.print(_text(NOTE, "dim"))
    for note in summary.notes:
        console.print(_text(f"note: {note}", "yellow"))
    for setting in summary.larger:
        console.print(_text(f"warning: {warn_larger(setting)}", "yellow"))
    for trial in summary.failed[:MOST_FAILED]:
        where = f"{trial.experiment}, {trial.dataset}, {trial.model}, {trial.method}, seed {trial.seed}"
        console.print(_text(f"failed: {trial.trial} ({where}): {_last_line(trial.error)}", "red"))
    more = len(summary.failed) - MOST_FAILED
    if more > 0:
        console.print(_text(f"failed: {more} more; report.html lists them all", "red"))
    for problem in summary.problems:
        console.print(_text(f"warning: {problem}", "yellow"))


def warn_larger(setting: Setting) -> str:
    """A ratio below 1 is told as it is, with what fills the file."""
    first = setting.first
    kinds = ", ".join(f"{kind} {rounded(size)}" for kind, size in ledger_by_kind(setting.done).items())
    name = f"{first.dataset}, {setting.model}, {first.method} {setting.label}".rstrip()
    ledger = f"; bytes by kind: {kinds}" if kinds else ""
    return f"{name}: ratio {rounded(setting.ratio.mean, 2)}: the file is larger than the uncompressed model{ledger}"


def _table(panel: Panel, settings: list[Setting], plain: bool) -> Table:
    known = ", ".join(panel.tell(value) for value in baselines(settings))
    title = f"{panel.dataset} · {panel.model} · baseline {panel.metric_name} {known}"
    table = Table(
        title=_text(title, "bold"), title_justify="left", box=None if plain else box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("method")
    table.add_column("setting", overflow="fold")
    for name in ("seeds", panel.metric_name, "validation", "ratio", "bytes"):
        table.add_column(_text(name), justify="right", no_wrap=True)
    table.add_column("marks", no_wrap=True)
    for setting in sorted(settings, key=lambda s: (s.first.method, s.ratio.mean)):
        marks = [name for name, on in (("front", setting.pareto), ("chosen", setting.chosen)) if on]
        cells = (
            setting.first.method,
            setting.label,
            f"{len(setting.done)}" + (f" ({len(setting.failed)} failed)" if setting.failed else ""),
            _spread(panel, setting.metric),
            _spread(panel, setting.validation_metric),
            rounded(setting.ratio.mean, 2),
            rounded(setting.file_bytes.mean),
            " ".join(marks),
        )
        table.add_row(*(_text(cell) for cell in cells), style="bold" if setting.chosen else None)
    return table


def _spread(panel: Panel, value: Spread) -> str:
    if math.isnan(value.std):
        return panel.tell(value.mean)
    return f"{panel.tell(value.mean).removesuffix(' %')} ± {panel.tell(value.std)}"


def _last_line(error: str | None) -> str:
    lines = (error or "").strip().splitlines() or ["no error was recorded"]
    return lines[-1]


def _text(words: str, style: str = "") -> Text:
    """Text as it is: no markup, and no escape sequences, which a setting or an error may hold and a terminal obeys."""
    return Text("".join(letter if letter.isprintable() else "?" for letter in words), style)
