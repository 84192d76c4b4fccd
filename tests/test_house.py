"""The rules that hold the project together, each as a test that lists what breaks it."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
ROOMS = ("framework", "experiments", "launch", "configs", "docs", "tests")
LIBRARY = ROOT / "framework" / "quantree"

# A module may import from lines above its own, and from its own room. `quantree/__init__.py` stands above all.
LIBRARY_ORDER = (
    {"errors", "progress"},
    {"schema"},
    {"registry"},
    {"task"},
    {"clustering", "coding"},
    {"ordering"},
    {"widths"},
    {"model"},
    {"linen"},
    {"encodings"},
    {"products"},
    {"storage", "checkpoints"},
    {"graph"},
    {"stage"},
    {"quantizers"},
    {"transforms"},
    {"recovery"},
    {"presets"},
    {"recipe"},
    {"conformance"},
    {"cli"},
)
# What the code of each top-level package may import of the others.
PACKAGES = {"quantree": {"quantree"}, "experiments": {"quantree", "experiments"}}
PACKAGES["launch"] = {"quantree", "experiments", "launch"}


def files(*suffixes: str) -> list[Path]:
    """Files of the house with one of these suffixes, and those that lie at the root."""
    inside = (path for room in ROOMS for path in (ROOT / room).rglob("*"))
    return sorted(path for path in (*inside, *ROOT.iterdir()) if path.suffix in suffixes and path.is_file())


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(`quantree.coding.ans`, where) for each import in a file, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            yield from ((alias.name, where) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{where}: a relative import; write it out"
            names = [alias.name for alias in node.names] if node.module == "quantree" else []
            yield from ((f"quantree.{name}", where) for name in names)
            if not names:
                yield f"{node.module}", where


def test_library_imports_go_down_only():
    level = {room: i for i, rooms in enumerate(LIBRARY_ORDER) for room in rooms}
    wrong = []
    for path in sorted(LIBRARY.rglob("*.py")):
        room = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
        if room in {"__init__", "__main__"}:
            continue
        assert room in level, f"{path.relative_to(ROOT)} is in no room of LIBRARY_ORDER"
        for name, where in imports(path):
            package, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if package == "quantree" and other != room and level.get(other, len(level)) >= level[room]:
                wrong.append(f"{where}: {room} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_stands_below_them(package):
    folder = LIBRARY if package == "quantree" else ROOT / package
    wrong = [
        f"{where}: {package} imports {name}"
        for path in sorted(folder.rglob("*.py"))
        for name, where in imports(path)
        if name.partition(".")[0] in PACKAGES.keys() - PACKAGES[package]
    ]
    assert wrong == []


def test_no_python_file_is_longer_than_500_lines():
    lengths = {path: len(path.read_text().splitlines()) for path in files(".py")}
    assert {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > 500} == {}


def test_no_file_is_a_drawer_for_everything():
    assert [path for path in files(".py") if path.stem in {"utils", "util", "helpers", "misc"}] == []


def test_every_folder_tells_what_it_is_for():
    folders = {path.parent for path in files(".py", ".yaml", ".md")}
    folders = {folder for folder in folders if folder.relative_to(ROOT).parts[:1] != ("tests",)} | {ROOT / "tests"}
    assert [str(folder.relative_to(ROOT)) for folder in sorted(folders) if not (folder / "README.md").is_file()] == []


def test_tests_mirror_the_tree():
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    assert [str(path) for path in sorted(folders) if not ((LIBRARY / path).is_dir() or (ROOT / path).is_dir())] == []


def test_nothing_names_a_place_on_one_machine():
    place = re.compile(r"(?<![\w.~])/(?:home|root|work|opt)/\w+")
    found = []
    for path in files(".py", ".md", ".yaml", ".toml", ".txt", ".html", ".js", ".css", ""):
        if path.name.startswith(".") or path.name == "LICENSE":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if place.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_constraints_pin_every_dependency_within_its_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    wanted = [requirement for requirement in map(Requirement, texts) if requirement.name != project["name"]]
    wrong = [
        f"{requirement}: pinned {pins.get(requirement.name.lower().replace('_', '-'))}"
        for requirement in wanted
        if pins.get(requirement.name.lower().replace("_", "-"), "none") not in requirement.specifier
    ]
    assert wrong == []
