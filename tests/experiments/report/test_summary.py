import json
import math
import random
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.report.rows import Reading, Trial
from experiments.report.summary import Summary, baselines, pareto, reach, rounded, summarize


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


def full(k: int = 4, hidden: tuple[int, ...] = (8,), epochs: int = 1, validation: float = 0.1) -> dict:
    """Settings as trials write them."""
    return {
        "stages": [{"kind": "finetune", "epochs": 1}, {"kind": "kmeans", "k": k}],
        "data": {"name": "digits", "validation": validation, "fingerprint": "0123"},
        "model": {"kind": "mlp", "hidden": list(hidden), "activation": "relu"},
        "baseline": {"epochs": epochs, "learning_rate": 0.01},
        "execution": {"device": "cpu", "threads": 1},
        "plugins": [],
    }


def test_other_data_and_baselines_are_not_other_seeds_and_are_told_where_they_differ(row):
    rows = [row(k=4, settings=full(4)), row(k=8, settings=full(8))]
    assert sorted(setting.label for setting in summary_of(rows).settings) == ["k=4", "k=8"]
    changes = {"baseline.epochs=2": partial(full, epochs=2), "data.validation=0.2": partial(full, validation=0.2)}
    for told, changed in changes.items():
        others = [row("other", settings=changed(k), baseline_metric=0.8, metric=0.7) for k in (4, 8)]
        summary = summary_of([*rows, *others, row(seed=1, settings=changed(4), baseline_metric=0.8)])
        assert len(summary.settings) == 5 and all(len(setting.done) == 1 for setting in summary.settings)
        assert {setting.label for setting in summary.settings if setting.first.method == "other"} == {
            f"k=4 {told}",
            f"k=8 {told}",
        }
        assert len(summary.drawn) == 1 and baselines(summary.settings) == [0.8, 0.95]


def test_networks_of_one_kind_with_other_settings_share_nothing(row):
    def network(hidden: tuple[int, ...], **given) -> list[dict]:
        return [row(k=k, settings=full(k, hidden), model="mlp", file_bytes=100 * k, **given) for k in (4, 8)]

    rows = [*network((64, 32)), *network((4,), metric=0.5, baseline_metric=0.6, validation_metric=0.97)]
    summary = summary_of(rows)
    assert {panel.model: baselines(settings) for panel, settings in summary.drawn.items()} == {
        "mlp hidden=[64,32]": [0.95],
        "mlp hidden=[4]": [0.6],
    }
    for settings in summary.drawn.values():
        assert sorted(setting.label for setting in settings) == ["k=4", "k=8"]
        assert [s.first.settings["stages"][1]["k"] for s in settings if s.chosen] == [4]  # pyright: ignore
        assert any(s.pareto for s in settings)
    assert {panel.model for panel in summary_of(network((4,))).drawn} == {"mlp"}
    elsewhere = network((64, 32), dataset="mnist")
    assert {panel.model for panel in summary_of([*network((4,)), *elsewhere]).drawn} == {"mlp"}


def test_rows_of_earlier_versions_stay_apart_from_complete_ones(row):
    old = row(settings={"stages": full()["stages"]}, model="mlp")
    assert [panel.model for panel in summary_of([old]).drawn] == ["mlp"]
    summary = summary_of([old, row(seed=1, settings=full(), model="mlp")])
    assert [panel.model for panel in summary.drawn] == ["mlp", "mlp (settings unknown)"]
    partly = [
        row(settings={"model.hidden": [h], "stages": full()["stages"]}, model="mlp", baseline_metric=b)
        for h, b in ((4, 0.9), (8, 0.8))
    ]
    assert [panel.model for panel in summary_of(partly).drawn] == ["mlp hidden=[4]", "mlp hidden=[8]"]


def test_nothing_is_chosen_for_an_imported_network_and_the_reader_is_told(row):
    rows = [row(validation_metric=0.99)]
    assert chosen_k(summary_of(rows)) == [16] and summary_of(rows).notes == ()
    rows[0]["settings"]["baseline"] = {"checkpoint": "0123456789abcdef"}
    assert chosen_k(summary_of(rows)) == []
    [note] = summary_of(rows).notes
    assert note.startswith("digits, small: the network was imported")


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(2.5, 0, "3"), (1234.5, 0, "1,235"), (1234.4, 0, "1,234"), (3.125, 2, "3.13"), (1.005, 2, "1.00"), (0.5, 0, "1")],
)
def test_numbers_are_rounded_as_javascript_does(value, digits, text):
    assert rounded(value, digits) == text


def test_a_few_ruined_settings_do_not_set_the_scale(row):
    fine = [row(k=k, metric=0.94) for k in (4, 8, 16)]
    assert reach(summary_of(fine).settings) is None
    assert reach(summary_of([*fine, row(k=2, metric=0.1)]).settings) == pytest.approx(0.095)
    assert reach(summary_of([row(k=k, metric=0.1) for k in (4, 8, 16)]).settings) is None


def test_files_larger_than_the_model_are_found(row):
    summary = summary_of([row(k=4), row(k=2, file_bytes=50_000)])
    assert [setting.label for setting in summary.larger] == ["k=2"]


def test_the_label_of_a_single_setting_does_not_repeat_the_kind(row):
    stages = [{"kind": "kmeans", "k": 9}]
    (setting,) = summary_of([row(settings={**row()["settings"], "stages": stages})]).settings
    assert setting.label == "k=9"
