"""The Python in the documents is run: blocks of one document in order, in one namespace, in an empty folder."""

import re
from pathlib import Path

import pytest

from quantree import registry

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: Path) -> list[tuple[int, str]]:
    """(line before the code, code) of each block that is marked as Python."""
    text = document.read_text()
    return [(text[: found.start(1)].count("\n"), found[1]) for found in BLOCK.finditer(text)]


DOCUMENTS = [path for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))) if blocks(path)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_blocks_run(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    with registry.temporarily():
        for line, code in blocks(document):
            exec(compile("\n" * line + code, str(document), "exec"), namespace)
