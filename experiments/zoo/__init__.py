"""Networks to compress, by name."""

from experiments.zoo.lenet import LeNet5, LeNet300
from experiments.zoo.mlp import MLP
from experiments.zoo.network import Network

__all__ = ["MLP", "LeNet5", "LeNet300", "Network"]
