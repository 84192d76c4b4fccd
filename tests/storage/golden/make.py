"""Writes the golden files of the present format: `python -m tests.storage.golden.make`, from the root.

They are made once per format and never again: that files written by older versions still load is what they are for.
"""

from pathlib import Path

import numpy as np

from quantree import storage
from quantree.model import flatten
from tests.storage.models import coded_net, every_kind

FOLDER = Path(__file__).parent
MODELS = {"every_kind": every_kind(), "pruned_net": coded_net({"fc1": (40, 30), "fc2": (30, 10)}, density=0.1)}
FILES = (("every_kind", "fixed"), ("every_kind", "ans"), ("every_kind", "live"), ("pruned_net", "ans"))


def main() -> None:
    """One file per model and coder, and for each model the arrays that it decodes to.

    The coder is named, because the smallest one is another when there are more of them.
    """
    for name, coder in FILES:
        storage.save(FOLDER / f"{name}.{coder}.v1.qtree", MODELS[name], coder)
    for name, model in MODELS.items():
        # NumPy can't store bfloat16; float32 holds every value of it.
        decoded = {
            path: np.asarray(array.astype("float32") if array.dtype == "bfloat16" else array)
            for path, array in flatten(model.decode()).items()
        }
        state = {f"state/{path}": np.asarray(array) for path, array in model.state.items()}
        np.savez_compressed(FOLDER / f"{name}.npz", allow_pickle=False, **decoded, **state)


if __name__ == "__main__":
    main()
