"""A sweep's work folder: results that appear at once and whole, and locks that die with their process.

    trials/<trial>/       model.qtree, result.json, ledger.json, config.json; of a failed trial error.txt, result.json
    baselines/<hash>/     a trained network
    stages/<hash>/        a model after the first stages of a recipe, which several trials share
    locks/ cache/ logs/   who works on what; compiled programs; what the workers said

Every result is built in a folder whose name begins with a dot and is then renamed, so that a folder under its own name
is complete, whenever and however the process that wrote it ended.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from quantree.errors import DataError


class Busy(Exception):
    """Another process is computing this right now."""


class Store:
    """The work folder at `root`. `DataError` if that is something else; it is made if there is nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        if root.exists() and not root.is_dir():
            raise DataError(f"--workdir {root}: is a file; give a folder for the results, new or of an earlier run")
        known = any((root / name).is_dir() for name in ("trials", "baselines"))  # these may be copied from elsewhere
        if root.is_dir() and any(root.iterdir()) and not known:
            raise DataError(f"--workdir {root}: is neither empty nor the work folder of a sweep (it has no trials/)")
        try:
            for name in ("trials", "baselines", "stages", "locks", "logs"):
                (root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"--workdir {root}: can't be written: {error.strerror}") from None

    def trial(self, name: str) -> Path:
        """Folder of a trial's results."""
        return self.root / "trials" / name

    def result(self, name: str) -> dict[str, Any] | None:
        """A trial's row as JSON, or None if it has not ended."""
        try:
            return json.loads((self.trial(name) / "result.json").read_text())
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Holds the lock called `name`; `Busy` at once if another process does. A lock dies with its process."""
        with (self.root / "locks" / name).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(name) from None
            yield

    def once(self, kind: str, name: str, make: Callable[[Path], None]) -> Path:
        """The folder `kind/name`; if there is none, `make(folder)` fills one that is then given this name.

        `make` may find there what a killed process left behind. `Busy` if another process is making it.
        """
        folder = self.root / kind / name
        if not folder.is_dir():
            with self.lock(f"{kind}-{name}"):
                if not folder.is_dir():
                    work = hidden(folder)
                    work.mkdir(exist_ok=True)
                    make(work)
                    work.rename(folder)
        return folder

    def discard(self, name: str) -> None:
        """Takes a trial's results away, at once."""
        doomed = hidden(self.trial(name))
        shutil.rmtree(doomed, ignore_errors=True)
        self.trial(name).rename(doomed)
        shutil.rmtree(doomed)


def hidden(folder: Path) -> Path:
    """Where a folder is built before it gets its name."""
    return folder.with_name(f".{folder.name}")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON under another name first: `path` is the old file or the whole new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")
    part.replace(path)
