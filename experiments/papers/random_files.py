"""Files of the networks and sizes of Martinez et al., with weights at random: what the paper counts, written down."""

import functools
import tempfile
from math import prod
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.papers.accounting import Martinez2021 as Rule
from experiments.papers.published import Martinez2021
from experiments.papers.published.forms import Regime
from experiments.papers.regimes import CLASSES, IMAGE, Blocks, cut, recipe, regimes, shapes
from experiments.papers.sheet import Sheet
from experiments.zoo import Network
from quantree import storage
from quantree.model import Model, Tree, flatten, from_params, unflatten
from quantree.recipe import Recipe

ITERATIONS = 2  # of k-means: whatever the codebook is like, a code takes log2 k bits at most
PARTS = ("codes", "tables", "codebooks", "rest", "header")


def files(paper: Martinez2021) -> list[Sheet]:
    """A table: files of the networks that the zoo has whole, beside the paper's bits."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, network, size, regime in regimes(paper):
            if not network.beside:
                blocks = cut(shapes(network), network, regime)
                rows.append({"network": name, "blocks": size} | _file(network.model, blocks, regime, Path(folder)))
    columns = {"network": "", "blocks": "", **dict.fromkeys(("published", "file", *PARTS), ",.0f")}
    columns |= {"file / published": ".4f", "bits, their count": ",d", "difference": "+,d"}
    fit = sum(row["file / published"] <= 1.01 for row in rows)
    notes = (
        "bytes; published: the paper's bits / 8. The weights are normal random numbers, norms and their statistics "
        "uniform ones: sizes are real, the networks are not",
        "rest: the first convolution, norms and biases at 32 bits, and the folded statistics, which are constants. "
        "their count: rule martinez2021 on what was written, and its difference to the published bits",
    )
    return [Sheet(f"Files: {fit} of {len(rows)} at most 1.01 of the paper's", columns, tuple(rows), notes)]


def _file(name: str, blocks: dict[str, Blocks], regime: Regime, folder: Path) -> dict[str, Any]:
    made = Recipe.from_config(recipe(blocks, ITERATIONS)).run(_drawn(name), key=jax.random.key(0))
    ledger = storage.save(folder / "model.qtree", made)
    counted = Rule().count(made).stored
    return {
        "published": regime.bits / 8,
        "file": ledger.total,
        "file / published": 8 * ledger.total / regime.bits,
        **_parts(ledger),
        "bits, their count": counted,
        "difference": counted - regime.bits,
    }


def _parts(ledger: storage.Ledger) -> dict[str, int]:
    """The bytes of a file, by the paper's terms."""
    parts: dict[str, int] = dict.fromkeys(PARTS, 0)
    for entry in ledger.entries:
        match entry.section:
            case "leaf":
                parts["codes" if entry.what == "codes" else "rest"] += entry.bytes
            case "codebook":
                parts["codebooks"] += entry.bytes
            case "table":
                parts["tables"] += entry.bytes
            case "state":
                parts["rest"] += entry.bytes
            case "header" | "checksum":
                parts["header"] += entry.bytes
    return parts


@functools.lru_cache(maxsize=1)
def _drawn(name: str) -> Model:
    """A network of the zoo with all arrays at random: norms that are fresh would be constants and take no bytes."""
    abstract, random = Network.named(name)().abstract(IMAGE, CLASSES), np.random.default_rng(0)

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path.endswith("/kernel"):
            return random.standard_normal(shape, np.float32) / np.float32(np.sqrt(prod(shape[:-1])))
        return random.uniform(0.5, 1.5, shape).astype(np.float32)

    def drawn(tree: Tree) -> Tree:
        return unflatten({path: draw(path, leaf.shape) for path, leaf in flatten(tree).items()})

    return from_params(drawn(abstract.params), drawn(abstract.state))
