import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error

from quantree.errors import DataError
from quantree.task import (
    Classification,
    Concordance,
    Data,
    Regression,
    Score,
    Task,
    batches,
    concordance_index,
    measure,
)

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(25, 4)).astype(np.float32)
LABELS = RNG.integers(0, 4, 25).astype(np.int32)


def data(n: int = 10, validation: int = 5) -> Data:
    inputs = np.arange(n, dtype=np.float32)[:, None]
    labels = np.arange(n, dtype=np.int32) % 3
    return Data.from_arrays((inputs, labels), (inputs[:validation], labels[:validation]), Classification())


@pytest.mark.parametrize("batch_size", [1, 10, 25, 100])
def test_a_score_does_not_depend_on_how_the_split_is_cut(batch_size: int) -> None:
    score = measure(lambda inputs: inputs, batches((LOGITS, LABELS), batch_size), Classification())
    shares = np.exp(LOGITS.astype(np.float64))
    shares /= shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(score.loss, log_loss(LABELS, shares, labels=range(4)), rtol=1e-5)
    assert score.metric == pytest.approx(accuracy_score(LABELS, LOGITS.argmax(axis=1)))
    assert isinstance(score, Score)


def test_an_epoch_is_fixed_by_seed_and_number_and_visits_each_example_at_most_once() -> None:
    def epoch(*place: int) -> list[float]:
        return [float(x) for inputs, _ in data().train(*place) for x in inputs[:, 0]]

    assert epoch(1, 0, 3) == epoch(1, 0, 3)
    assert len(epoch(1, 0, 3)) == 9 and len(set(epoch(1, 0, 3))) == 9
    assert sorted(epoch(1, 0, 5)) == list(range(10))
    assert len({tuple(epoch(seed, number, 10)) for seed in range(3) for number in range(3)}) == 9
    for inputs, labels in data().train(0, 0, 4):
        np.testing.assert_array_equal(inputs[:, 0].astype(int) % 3, labels)


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 10), (3, 3), (10, 1), (64, 1)])
def test_steps_are_the_batches_of_an_epoch_all_of_one_size(batch_size: int, steps: int) -> None:
    cut = list(data().train(0, 0, batch_size))
    assert data().steps(batch_size) == len(cut) == steps
    assert len({inputs.shape for inputs, _ in cut}) == 1


def test_validation_is_whole_and_in_order() -> None:
    assert [len(labels) for _, labels in data().validation(2)] == [2, 2, 1]
    assert np.concatenate([inputs[:, 0] for inputs, _ in data().validation(2)]).tolist() == [0, 1, 2, 3, 4]


def test_better_follows_the_direction() -> None:
    assert Classification().better(0.9, 0.8) and not Classification().better(0.8, 0.8)
    assert Classification(direction="min").better(0.1, 0.2) and not Classification(direction="min").better(0.2, 0.1)
    assert not Classification().better(float("nan"), 0.1)


def test_splits_that_are_empty_or_uneven_are_refused() -> None:
    with pytest.raises(DataError, match="training split has 0 inputs"):
        data(0, 0)
    with pytest.raises(DataError, match="validation split has 0 inputs"):
        data(3, 0)
    with pytest.raises(DataError, match="validation split has 25 inputs and 3 targets"):
        Data.from_arrays((LOGITS, LABELS), (LOGITS, LABELS[:3]), Classification())
    with pytest.raises(DataError, match="nothing to measure"):
        measure(lambda inputs: inputs, [], Classification())


def test_without_a_number_of_examples_an_epoch_is_counted() -> None:
    known = data()
    assert Data(known.train, known.validation, known.task).steps(3) == known.steps(3) == 3


FEW = st.sampled_from([-2.0, 0.0, 0.5, 1.0, 3.0])  # so few that ties are common
OUTPUTS = st.one_of(FEW, st.floats(-1e3, 1e3, width=32), st.sampled_from([-np.inf, np.inf]))
PREDICTED = st.lists(st.tuples(OUTPUTS, FEW), min_size=2, max_size=30)


@given(PREDICTED.filter(lambda pairs: len({y for _, y in pairs}) > 1))
def test_concordance_is_that_of_all_pairs(pairs: list[tuple[float, float]]) -> None:
    counted = [(f > g) + (f == g) / 2 for f, y in pairs for g, z in pairs if y > z]
    f, y = (np.array(each, np.float32) for each in zip(*pairs, strict=True))
    assert concordance_index(f, y) == pytest.approx(sum(counted) / len(counted), abs=1e-12)
    assert concordance_index(f[:, None], y) == concordance_index(f, y)


def test_concordance_needs_different_targets() -> None:
    with pytest.raises(DataError, match="two examples with different targets"):
        concordance_index(np.arange(3.0), np.ones(3))


@pytest.mark.parametrize("outputs", [[np.nan] * 4, [0.0, 1.0, np.nan, 3.0], [np.nan, np.inf, -np.inf, 0.0]])
def test_concordance_of_what_has_no_order_is_nan(outputs: list[float]) -> None:
    assert np.isnan(concordance_index(np.array(outputs), np.arange(4.0)))


def test_concordance_wants_one_output_for_each_example() -> None:
    with pytest.raises(DataError, match="one number for each of 5 examples, not 10"):
        concordance_index(np.ones((5, 2)), np.arange(5.0))


def test_concordance_of_many_examples_takes_no_matrix_of_pairs() -> None:
    y = RNG.normal(size=200_000)
    assert concordance_index(y + RNG.normal(size=y.size), y) == pytest.approx(0.75, abs=0.01)  # (1 + 2/pi asin r) / 2


@pytest.mark.parametrize(
    ("task", "name", "other"), [(Regression(), "mse", "concordance"), (Concordance(), "concordance", "mse")]
)
def test_regression_tells_both_of_its_metrics(task: Task, name: str, other: str) -> None:
    f, y = RNG.normal(size=(50, 1)).astype(np.float32), RNG.normal(size=50).astype(np.float32)
    score = measure(lambda inputs: inputs, batches((f, y), 7), task)
    wanted = {"mse": mean_squared_error(y, f[:, 0]), "concordance": concordance_index(f, y)}
    assert task.metric_name == name
    assert score.loss == pytest.approx(wanted["mse"], rel=1e-5)
    assert score.metric == pytest.approx(wanted[name]) and score.beside == pytest.approx({other: wanted[other]})
    assert task.better(1.0, 0.5) == (task.direction == "max") == (name == "concordance")


def test_what_is_no_target_of_a_regression_is_told() -> None:
    for targets, reason in (
        (np.arange(3), r"floats \[n\], not int64 \[n\]"),
        (np.ones((3, 2)), r"not float64 \[n, 2\]"),
        (np.array([1.0, np.nan]), "NaN or infinite"),
    ):
        with pytest.raises(DataError, match=reason):
            Regression().check_targets(targets)
    with pytest.raises(DataError, match="one number for each example, and the network gives 4"):
        measure(lambda inputs: inputs, batches((LOGITS, LOGITS[:, 0]), 10), Regression())
