"""What a paper would call a method."""

from typing import Any

import pytest

from experiments.papers.ours import kinds, method_name
from experiments.report.rows import Trial

PRUNE = {"kind": "prune", "density": 0.1}
GRADUAL = {"kind": "finetune", "epochs": 1, "gradual": {"stage": PRUNE}}


def trial(*stages: Any, **settings: Any) -> Trial:
    told = {"stages": list(stages)} if stages else settings
    made = {"trial": "t", "experiment": "e", "dataset": "davis", "model": "m", "method": "as in the config", "seed": 0}
    return Trial.model_validate({**made, "settings": told, "status": "failed"})


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
    assert method_name(trial(*stages)) == name


@pytest.mark.parametrize(
    ("stages", "found"),
    [
        ([{"kind": "product", "k": 4, "d": 2}], {"product", "quantize", "sub_vectors", "kmeans", "tensor"}),
        ([GRADUAL], {"finetune", "prune"}),
        ([{"kind": "not here"}, {"kind": "product", "k": 4, "d": 2}], {"not here", "sub_vectors"}),
        ([], set()),
    ],
)
def test_kinds_are_those_inside_of_stages_and_behind_presets_too(stages: list[Any], found: set[str]) -> None:
    assert kinds(trial(*stages)) >= found
    assert "sub_vectors" not in kinds(trial({"kind": "kmeans", "k": 4}))
