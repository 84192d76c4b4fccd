"""How far a long job has come: a bar on a terminal, now and then a plain line elsewhere, nothing for short jobs.

Everything goes to standard error. The environment variable `QUANTREE_PROGRESS` (bar | lines | off) overrides what is
found out about standard error; a sweep sets it to `off` for its workers, whose bars would fight for one terminal.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

VARIABLE = "QUANTREE_PROGRESS"
PATIENCE = 2.0  # seconds before a bar is drawn: shorter jobs leave no trace
PAUSE = 10.0  # seconds between two plain lines


class Tracker:
    """Counts the finished steps of one job. This base class shows nothing."""

    def __init__(self, label: str, total: int | None) -> None:
        self.label, self.total = label, total
        self.done, self.note = 0, ""
        self.started = time.monotonic()

    def advance(self, n: int = 1, note: str = "") -> None:
        """Adds `n` finished steps; `note` is a few words on the latest one, such as its loss."""
        self.done, self.note = self.done + n, note or self.note
        self.show()

    def show(self) -> None:
        """Shows where the job stands, if it is time to."""

    def close(self) -> None:
        """Ends the job, finished or not."""

    @property
    def seconds(self) -> float:
        """Time since the job began."""
        return time.monotonic() - self.started


class _Lines(Tracker):
    def __init__(self, label: str, total: int | None) -> None:
        super().__init__(label, total)
        self.told, self.told_done = self.started, 0

    def show(self) -> None:
        if time.monotonic() - self.told >= PAUSE:
            self._tell()

    def close(self) -> None:
        if self.told > self.started and self.done > self.told_done:
            self._tell()

    def _tell(self) -> None:
        self.told, self.told_done = time.monotonic(), self.done
        count = f"{self.done}/{self.total}" if self.total is not None else f"{self.done}"
        note = f", {self.note}" if self.note else ""
        print(f"{self.label}: {count}{note} ({self.seconds:.0f} s)", file=sys.stderr, flush=True)


class _Bar(Tracker):
    # Jobs nest (a sweep trains a baseline), and a terminal has room for one display: all bars share it.
    display: Progress | None = None

    def __init__(self, label: str, total: int | None) -> None:
        super().__init__(label, total)
        self.row: TaskID | None = None

    def show(self) -> None:
        if self.row is None:
            if self.seconds < PATIENCE:
                return
            if _Bar.display is None:
                _Bar.display = _new_display()
                _Bar.display.start()
            self.row = _Bar.display.add_task(self.label, total=self.total, note="")
        assert _Bar.display is not None
        _Bar.display.update(self.row, completed=self.done, note=self.note)

    def close(self) -> None:
        if self.row is None or _Bar.display is None:
            return
        _Bar.display.remove_task(self.row)
        if not _Bar.display.tasks:
            _Bar.display.stop()
            _Bar.display = None


def _new_display() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        transient=True,
    )


@contextlib.contextmanager
def track(label: str, total: int | None = None) -> Iterator[Tracker]:
    """Follows a job of `total` steps (None: unknown).

    Inside `with track("train", epochs) as job`, each step ends with `job.advance(note="loss 0.12")`.
    Raises `ValueError` if the environment asks for a kind of display that does not exist.
    """
    kinds = {"bar": _Bar, "lines": _Lines, "off": Tracker}
    wanted = os.environ.get(VARIABLE) or ("bar" if sys.stderr.isatty() else "lines")
    if wanted not in kinds:
        raise ValueError(f"{VARIABLE}={wanted}: known are {', '.join(kinds)}")
    tracker = kinds[wanted](label, total)
    try:
        yield tracker
    finally:
        tracker.close()
