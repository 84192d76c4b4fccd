import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.report.rows import Reading, Trial
from experiments.report.summary import Summary, pareto, reach, summarize


def summary_of(rows: list[dict]) -> Summary:
    trials = [Trial.model_validate_json(json.dumps(row)) for row in rows]
    order = sorted(trials, key=lambda t: (t.experiment, t.dataset, t.model, t.method, t.settings_text, t.seed))
    return summarize(Reading(tuple(order), ()))


def chosen_k(summary: Summary) -> list:
    return [setting.first.settings["stages"][1]["k"] for setting in summary.settings if setting.chosen]  # pyright: ignore


def test_mean_and_spread_are_numpys(row):
    metrics, sizes = [0.91, 0.94, 0.90], [4_000, 4_100, 3_700]
    rows = [row(seed=seed, metric=m, file_bytes=b) for seed, (m, b) in enumerate(zip(metrics, sizes, strict=True))]
    (setting,) = summary_of(rows).settings
    for spread, values in (
        (setting.metric, metrics),
        (setting.file_bytes, sizes),
        (setting.ratio, [r["ratio"] for r in rows]),
    ):
        np.testing.assert_allclose((spread.mean, spread.std), (np.mean(values), np.std(values, ddof=1)), rtol=1e-12)


def test_one_seed_has_no_spread_and_failed_seeds_have_no_numbers(row, failed):
    one, none = summary_of([row(k=4), failed(k=4, seed=1), failed(k=8)]).settings
    assert one.metric.mean == 0.94 and math.isnan(one.metric.std) and len(one.failed) == 1
    assert math.isnan(none.metric.mean) and not none.done


coordinates = st.integers(0, 6).map(float)


@given(st.lists(st.tuples(coordinates, coordinates), max_size=30))
def test_front_is_what_nothing_dominates(points):
    def beaten(p):
        return any(q[0] >= p[0] and q[1] >= p[1] and q != p for q in points)

    assert pareto(points) == [not beaten(point) for point in points]


@pytest.mark.parametrize("direction", ["max", "min"])
def test_the_front_follows_the_direction_of_the_metric_and_stays_within_data_set_and_model(row, direction):
    given = {"metric_direction": direction, "metric_name": "loss"}
    rows = [
        row("a", 4, metric=0.9, file_bytes=1_000, **given),
        row("b", 4, metric=0.8, file_bytes=1_000, **given),
        row("c", 4, metric=0.1, file_bytes=5_000, model="other", **given),
    ]
    marks = {setting.first.method: setting.pareto for setting in summary_of(rows).settings}
    assert marks == {"a": direction == "max", "b": direction == "min", "c": True}


def sweep(row, validation: dict[int, float], **given) -> list[dict]:
    return [
        row(k=k, seed=seed, file_bytes=100 * k, validation_metric=v + 0.01 * seed, **given)
        for k, v in validation.items()
        for seed in (0, 1)
    ]


def test_chosen_is_the_largest_ratio_not_worse_than_the_baseline_on_validation(row):
    rows = sweep(row, {4: 0.95, 16: 0.955, 64: 0.97})  # the baseline's mean is 0.96; k=16 reaches it exactly
    assert chosen_k(summary_of(rows)) == [16]
    rows = sweep(row, {4: 0.95, 16: 0.95, 64: 0.951})
    assert chosen_k(summary_of(rows)) == []


def test_each_method_has_its_own_choice(row):
    rows = [*sweep(row, {4: 0.97, 16: 0.97}, method="a"), *sweep(row, {4: 0.9, 16: 0.97}, method="b")]
    assert chosen_k(summary_of(rows)) == [4, 16]


def test_where_less_is_better_the_choice_turns_around(row):
    given = {"metric_direction": "min", "metric_name": "loss", "baseline_validation_metric": 0.5}
    assert chosen_k(summary_of(sweep(row, {4: 0.6, 16: 0.4, 64: 0.3}, **given))) == [16]


@given(st.integers())
def test_nothing_is_chosen_on_the_test_set(row, seed):
    numbers = random.Random(seed)
    validation = {k: numbers.uniform(0.94, 0.98) for k in (4, 8, 16, 32)}
    rows = sweep(row, validation)
    before = chosen_k(summary_of(rows))
    shuffled = [made | {"metric": numbers.random(), "baseline_metric": numbers.random()} for made in rows]
    assert chosen_k(summary_of(shuffled)) == before


def test_without_a_baseline_on_validation_or_with_a_failed_seed_nothing_is_chosen(row, failed):
    assert chosen_k(summary_of(sweep(row, {4: 0.99}, baseline_validation_metric=None))) == []
    assert chosen_k(summary_of([*sweep(row, {4: 0.99}), failed(k=4, seed=2)])) == []


def test_labels_name_what_differs(row):
    labels = [setting.label for setting in summary_of([row(k=4), row(k=16)]).settings]
    assert sorted(labels) == ["k=16", "k=4"]
    alike = [row(settings={"a": {"k": a}, "b": {"k": 1 - a}}, k=a) for a in (0, 1)]
    assert [setting.label for setting in summary_of(alike).settings] == ["a.k=0 b.k=1", "a.k=1 b.k=0"]
    assert summary_of([row(settings={"k": 4})]).settings[0].label == "k=4"


def test_a_few_ruined_settings_do_not_set_the_scale(row):
    fine = [row(k=k, metric=0.94) for k in (4, 8, 16)]
    assert reach(summary_of(fine).settings) is None
    assert reach(summary_of([*fine, row(k=2, metric=0.1)]).settings) == pytest.approx(0.095)
    assert reach(summary_of([row(k=k, metric=0.1) for k in (4, 8, 16)]).settings) is None


def test_files_larger_than_the_model_are_found(row):
    summary = summary_of([row(k=4), row(k=2, file_bytes=50_000)])
    assert [setting.label for setting in summary.larger] == ["k=2"]
