"""The Python in the documents is run: blocks of one document in order, in one namespace, in an empty folder."""

import re
import textwrap
from pathlib import Path

import pytest

import quantree  # noqa: F401 - registers what the README must name
from quantree import registry

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^( *)```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(document: Path) -> list[tuple[int, str]]:
    """(line before the code, code) of each block that is marked as Python."""
    text = document.read_text()
    return [(text[: found.start(2)].count("\n"), textwrap.dedent(found[2])) for found in BLOCK.finditer(text)]


DOCUMENTS = [path for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))) if blocks(path)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_blocks_run(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    with registry.temporarily():
        for line, code in blocks(document):
            exec(compile("\n" * line + code, str(document), "exec"), namespace)


@pytest.mark.parametrize("family", ["stage", "grouping", "blocking", "learner", "coder"])
def test_readme_names_every_method(family):
    text = (ROOT / "README.md").read_text()
    own = [name for name, plugin in registry.registered(family).items() if plugin.__module__.startswith("quantree.")]
    assert own
    assert [name for name in own if f"`{name}`" not in text] == []
