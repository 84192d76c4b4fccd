"""Networks to compress, by name."""

from experiments.zoo.deepdta import DeepDta
from experiments.zoo.imagenet_resnet import ImageNetResNet, ResNet18, ResNet50
from experiments.zoo.lenet import LeNet5, LeNet300
from experiments.zoo.mlp import MLP
from experiments.zoo.module import Outside
from experiments.zoo.network import Network
from experiments.zoo.resnet import CifarResNet, ResNet8
from experiments.zoo.vgg import Vgg

__all__ = [
    "MLP",
    "CifarResNet",
    "DeepDta",
    "ImageNetResNet",
    "LeNet5",
    "LeNet300",
    "Network",
    "Outside",
    "ResNet8",
    "ResNet18",
    "ResNet50",
    "Vgg",
]
