"""Writes the golden files of the present format: `python -m tests.storage.golden.make`, from the root.

They are made once and never again: that files written by older versions still load is what they are for. Where a newer
encoder writes other bytes, the file that it wrote before stays as `*.old.qtree`.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from quantree import storage
from quantree.encodings import Compressed, Raw
from quantree.model import flatten
from tests.storage.models import coded_net, every_kind

FOLDER = Path(__file__).parent


def _constants() -> Compressed:
    """Arrays of one value, one of them stored in 16 bits, from a checkpoint of PyTorch's."""
    wide = np.dtype("float32")
    leaves = {"n/scale": Raw(jnp.full((4, 5), 0.5, "float16"), wide), "n/short": Raw.of(jnp.ones(3))}
    return Compressed(dict(leaves), {}, {"n/var": jnp.full(20, 0.5)}, 999, "torch")


MODELS = {
    "constants": _constants(),
    "every_kind": every_kind(),
    "pruned_net": coded_net({"fc1": (40, 30), "fc2": (30, 10)}, density=0.1),
}
FILES = (
    ("constants", "ans"),
    ("pruned_net", "ans"),
    *(("every_kind", coder) for coder in ("adaptive", "ans", "csc", "csr", "fixed", "hac", "huffman", "live")),
    *(("every_kind", coder) for coder in ("relative", "shac")),
    ("pruned_net", "adaptive"),
)


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
