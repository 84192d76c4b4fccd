import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.store import Busy, Store
from quantree.errors import DataError

HOLD = """
import sys, time
from pathlib import Path
from experiments.store import Store
with Store(Path(sys.argv[1])).lock("it"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path / "w")

    def fails(work: Path) -> None:
        (work / "half").touch()
        raise RuntimeError

    def whole(work: Path) -> None:
        assert (work / "half").is_file(), "what was left behind is there to go on from"
        assert not store.trial("t").exists()
        (work / "result.json").write_text("{}")

    with pytest.raises(RuntimeError):
        store.once("trials", "t", fails)
    assert not store.trial("t").exists() and store.result("t") is None
    assert store.once("trials", "t", whole) == store.trial("t")
    assert store.result("t") == {}
    store.once("trials", "t", fails)  # made once
    store.discard("t")
    assert not list((store.root / "trials").iterdir())


def test_a_lock_is_busy_until_its_process_dies_however_it_dies(tmp_path: Path) -> None:
    store = Store(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(Busy), store.lock("it"):
            pass
        with store.lock("other"):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                with store.lock("it"):
                    return
            except Busy:
                time.sleep(0.01)
    raise AssertionError("the lock of a dead process was still held")


def test_a_work_folder_is_refused_if_it_is_clearly_something_else(tmp_path: Path) -> None:
    file, home = tmp_path / "file", tmp_path / "home"
    file.write_text("precious")
    home.mkdir()
    (home / "thesis.tex").touch()
    with pytest.raises(DataError, match=r"--workdir .*file: is a file"):
        Store(file)
    with pytest.raises(DataError, match=r"neither empty nor the work folder of a sweep"):
        Store(home)
    assert file.read_text() == "precious" and [path.name for path in home.iterdir()] == ["thesis.tex"]
    Store(tmp_path / "new" / "deep")
    Store(tmp_path / "new" / "deep")
