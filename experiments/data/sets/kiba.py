"""KIBA (Tang et al. 2014): bioactivities of molecules on kinases, split as for DeepDTA (Ozturk et al. 2018)."""

from typing import ClassVar

from experiments.data.affinity import Affinity
from quantree.registry import register


@register("kiba")
class Kiba(Affinity):
    """Targets are KIBA scores as DeepDTA stores them: larger is stronger. 2,111 molecules, 229 proteins.

    Train is the five folds for training, test the official test fold.
    """

    version = "1.0.0"
    title = "KIBA scores of 2,111 molecules on 229 kinases"
    sizes: ClassVar = {"train": 98_545, "test": 19_709}
    shape = (1100,)
    ligand_length: ClassVar[int] = 100
    protein_length: ClassVar[int] = 1000
