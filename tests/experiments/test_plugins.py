import sys
from pathlib import Path

import pytest

from experiments.plugins import PluginFile
from quantree.errors import PluginError


def test_equal_content_is_one_module_wherever_it_lies(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("loaded = []\n")
    first, second = (PluginFile.at(tmp_path / name) for name in ("a.py", "b.py"))
    first.load()
    sys.modules[first.module].loaded.append(1)
    second.load()
    assert sys.modules[second.module].loaded == [1]


def test_a_file_that_was_changed_meanwhile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("before = 1\n")
    plugin = PluginFile.at(path)
    path.write_text("after = 1\n")
    with pytest.raises(PluginError, match="was changed while the sweep ran"):
        plugin.load()


def test_a_file_that_is_missing_or_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="can't read the plug-in file"):
        PluginFile.at(tmp_path / "none.py")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(PluginError, match=r"leaves\.py fails: it calls sys\.exit"):
        PluginFile.at(tmp_path / "leaves.py").load()
    (tmp_path / "bad.py").write_text("import not_a_module\n")
    plugin = PluginFile.at(tmp_path / "bad.py")
    for _ in range(2):  # a failed import leaves nothing behind that would look loaded
        with pytest.raises(PluginError, match="ModuleNotFoundError"):
            plugin.load()
