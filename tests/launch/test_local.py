"""Sweeps in real processes: killed at any moment, with workers that die, interrupted, refused."""

import contextlib
import csv
import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.local import main

TINY = """\
name: tiny
data: {name: digits}
model: {kind: mlp, hidden: [8]}
baseline: {epochs: 3, learning_rate: 1e-2}
seeds: [0, 1]
recipes:
  kmeans:
    - {kind: kmeans, k: {grid: [4, 8]}}
  long:
    - {kind: prune, density: 0.5}
    - {kind: finetune, epochs: 2}
    - {kind: kmeans, k: {grid: [4, 8]}}
"""
PLUGIN = """
import os
import signal
from quantree import Stage, register

@register("tests-local-fails")
class Fails(Stage):
    def run(self, compressed, context):
        raise RuntimeError("this stage always fails")

@register("tests-local-dies")
class Dies(Stage):
    def run(self, compressed, context):
        os.kill(os.getpid(), signal.SIGKILL)
"""
LIMIT = 300  # seconds after which a sweep of this file hangs


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a sweep left behind: its rows but for the seconds, and the bytes of its files."""

    rows: list[dict[str, str]]
    files: dict[str, bytes]


def outcome(workdir: Path) -> Outcome:
    with (workdir / "results.csv").open() as file:
        rows = [{key: row[key] for key in row if not key.endswith("_seconds")} for row in csv.DictReader(file)]
    return Outcome(rows, {path.parent.name: path.read_bytes() for path in workdir.glob("trials/*/model.qtree")})


def start(config: Path, workdir: Path, *more: str, workers: int = 2) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "launch.local", str(config), "--workdir", str(workdir)]
    return subprocess.Popen(
        [*command, "--workers", str(workers), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


def finish(sweep: subprocess.Popen[str], status: int = 0) -> str:
    told, _ = sweep.communicate(timeout=LIMIT)
    assert sweep.returncode == status, told
    return told


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def await_end(pids: list[int]) -> None:
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() and "Z" not in _state(pid) for pid in pids):
        assert time.monotonic() < deadline, f"of {pids} some live on"
        time.sleep(0.05)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def disturb(sweep: subprocess.Popen[str], target: str) -> None:
    """Kills the whole group of processes, one worker, or only the parent, after which no worker may be left over."""
    workers = children(sweep.pid)
    if target == "worker" and workers:
        kill(random.choice(workers))
        return
    if target == "group":
        os.killpg(sweep.pid, signal.SIGKILL)
    else:
        kill(sweep.pid)
    sweep.wait()
    await_end(workers)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    (folder / "plugin.py").write_text(PLUGIN)
    path = folder / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def undisturbed(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    workdir = tmp_path_factory.mktemp("undisturbed") / "w"
    yield workdir, finish(start(config, workdir))


def test_a_sweep_ends_with_rows_files_a_table_and_a_report(undisturbed: tuple[Path, str]) -> None:
    workdir, told = undisturbed
    found = outcome(workdir)
    assert len(found.rows) == len(found.files) == 8
    assert {row["status"] for row in found.rows} == {"done"}
    assert "tiny: 8 trials" in told and "prune" not in told
    for name in ("results.csv", "pareto.png", "report.html"):
        assert str(workdir / name) in told and (workdir / name).stat().st_size
    assert len(list((workdir / "baselines").iterdir())) == 2
    assert len(list((workdir / "stages").iterdir())) == 2
    assert not list(workdir.glob("*/.*"))


def test_a_finished_sweep_has_nothing_to_do(undisturbed: tuple[Path, str], config: Path) -> None:
    workdir, _ = undisturbed
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("trials/*/*")}
    assert "8 of them done" in finish(start(config, workdir))
    assert {path: path.stat().st_mtime_ns for path in workdir.glob("trials/*/*")} == before


@pytest.mark.slow
def test_one_worker_gives_the_bytes_of_two(undisturbed: tuple[Path, str], config: Path, tmp_path: Path) -> None:
    finish(start(config, tmp_path, workers=1))
    assert outcome(tmp_path) == outcome(undisturbed[0])


def endure(undisturbed: tuple[Path, str], config: Path, workdir: Path, targets: list[str], span: float) -> None:
    """Disturbs a sweep once per target, each at a random moment, and starts it again until it is done."""
    sweep = start(config, workdir)
    for target in targets:
        began = time.monotonic()
        wait = random.uniform(0, span)
        while time.monotonic() - began < wait and sweep.poll() is None:
            time.sleep(0.02)
        if sweep.poll() is None:
            disturb(sweep, target)
        if sweep.poll() is not None:
            sweep.communicate()
            sweep = start(config, workdir)
    # A trial that lost two workers is a failed row, and the next start runs it again.
    told, _ = sweep.communicate(timeout=LIMIT)
    if sweep.returncode:
        told = finish(start(config, workdir))
    assert outcome(workdir) == outcome(undisturbed[0]), told
    assert not list(workdir.glob("*/.*"))


@pytest.mark.parametrize(
    "targets", [["group"], pytest.param(["group", "worker", "parent"], marks=pytest.mark.slow)], ids=len
)
def test_killed_it_still_gives_the_same(
    undisturbed: tuple[Path, str], config: Path, tmp_path: Path, targets: list[str]
) -> None:
    endure(undisturbed, config, tmp_path, targets, span=12)


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_still_gives_the_same(
    undisturbed: tuple[Path, str], config: Path, tmp_path: Path
) -> None:
    targets = [random.choice(["group", "group", "worker", "parent"]) for _ in range(20)]
    endure(undisturbed, config, tmp_path, targets, span=20)


def test_failing_trials_and_dying_workers_are_rows_and_the_exit_status(config: Path, tmp_path: Path) -> None:
    overrides = [
        "plugins=[plugin.py]",
        "seeds=[0]",
        "recipes={kmeans: [{kind: kmeans, k: 4}], raises: [tests-local-fails], kills: [tests-local-dies]}",
    ]
    told = finish(start(config, tmp_path, *overrides), status=1)
    assert "2 of 3 trials failed: raises (1), kills (1)" in told
    rows = {row["method"]: row for row in outcome(tmp_path).rows}
    assert {method: row["status"] for method, row in rows.items()} == {
        "kmeans": "done",
        "raises": "failed",
        "kills": "failed",
    }
    assert rows["raises"]["error"] == "RuntimeError: this stage always fails"
    assert rows["kills"]["error"] == "worker died with signal 9"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts its background jobs, perhaps this test run, with interrupts ignored, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_control_c_stops_everybody_and_tells_how_to_go_on(config: Path, tmp_path: Path) -> None:
    sweep = start(config, tmp_path)
    while len(workers := children(sweep.pid)) < 2:
        assert sweep.poll() is None
        time.sleep(0.05)
    os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does
    assert "the same command goes on from here" in finish(sweep, status=130)
    await_end(workers)


def test_what_is_wrong_with_the_command_is_told_before_anything_runs(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main([str(config), "--workdir", str(tmp_path / "file")]) == 2
    assert "is a file; give a folder" in capsys.readouterr().err
    command = [str(config), "--workdir", str(tmp_path / "w")]
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--workers", "x"])
    assert stopped.value.code == 2
    assert "--workers: expected a whole number, 1 or more, not 'x'" in capsys.readouterr().err
    assert main([*command, "baseline.epoch=3"]) == 2
    assert "unknown key 'epoch'; did you mean 'epochs'?" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
