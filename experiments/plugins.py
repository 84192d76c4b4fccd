"""Files with plug-ins that a config names."""

import hashlib
import importlib.util
import sys
from pathlib import Path

from pydantic import Field

from quantree.errors import PluginError
from quantree.schema import Config

PREFIX = "quantree_plugin_"  # of the names under which plug-in files are imported; the start of their digest follows


class PluginFile(Config):
    """A Python file that registers plug-ins when it is imported. A trial's identity has its content, not its path."""

    path: str = Field(description="absolute path")
    sha256: str = Field(description="hex digest of the file's content")

    @classmethod
    def at(cls, path: Path) -> "PluginFile":
        """`PluginError` if the file can't be read."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise PluginError(f"can't read the plug-in file {path}: {error.strerror}") from None
        return cls(path=str(path.resolve()), sha256=hashlib.sha256(content).hexdigest())

    @property
    def module(self) -> str:
        """Name under which the file is imported: equal content is one module."""
        return PREFIX + self.sha256[:16]

    def load(self) -> None:
        """Imports the file, once. `PluginError` if that fails, or if the file has changed since it was first read."""
        if self.module in sys.modules:
            sys.modules[self.module] = sys.modules.pop(self.module)  # last: where two define a name, this file is meant
            return
        if PluginFile.at(Path(self.path)).sha256 != self.sha256:
            raise PluginError(f"the plug-in file {self.path} was changed while the sweep ran; start the sweep again")
        spec = importlib.util.spec_from_file_location(self.module, self.path)
        if spec is None or spec.loader is None:
            raise PluginError(f"the plug-in file {self.path} is no Python file: its name must end in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[self.module] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[self.module]
            reason = "it calls sys.exit" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
            raise PluginError(f"the plug-in file {self.path} fails: {reason}") from error
