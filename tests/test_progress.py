import pytest

from quantree import progress
from quantree.progress import track


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when told to."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_a_pipe_gets_plain_lines_at_intervals(capsys, clock):
    with track("train", 4) as job:
        for step in range(4):
            clock(6)
            job.advance(note=f"loss {step}")
    assert capsys.readouterr().err.splitlines() == [
        "train: 2/4, loss 1 (12 s)",
        "train: 4/4, loss 3 (24 s)",
    ]


def test_an_unfinished_job_tells_where_it_stopped(capsys, clock):
    with pytest.raises(KeyboardInterrupt), track("read") as job:
        clock(11)
        job.advance(3)
        clock(1)
        job.advance()
        raise KeyboardInterrupt
    assert capsys.readouterr().err.splitlines() == ["read: 3 (11 s)", "read: 4 (12 s)"]


@pytest.mark.parametrize("kind", ["bar", "lines"])
def test_a_short_job_says_nothing(capsys, monkeypatch, kind):
    monkeypatch.setenv(progress.VARIABLE, kind)
    with track("blink", 3) as job:
        job.advance(3)
    assert capsys.readouterr().err == ""


def test_off_says_nothing_even_for_long_jobs(capsys, monkeypatch, clock):
    monkeypatch.setenv(progress.VARIABLE, "off")
    with track("work", 2) as job:
        clock(100)
        job.advance()
    assert job.done == 1
    assert capsys.readouterr().err == ""


def test_nested_bars_share_one_display_that_goes_away(capsys, monkeypatch, clock):
    monkeypatch.setenv(progress.VARIABLE, "bar")
    monkeypatch.setenv("TERM", "xterm")
    with track("sweep", 2) as outer:
        clock(3)
        outer.advance()
        with track("train", 5) as inner:
            clock(3)
            inner.advance(note="loss 0.5")
            display = progress._Bar.display
            assert display is not None
            assert [(task.description, task.completed, task.total) for task in display.tasks] == [
                ("sweep", 1, 2),
                ("train", 1, 5),
            ]
            assert display.tasks[1].fields["note"] == "loss 0.5"
        assert [task.description for task in display.tasks] == ["sweep"]
    assert progress._Bar.display is None


def test_an_unknown_display_is_an_error_that_lists_the_known(monkeypatch):
    monkeypatch.setenv(progress.VARIABLE, "loud")
    with pytest.raises(ValueError, match="bar, lines, off"), track("x"):
        pass
