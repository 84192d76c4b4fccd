"""Worker processes and whoever looks after them.

Workers find their work in the sweep's folder by themselves, through locks; here they are only started, counted, and
started again when they die.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from experiments.store import Busy, Store, write_json
from experiments.sweep import Order, spread
from experiments.trial import Trial, failed_row
from quantree.errors import QuantreeError
from quantree.progress import VARIABLE, Tracker, track

_ROOT = str(Path(__file__).parent.parent)
ATTEMPTS = 2  # a trial on which so many workers died is a failed one
TICK = 0.5  # seconds between two looks at what is done


class CrewError(QuantreeError):
    """The workers can't work at all."""


class _Worker:
    """A process that runs `experiments.sweep`, and the trial that it is at."""

    def __init__(self, number: int, order: str, environment: dict[str, str], logs: Path) -> None:
        self.number, self.log = number, logs / f"worker-{number}.txt"
        self.trial: str | None = None
        self.began = False
        self.rest = b""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "experiments.sweep"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )
        with contextlib.suppress(BrokenPipeError):  # it has died already, which is noticed like any other death
            _pipe(self.process.stdin).write(f"{order}\n".encode())
            _pipe(self.process.stdin).flush()

    @property
    def reports(self) -> IO[bytes]:
        """Its standard output."""
        return _pipe(self.process.stdout)

    def hear(self) -> bool:
        """Reads what it has to say; False if it has ended."""
        heard = os.read(self.reports.fileno(), 1 << 16)
        *lines, self.rest = (self.rest + heard).split(b"\n")
        for line in lines:
            report = json.loads(line)
            self.began = True
            self.trial = report["trial"] if report["event"] == "begin" else None
        return bool(heard)

    def end(self) -> int:
        """Waits for the end; the exit status, negative for a signal."""
        status = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                _pipe(pipe).close()
        return status


class Crew:
    """Runs trials in worker processes until each has a result."""

    def __init__(self, trials: Sequence[Trial], store: Store, data_dir: Path | None, workers: int) -> None:
        self.trials = {trial.id: trial for trial in trials}
        self.store, self.size = store, workers
        data = None if data_dir is None else str(data_dir)
        self.order = Order(workdir=str(store.root), data_dir=data, trials=tuple(trials))
        self.environment = {
            **os.environ,
            **trials[0].runs_on.environment(),
            VARIABLE: "off",  # one display is enough
            "PYTHONPATH": os.pathsep.join(path for path in (_ROOT, *sys.path) if path),  # the code that runs here
        }
        self.deaths: Counter[str] = Counter()
        self.stillborn = 0
        self.selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Returns when every trial has a result. `CrewError` if workers keep dying before they have begun anything."""
        workers = [self._hire(number) for number in range(self.size)]
        try:
            with track(next(iter(self.trials.values())).experiment, len(self.trials)) as progress:
                while workers:
                    for key, _ in self.selector.select(TICK):
                        worker: _Worker = key.data
                        if not worker.hear():
                            self.selector.unregister(worker.reports)
                            workers.remove(worker)
                            if self._ended(worker):
                                workers.append(self._hire(worker.number))
                    self._show(progress, workers)
        finally:
            # Whatever the reason: nothing is lost by an abrupt end, and nobody is left behind.
            for worker in workers:
                worker.process.kill()
                worker.end()
            self.selector.close()

    def _hire(self, number: int) -> _Worker:
        order = self.order.model_copy(update={"trials": spread(self.order.trials, number, self.size)}).model_dump_json()
        worker = _Worker(number, order, self.environment, self.store.root / "logs")
        self.selector.register(worker.reports, selectors.EVENT_READ, worker)
        return worker

    def _ended(self, worker: _Worker) -> bool:
        """Takes note of a worker's end; True if another one must take its place."""
        status = worker.end()
        if status == 0:
            return False
        if not worker.began:
            self.stillborn += 1
            if self.stillborn > self.size:
                tail = "\n".join(worker.log.read_text(errors="replace").splitlines()[-15:])
                raise CrewError(f"workers {_cause(status)} before their first trial; the end of {worker.log}:\n{tail}")
        if worker.trial is not None:
            self.deaths[worker.trial] += 1
            if self.deaths[worker.trial] >= ATTEMPTS:
                self._give_up(self.trials[worker.trial], f"worker {_cause(status)}")
        return True

    def _give_up(self, trial: Trial, error: str) -> None:
        def make(work: Path) -> None:
            (work / "error.txt").write_text(f"{error}, {ATTEMPTS} times; see logs/\n")
            write_json(work / "config.json", trial.model_dump(mode="json"))
            write_json(work / "result.json", failed_row(trial, error))

        with contextlib.suppress(Busy):  # another worker tries it right now, and its end will tell
            self.store.once("trials", trial.id, make)

    def _show(self, progress: Tracker, workers: Sequence[_Worker]) -> None:
        done = sum(self.store.trial(name).is_dir() for name in self.trials)
        now = ", ".join(
            f"{self.trials[worker.trial].method} (seed {self.trials[worker.trial].baseline.seed})"
            for worker in workers
            if worker.trial is not None
        )
        progress.advance(done - progress.done, note(done, len(self.trials), progress.seconds, now))


def note(done: int, total: int, seconds: float, now: str) -> str:
    """Beside the count: how long the rest takes, as soon as more than one trial tells, and what runs now."""
    if done == total:
        return "done"
    return f"about {seconds / done * (total - done):.0f} s left; {now}" if done > 1 else now


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _cause(status: int) -> str:
    return f"died with signal {-status}" if status < 0 else f"ended with status {status}"
