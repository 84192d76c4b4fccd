"""What a paper would call a method."""

from typing import Any

import pytest

from experiments.papers.ours import method_name
from experiments.report.rows import Trial

PRUNE = {"kind": "prune", "density": 0.1}
GRADUAL = {"kind": "finetune", "epochs": 1, "gradual": {"stage": PRUNE}}


def named(*stages: Any, **settings: Any) -> str:
    told = {"stages": list(stages)} if stages else settings
    made = {"trial": "t", "experiment": "e", "dataset": "davis", "model": "m", "method": "as in the config", "seed": 0}
    return method_name(Trial.model_validate({**made, "settings": told, "status": "failed"}))


@pytest.mark.parametrize(
    ("stages", "name"),
    [
        ([{"kind": "kmeans", "k": 4}], "CWS"),
        ([GRADUAL, {"kind": "kmeans", "k": 4, "grouping": "kind"}, {"kind": "finetune", "epochs": 1}], "Pr-uCWS"),
        ([PRUNE, {"kind": "quantize", "learner": {"kind": "probabilistic", "k": 4}}], "Pr-PWS"),
        ([{"kind": "uniform", "k": 4}, {"kind": "kmeans", "match": "*/bias", "k": 4}], "UQ"),
        ([{"kind": "quantize", "learner": {"kind": "lattice", "k": 4}, "grouping": "net"}], "uUQ"),
        ([{"kind": "quantize", "learner": {"kind": "ecsq", "bits": 2.0}}], "ECSQ"),
        ([PRUNE, {"kind": "cast"}], "Pr"),
        ([{"kind": "cast"}], "as in the config"),
        ([{"kind": "of a plug-in that is not here"}], "as in the config"),
        ([], "as in the config"),
    ],
)
def test_the_name_follows_from_the_stages(stages: list[Any], name: str) -> None:
    assert named(*stages) == name
