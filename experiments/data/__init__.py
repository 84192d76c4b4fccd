"""Data sets: prepared with tensorflow-datasets, without TensorFlow; seeded batches of them."""

from experiments.data.augment import Augment, Augmentation
from experiments.data.dataset import Dataset, load
from experiments.data.prepared import data_root
from experiments.data.source import Images, Source
from experiments.data.splits import DataConfig, Normal, Scaling, Splits, splits

__all__ = [
    "Augment",
    "Augmentation",
    "DataConfig",
    "Dataset",
    "Images",
    "Normal",
    "Scaling",
    "Source",
    "Splits",
    "data_root",
    "load",
    "splits",
]
