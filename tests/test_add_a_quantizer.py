"""The quantizer of `docs/add-a-quantizer.md`, taken from the page as it stands, in each of the ways to use one."""

import csv
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest

import quantree as qt
from quantree import registry
from quantree.recipe import Recipe

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "add-a-quantizer.md").read_text()
RUN = """
import sys, jax, numpy as np, quantree as qt
weights = np.random.default_rng(0).normal(size=(40, 10)).astype(np.float32)
stages = [{"kind": "quantize", "learner": {"kind": "power", "magnitudes": 3}}]
recipe = qt.Recipe.from_config(stages)
qt.save(sys.argv[1], recipe.run(qt.from_params({"a": weights}), key=jax.random.key(0)))
"""
LOAD = """
import sys, numpy as np, quantree as qt
from quantree.registry import registered
found = np.unique(np.abs(qt.load(sys.argv[1]).decode()["a"]))
assert np.allclose(found / found[-1], [0, 1 / 4, 1 / 2, 1]), found
print("known" if "power" in registered("learner") else "unknown")
"""


def block(language: str) -> str:
    """The first block of the page in this language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def python(*arguments: str, also: Path | None = None, folder: Path | None = None) -> str:
    path = [*([str(also)] if also else []), str(ROOT / "framework"), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=folder, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_file_is_short() -> None:
    assert len(block("python").splitlines()) < 60


@pytest.mark.slow
def test_in_a_sweep_it_stands_beside_the_others(tmp_path: Path) -> None:
    (tmp_path / "power.py").write_text(block("python"))
    (tmp_path / "power.yaml").write_text(block("yaml"))
    workdir = tmp_path / "runs"
    told = python("-m", "launch.local", str(tmp_path / "power.yaml"), "--workdir", str(workdir), "--workers", "1")
    with (workdir / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows if row["status"] != "done"] == []
    assert sorted(row["method"] for row in rows) == ["kmeans", "power", "power", "pruned power"]
    accuracy = {row["method"]: float(row["metric"]) for row in rows}
    assert accuracy["power"] > 0.5, "four magnitudes on each side lose little"
    assert all(4 < float(row["ratio"]) < 32 for row in rows)
    assert "pruned power" in told
    assert "pruned power" in (workdir / "report.html").read_text()
    listed = python("-m", "experiments.methods", str(tmp_path / "power.py"))
    assert re.search(r"^power +Rounds to 0 and to \+-scale", listed, re.MULTILINE)
    assert re.search(r"^  magnitudes +required +levels on each side of zero", listed, re.MULTILINE)


def test_in_a_session_it_is_registered_and_run(tmp_path: Path) -> None:
    with registry.temporarily():
        exec(compile(block("python"), "power.py", "exec"), {"__name__": "power"})
        weights = np.random.default_rng(0).normal(size=(40, 10)).astype(np.float32)
        recipe = Recipe.from_config([{"kind": "quantize", "learner": {"kind": "power", "magnitudes": 4}}])
        compressed = recipe.run(qt.from_params({"a": weights}), key=jax.random.key(0))
        qt.save(tmp_path / "a.qtree", compressed)
        for check in qt.conformance.checks("learner"):
            qt.conformance.check("learner", "power", check)
    # Forgotten again; the file needs no plug-in.
    with pytest.raises(qt.ConfigError, match="no learner is called 'power'"):
        Recipe.from_config([{"kind": "quantize", "learner": {"kind": "power", "magnitudes": 4}}])
    found = np.asarray(qt.load(tmp_path / "a.qtree").decode()["a"])
    levels = np.unique(np.abs(found))
    assert np.allclose(levels / levels[-1], [0, 1 / 8, 1 / 4, 1 / 2, 1])
    # No scale is much better: an oracle that tries many.
    units = np.array([0, 1 / 8, 1 / 4, 1 / 2, 1])

    def error(scale: float) -> float:
        nearest = np.abs(np.abs(weights)[..., None] - scale * units).min(-1)
        return float(np.sum(nearest**2))

    best = min(error(scale) for scale in np.linspace(0.1, 1, 300) * np.abs(weights).max())
    assert float(np.sum((found - weights) ** 2)) <= 1.05 * best


@pytest.mark.slow
def test_installed_it_is_found_by_its_entry_point(tmp_path: Path) -> None:
    project = tomllib.loads(block("toml"))["project"]
    site, file = tmp_path / "site", tmp_path / "a.qtree"
    about = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir(parents=True)
    (site / "power.py").write_text(block("python"))
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    [(group, points)] = project["entry-points"].items()
    listed = "".join(f"{name} = {value}\n" for name, value in points.items())
    (about / "entry_points.txt").write_text(f"[{group}]\n{listed}")
    python("-c", RUN, str(file), also=site)
    assert python("-c", LOAD, str(file), also=site) == "known\n"
    assert python("-c", LOAD, str(file)) == "unknown\n", "a file loads where the plug-in is not installed"
    (tmp_path / "test_power.py").write_text(block("py"))
    quick = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-k", "settings or devices")
    assert "2 passed" in python(*quick, "test_power.py", also=site, folder=tmp_path)
