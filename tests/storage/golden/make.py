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


def main() -> None:
    """One file per model, and beside it the arrays that it decodes to."""
    for name, model in MODELS.items():
        storage.save(FOLDER / f"{name}.v1.qtree", model)
        # NumPy can't store bfloat16; float32 holds every value of it.
        decoded = {
            path: np.asarray(array.astype("float32") if array.dtype == "bfloat16" else array)
            for path, array in flatten(model.decode()).items()
        }
        state = {f"state/{path}": np.asarray(array) for path, array in model.state.items()}
        np.savez_compressed(FOLDER / f"{name}.v1.npz", allow_pickle=False, **decoded, **state)


if __name__ == "__main__":
    main()
