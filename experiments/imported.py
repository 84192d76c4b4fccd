"""A network that comes trained: a checkpoint in place of a baseline's training."""

import hashlib
from pathlib import Path

from pydantic import Field

from quantree import checkpoints
from quantree.checkpoints import Layout
from quantree.errors import DataError, LeafError
from quantree.model import Model, flatten
from quantree.schema import Config
from quantree.widths import is_narrower


class Checkpoint(Config):
    """What a config says of it."""

    file: str = Field(description="safetensors file or Orbax directory; relative to the config file")
    layout: Layout | None = Field(default=None, description="whose names and axes it has; default: found out")
    state: tuple[str, ...] | None = Field(
        default=None, description="patterns over its names: what is stored but not trained; default: the layout's own"
    )


class Imported(Config):
    """A checkpoint that was found. A baseline's identity has its content, not its path."""

    path: str = Field(description="absolute path")
    sha256: str = Field(description="hex digest of the content")
    layout: Layout | None = Field(description="as in `Checkpoint`")
    state: tuple[str, ...] | None = Field(description="as in `Checkpoint`")

    @classmethod
    def at(cls, folder: Path, checkpoint: Checkpoint) -> "Imported":
        """Looks for the file, from `folder` on. `DataError` if it can't be read."""
        path = (folder / Path(checkpoint.file).expanduser()).resolve()
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        digest = hashlib.sha256()
        try:
            for file in files:
                digest.update(file.relative_to(path).as_posix().encode() + b"\0")
                digest.update(file.read_bytes())
        except OSError as error:
            raise DataError(f"can't read the checkpoint {error.filename}: {error.strerror}") from None
        return cls(path=str(path), sha256=digest.hexdigest(), layout=checkpoint.layout, state=checkpoint.state)

    def read(self) -> Model:
        """The arrays, without `apply`."""
        return checkpoints.read(Path(self.path), self.layout, self.state).model

    def into(self, fresh: Model) -> Model:
        """The network with the checkpoint's arrays. `LeafError` names the first leaf that does not fit."""
        return put_into(fresh, self.read(), self.path)


def put_into(fresh: Model, found: Model, source: str, narrower: bool = False) -> Model:
    """The network `fresh` with the arrays of `found`, which may have fewer channels only if it is `narrower`.

    `LeafError` names the source and a leaf that does not fit.
    """
    for what, wanted, given in (("trained", fresh.params, found.params), ("state", fresh.state, found.state)):
        new, old = flatten(given), flatten(wanted)
        for path, leaf in old.items():
            if path not in new:
                near = f"; it has {', '.join(sorted(new.keys() - old.keys())[:5]) or 'nothing else'}"
                raise LeafError(f"{source}: {path} ({what}) is not in it{near}")
            fits = is_narrower(new[path].shape, leaf.shape) if narrower else new[path].shape == leaf.shape
            if not fits or new[path].dtype != leaf.dtype:
                has, needs = (f"{each.dtype} {list(each.shape)}" for each in (new[path], leaf))
                raise LeafError(f"{source}: {path} is {has}, the network needs {needs}")
        left = sorted(new.keys() - old.keys())
        if left:
            raise LeafError(f"{source}: it has {left[0]} ({what}), the network does not")
    return Model(found.params, found.state, fresh.apply)
