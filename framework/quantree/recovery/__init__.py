"""What wins accuracy back: the training loop and the stages that use it."""

from quantree.recovery.finetune import Finetune, Gradual
from quantree.recovery.loop import Fitted, Training, evaluate, fit
from quantree.recovery.objective import Objective

__all__ = ["Finetune", "Fitted", "Gradual", "Objective", "Training", "evaluate", "fit"]
