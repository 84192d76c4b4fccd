import os
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments.data import Images, dataset, load, prepared
from experiments.data.sets.digits import Digits
from quantree import registry
from quantree.errors import PluginError


def test_digits_are_those_of_scikit_learn(digits_dir):
    digits = load("digits", digits_dir)
    images = np.concatenate([digits.train[0], digits.test[0]])
    labels = np.concatenate([digits.train[1], digits.test[1]])
    assert images.dtype == np.uint8
    assert images.shape == (1797, 8, 8, 1)
    original: Any = load_digits()
    ours = np.column_stack([images.reshape(-1, 64), labels])
    theirs = np.column_stack([original.data, original.target])
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_digits_test_split_has_every_class_equally(digits_dir):
    digits = load("digits", digits_dir)
    assert len(digits.test[1]) == 360
    _, labels = load_digits(return_X_y=True)
    assert np.all(np.abs(np.bincount(digits.test[1]) - np.bincount(labels) / 1797 * 360) < 1)
    assert digits.shape == (8, 8, 1)
    assert digits.classes == tuple("0123456789")
    assert digits.task.metric_name == "accuracy"


def test_a_set_is_decoded_once(digits_dir, monkeypatch):
    before = load("digits", digits_dir)
    monkeypatch.setattr(prepared, "read", lambda source, folder: pytest.fail("decoded again"))
    again = load("digits", digits_dir)
    assert again.fingerprint == before.fingerprint
    assert np.array_equal(again.train[0], before.train[0])
    assert not again.train[0].flags.writeable


def test_a_set_prepared_anew_is_decoded_anew(tmp_path, monkeypatch):
    before = load("digits", tmp_path)
    shutil.rmtree(tmp_path / "digits")
    splits = Digits().read(None)
    turned = {split: (images[:, ::-1], labels) for split, (images, labels) in splits.items()}
    monkeypatch.setattr(Digits, "read", lambda self, raw: turned)
    after = load("digits", tmp_path)
    assert np.array_equal(after.train[0], before.train[0][:, ::-1])
    assert after.fingerprint != before.fingerprint


def test_equal_data_has_equal_fingerprints(digits_dir, tmp_path):
    assert load("digits", tmp_path).fingerprint == load("digits", digits_dir).fingerprint


def test_a_read_only_directory_serves_from_memory(digits_dir, tmp_path, monkeypatch):
    shutil.copytree(digits_dir / "digits", tmp_path / "digits")

    def refuse(*args, **kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr(dataset.tempfile, "mkdtemp", refuse)
    found = load("digits", tmp_path)
    assert found.fingerprint == load("digits", digits_dir).fingerprint
    assert not list(tmp_path.glob(".quantree/*"))


def test_a_half_written_cache_is_not_used(digits_dir, tmp_path, monkeypatch):
    shutil.copytree(digits_dir / "digits", tmp_path / "digits")

    def die(self, mode):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dataset.Path, "chmod", die)
        load("digits", tmp_path)
    assert list((tmp_path / ".quantree").iterdir()) == []
    assert len(load("digits", tmp_path).train[0]) == 1437


@pytest.mark.slow
def test_two_processes_may_make_a_set_at_once_and_need_no_tensorflow(digits_dir, tmp_path):
    script = """
import sys
from experiments.data import load
print(load("digits", sys.argv[1]).fingerprint, "tensorflow" in sys.modules)
"""
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", script, tmp_path], env=paths, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate()[0].strip() for process in processes]
    assert told == [f"{load('digits', digits_dir).fingerprint} False"] * 2
    assert len(list((tmp_path / ".quantree").iterdir())) == 1


def test_a_new_set_joins_by_registering(tmp_path):
    with registry.temporarily():

        @registry.register("twins")
        class Twins(Digits):
            sizes = {"train": 3, "test": 2}  # noqa: RUF012

            def read(self, raw):
                images = np.arange(5 * 64, dtype=np.uint8).reshape(5, 8, 8, 1)
                return {"train": (images[:3], np.array([0, 1, 2])), "test": (images[3:], np.array([3, 4]))}

        twins = load("twins", tmp_path)
        assert sorted(twins.train[1].tolist()) == [0, 1, 2]
        assert (tmp_path / "twins" / "1.0.0" / "dataset_info.json").is_file()
    assert issubclass(Twins, Images)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(PluginError, match="no dataset is called 'mnits'; did you mean 'mnist'"):
        load("mnits")


def test_colour_images_go_through_unchanged(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)

    class Colours(Digits):
        name = "colours"
        shape = (8, 8, 3)
        sizes = {"train": 4, "test": 2}  # noqa: RUF012

        def read(self, raw):
            return {"train": (colours[:4], np.arange(4)), "test": (colours[4:], np.arange(2))}

    folder = prepared.write(Colours(), None, tmp_path)
    images, labels = prepared.read(Colours(), folder)["train"]
    assert np.array_equal(images, colours[:4][labels])
