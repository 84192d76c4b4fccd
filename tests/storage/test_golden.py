"""Files written by earlier versions load for ever, and the reader printed in docs/file-format.md reads them too."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantree import storage
from quantree.model import flatten
from quantree.registry import registered
from tests.storage.golden import make

FOLDER = Path(__file__).parent / "golden"
DOCUMENT = Path(__file__).parents[2] / "docs" / "file-format.md"
FILES = sorted(FOLDER.glob("*.qtree"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def check(found: dict[str, Any], path: Path) -> None:
    with np.load(FOLDER / f"{path.name.split('.')[0]}.npz") as expected:
        assert sorted(found) == sorted(expected.files)
        for name in expected.files:
            array = np.asarray(found[name])
            assert array.dtype == ("bfloat16" if name == "a/brain" else expected[name].dtype)
            np.testing.assert_array_equal(array.astype(expected[name].dtype), expected[name], strict=True)


def test_there_are_golden_files() -> None:
    names = {f"{name}.{coder}.v1" for name, coder in make.FILES}
    old = {f"{name}.v1.old" for name in ("every_kind.ans", "every_kind.live", "pruned_net.ans")}
    assert {path.stem for path in FILES} >= names | old
    assert {coder for _, coder in make.FILES} == set(registered("coder"))


@each_file
def test_still_loads(path: Path) -> None:
    model = storage.load(path)
    check(flatten(model.decode()) | {f"state/{name}": array for name, array in model.state.items()}, path)


@pytest.mark.parametrize("path", [path for path in FILES if "old" not in path.name], ids=lambda path: path.stem)
def test_saving_again_gives_the_same_bytes(path: Path) -> None:
    assert storage.to_bytes(storage.load(path), path.name.split(".")[1]) == path.read_bytes()


@each_file
def test_printed_reader(path: Path) -> None:
    code = re.search(r"```python\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert code
    namespace: dict[str, Any] = {}
    exec(compile(code[1], str(DOCUMENT), "exec"), namespace)
    _, leaves, state = namespace["read_qtree"](path.read_bytes())
    check(leaves | {f"state/{name}": array for name, array in state.items()}, path)


def test_the_document_names_every_word() -> None:
    from quantree.storage.header import WORDS

    assert " ".join(WORDS) in " ".join(DOCUMENT.read_text().split())
