"""quantree turns a trained network into a small file and shows what that cost in accuracy."""

from quantree import clustering, conformance, graph, products
from quantree.coding import Coder
from quantree.encodings import Blocking, Codebook, Compressed, Encoding
from quantree.errors import ConfigError, DataError, FormatError, LeafError, PluginError, QuantreeError
from quantree.linen import from_linen
from quantree.model import Model, from_nnx, from_params
from quantree.quantizers import Grouping, Learner
from quantree.recipe import Recipe
from quantree.registry import register
from quantree.stage import Recovery, Stage, Transform
from quantree.storage import load, save
from quantree.task import Classification, Concordance, Data, Regression, Task

__version__ = "0.1.0"

__all__ = [
    "Blocking",
    "Classification",
    "Codebook",
    "Coder",
    "Compressed",
    "Concordance",
    "ConfigError",
    "Data",
    "DataError",
    "Encoding",
    "FormatError",
    "Grouping",
    "LeafError",
    "Learner",
    "Model",
    "PluginError",
    "QuantreeError",
    "Recipe",
    "Recovery",
    "Regression",
    "Stage",
    "Task",
    "Transform",
    "clustering",
    "conformance",
    "from_linen",
    "from_nnx",
    "from_params",
    "graph",
    "load",
    "products",
    "register",
    "save",
]
