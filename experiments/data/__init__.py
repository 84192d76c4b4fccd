"""Data sets: prepared with tensorflow-datasets, without TensorFlow; seeded batches of them."""

from experiments.data.dataset import Dataset, load
from experiments.data.prepared import data_root
from experiments.data.source import Images, Source
from experiments.data.splits import DataConfig, Scaling, Splits, splits

__all__ = ["DataConfig", "Dataset", "Images", "Scaling", "Source", "Splits", "data_root", "load", "splits"]
