from pathlib import Path

import pytest

from experiments.config import load_experiment
from experiments.store import Store
from experiments.sweep import plan
from launch.crew import Crew, CrewError, note

TINY = """\
name: tiny
data: {name: digits}
model: mlp
baseline: {epochs: 1}
recipes: {kmeans: [{kind: kmeans, k: 4}]}
"""


def test_workers_that_can_not_start_are_not_started_for_ever(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    crew = Crew(plan(load_experiment(tmp_path / "tiny.yaml")), Store(tmp_path / "w"), None, 1)
    crew.environment["JAX_NUMPY_DTYPE_PROMOTION"] = "nonsense"
    with pytest.raises(CrewError, match=r"(?s)^workers ended with status 1 before their first trial.*nonsense"):
        crew.run()


def test_the_time_left_is_told_once_two_trials_tell_it_and_not_at_the_end() -> None:
    now = "product (seed 1)"
    assert note(0, 42, 5.0, now) == note(1, 42, 5.0, now) == now
    assert note(2, 42, 5.0, now) == f"about 100 s left; {now}"
    assert note(42, 42, 99.0, now) == "done"
