"""Where an interrupted training goes on from."""

import shutil
import time
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as orbax

_PREFIX = "epoch-"


class Checkpoints:
    """Keeps the newest state of one training in a folder; with no folder, keeps nothing.

    A state is a pytree of arrays plus plain JSON data. Orbax writes it under another name and renames it when it is
    whole, so a killed process never leaves a half-written one that looks finished.
    """

    def __init__(self, folder: Path | None, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.saved = time.monotonic()

    def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """(epochs done, arrays in the structure of `like`, plain data) of the newest state, or None."""
        done = self._epochs()
        if self.folder is None or not done:
            return None
        # Orbax knows lists and dicts; the structure itself comes from `like`.
        leaves, structure = jax.tree.flatten(like)
        place = str(self.folder.resolve() / f"{_PREFIX}{done[-1]}")
        parts = orbax.load_checkpointables(place, {"arrays": dict(_numbered(leaves)), "notes": None})
        arrays = [parts["arrays"][key] for key, _ in _numbered(leaves)]
        return done[-1], jax.tree.unflatten(structure, arrays), parts["notes"]

    def save(self, epoch: int, arrays: Any, notes: dict[str, Any]) -> None:
        """Writes the state after `epoch` epochs, unless the last one was written only moments ago."""
        if self.folder is None or time.monotonic() - self.saved < self.seconds:
            return
        old = self._epochs()
        place = str(self.folder.resolve() / f"{_PREFIX}{epoch}")
        orbax.save_checkpointables(place, {"arrays": dict(_numbered(jax.tree.leaves(arrays))), "notes": notes})
        for done in old:
            shutil.rmtree(self.folder / f"{_PREFIX}{done}", ignore_errors=True)
        self.saved = time.monotonic()

    def _epochs(self) -> list[int]:
        if self.folder is None or not self.folder.is_dir():
            return []
        names = [path.name.removeprefix(_PREFIX) for path in self.folder.glob(f"{_PREFIX}*")]
        return sorted(int(name) for name in names if name.isdecimal())


def _numbered(leaves: list[Any]) -> list[tuple[str, Any]]:
    return [(f"{i:05}", leaf) for i, leaf in enumerate(leaves)]
