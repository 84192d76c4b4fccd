"""Weights -> encodings: grouping x blocking x learner."""

from quantree.quantizers.annealed import Annealed
from quantree.quantizers.base import Grouping, Learner
from quantree.quantizers.budget import Budget
from quantree.quantizers.entropy import EntropyConstrained, EntropyLloyd
from quantree.quantizers.groupings import PerKind, PerTensor, WholeNet
from quantree.quantizers.kmeans import KMeans
from quantree.quantizers.lattice import Lattice
from quantree.quantizers.presets import KMeansPreset, ProductPreset, UniformPreset
from quantree.quantizers.probabilistic import Probabilistic
from quantree.quantizers.quantize import Quantize
from quantree.quantizers.uniform import Uniform

__all__ = [
    "Annealed",
    "Budget",
    "EntropyConstrained",
    "EntropyLloyd",
    "Grouping",
    "KMeans",
    "KMeansPreset",
    "Lattice",
    "Learner",
    "PerKind",
    "PerTensor",
    "Probabilistic",
    "ProductPreset",
    "Quantize",
    "Uniform",
    "UniformPreset",
    "WholeNet",
]
