import numpy as np
import pytest

from experiments.data import DataConfig, load, splits
from quantree.errors import ConfigError, DataError
from quantree.schema import parse_yaml, validate


def gathered(batches):
    """All batches of a split -> inputs, targets."""
    inputs, targets = zip(*batches, strict=True)
    return np.concatenate(inputs), np.concatenate(targets)


def as_set(inputs, targets):
    return {image.tobytes() + bytes([label]) for image, label in zip(inputs, targets, strict=True)}


def test_the_three_splits_share_no_example(digits_dir):
    cut = splits(DataConfig(validation=200), seed=3, data_dir=digits_dir)
    train = as_set(*gathered(cut.data.train(0, 0, 1)))
    validation = as_set(*gathered(cut.data.validation(64)))
    test = as_set(*gathered(cut.test(64)))
    assert (len(train), len(validation), len(test)) == (1237, 200, 360)  # no two digits are the same
    assert not train & validation and not train & test and not validation & test
    assert cut.data.examples == 1237


def test_test_split_is_the_stored_one_whatever_the_seed(digits_dir):
    stored = load("digits", digits_dir).test
    for seed in (0, 1):
        inputs, labels = gathered(splits(DataConfig(), seed, digits_dir).test(100))
        assert np.array_equal(inputs, stored[0] / np.float32(16))
        assert np.array_equal(labels, stored[1])


def test_the_seed_fixes_the_validation_split(digits_dir):
    first, again, other = (splits(DataConfig(), seed, digits_dir).validation_rows for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_batches_can_be_taken_up_again(digits_dir):
    data = splits(DataConfig(), 0, digits_dir).data
    epoch = list(data.train(5, 2, 100))
    assert [len(labels) for _, labels in epoch] == [100] * 12
    for (inputs, labels), (same, same_labels) in zip(epoch, data.train(5, 2, 100), strict=True):
        assert np.array_equal(inputs, same) and np.array_equal(labels, same_labels)
    assert not np.array_equal(epoch[0][0], next(iter(data.train(5, 3, 100)))[0])
    assert not np.array_equal(epoch[0][0], next(iter(data.train(6, 2, 100)))[0])


def test_stratified_validation_has_each_class_in_proportion(digits_dir):
    cut = splits(DataConfig(validation=100), 0, digits_dir)
    labels = cut.dataset.train[1]
    share = np.bincount(labels) / len(labels) * 100
    assert np.all(np.abs(np.bincount(labels[cut.validation_rows]) - share) < 1)
    loose = splits(DataConfig(validation=100, stratified=False), 0, digits_dir)
    assert not np.all(np.abs(np.bincount(labels[loose.validation_rows], minlength=10) - share) < 1)


def test_unit_scale_ends_at_one(digits_dir):
    inputs, labels = gathered(splits(DataConfig(), 0, digits_dir).data.train(0, 0, 50))
    assert (inputs.dtype, labels.dtype) == (np.float32, np.int32)
    assert (inputs.min(), inputs.max()) == (0, 1)
    assert inputs.shape[1:] == (8, 8, 1)


def test_standard_scale_is_measured_on_what_is_trained_on(digits_dir):
    cut = splits(DataConfig(scale="standard", validation=400), 0, digits_dir)
    inputs, _ = gathered(cut.data.train(0, 0, 1))
    assert np.mean(inputs, dtype=np.float64) == pytest.approx(0, abs=1e-5)
    assert np.std(inputs, dtype=np.float64) == pytest.approx(1, abs=1e-5)
    stored = cut.dataset.train[0][cut.training_rows]
    assert cut.scaling is not None
    assert cut.scaling.mean == pytest.approx(stored.mean()) and cut.scaling.deviation == pytest.approx(stored.std())


def test_validation_must_leave_something_to_train_on(digits_dir):
    with pytest.raises(DataError, match="validation of 1437 leaves nothing of 1437"):
        splits(DataConfig(validation=1437), 0, digits_dir)
    assert splits(DataConfig(validation=1e-6), 0, digits_dir).validation_rows.size == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("name: mnits", "f.yaml:2: name: .*did you mean 'mnist'"),
        ("nmae: mnist", "f.yaml:2: nmae: unknown key 'nmae'; did you mean 'name'"),
        ("validation: 1.0", "f.yaml:2: validation: .*a share above 0 and below 1, or a number of examples"),
        ("validation: 0", "f.yaml:2: validation: .*at least 1"),
        ("validation: ten", "f.yaml:2: validation"),
        ("scale: none", "f.yaml:2: scale: .*'unit', 'standard' or 'raw'"),
        ("stratified: 1", "f.yaml:2: stratified: .*boolean"),
    ],
)
def test_a_wrong_setting_is_told_with_its_line(line, message):
    with pytest.raises(ConfigError, match=message):
        validate(DataConfig, parse_yaml(f"# data\n{line}", "f.yaml"))


def test_every_setting_is_described():
    assert all(field.description for field in DataConfig.model_fields.values())
