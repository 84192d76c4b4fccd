import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from quantree.errors import DataError
from quantree.task import Classification, Data, Score, batches, measure

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
