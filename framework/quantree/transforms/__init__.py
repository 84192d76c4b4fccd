"""Model -> smaller or rearranged model, without training."""

from quantree.transforms.cast import Cast
from quantree.transforms.fold_statistics import FoldStatistics
from quantree.transforms.merge import Merge
from quantree.transforms.permute import Permute
from quantree.transforms.prune import Prune
from quantree.transforms.remove import Remove

__all__ = ["Cast", "FoldStatistics", "Merge", "Permute", "Prune", "Remove"]
