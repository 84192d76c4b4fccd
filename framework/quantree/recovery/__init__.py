"""What wins accuracy back: the training loop and the stages that use it, and new statistics for batch norm."""

from quantree.recovery.batchnorm import BatchNorm
from quantree.recovery.dkm import Dkm
from quantree.recovery.filters import FilterPenalty
from quantree.recovery.finetune import Finetune, Gradual
from quantree.recovery.loop import Fitted, Training, evaluate, fit
from quantree.recovery.objective import Objective

__all__ = [
    "BatchNorm",
    "Dkm",
    "FilterPenalty",
    "Finetune",
    "Fitted",
    "Gradual",
    "Objective",
    "Training",
    "evaluate",
    "fit",
]
