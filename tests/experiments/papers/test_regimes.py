"""Block regimes: sizes that others logged, and the recipe that gives them."""

from math import prod

import jax
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from experiments.papers.accounting import Martinez2021 as Rule
from experiments.papers.published import Martinez2021, load
from experiments.papers.published.forms import Cut, Quantized, Regime
from experiments.papers.random_files import files
from experiments.papers.regimes import Blocks, count, cut, recipe, shapes
from quantree.model import from_params, unflatten
from quantree.recipe import Recipe

PAPER = load(Martinez2021, "martinez2021")


@pytest.mark.parametrize(
    ("name", "size", "bits", "strict"),
    [
        ("ResNet-18", "small", 12_927_232, 12_927_232),
        ("ResNet-18", "large", 8_634_624, 8_634_624),
        ("ResNet-50", "small", 42_714_368, 42_705_152),
        ("ResNet-50", "large", 26_718_976, 26_710_272),
        ("Mask R-CNN R50-FPN", "small", 55_743_008, 55_743_008),
    ],
)
def test_sizes_to_the_bit(name: str, size: str, bits: int, strict: int) -> None:
    network = PAPER.networks[name]
    leaves, regime = shapes(network), network.regimes[size]  # pyright: ignore[reportArgumentType]
    found = [count(leaves, cut(leaves, network, regime, strict=each)).total for each in (False, True)]
    assert found == [bits, strict]


def test_codes_codebooks_and_the_rest_of_resnet18() -> None:
    network = PAPER.networks["ResNet-18"]
    leaves = shapes(network)
    bits = count(leaves, cut(leaves, network, network.regimes["small"]))
    assert (bits.codes, bits.codebooks, bits.rest) == (11_516_928, 770_048, 640_256)


def test_mask_rcnn_has_the_parameters_of_torchvision() -> None:
    """Its documentation says 44,401,393; there the norms are frozen and hold none."""
    leaves = shapes(PAPER.networks["Mask R-CNN R50-FPN"])
    norms = sum(prod(shape) for path, shape in leaves.items() if "bn" in path or "downsample/1" in path)
    assert sum(map(prod, leaves.values())) - norms == 44_401_393


REGIME = Regime(kernels=2, pointwise=4, k=8, dense_k=16, bits=1, mebibytes="1", ratio="1")


@given(st.integers(16, 100_000), st.booleans())
@example(64, True)
@example(65, True)
@example(64, False)
def test_k_is_the_largest_power_of_two_with_four_codes_for_each(codes: int, strict: bool) -> None:
    network = Quantized(model="resnet18", raw=(), regimes={})
    regime = REGIME.model_copy(update={"dense_k": 1 << 20})
    [found] = cut({"fc/kernel": (codes, 4)}, network, regime, strict).values()
    assert found.codes == codes and found.k & (found.k - 1) == 0
    fits = [4 * k < found.codes if strict else 4 * k <= found.codes for k in (found.k, 2 * found.k)]
    assert fits == [True, False]


SMALL = {
    **{"conv1/kernel": (7, 7, 3, 8), "bn1/scale": (8,), "bn1/bias": (8,), "conv2/kernel": (3, 3, 8, 16)},
    **{"conv3/kernel": (1, 1, 16, 8), "fc/kernel": (8, 40), "fc/bias": (40,)},
}
UNLIKE = Quantized(model="resnet18", raw=("conv1/kernel",), regimes={})


def test_layers_are_cut_by_their_kind_and_single_ones_otherwise() -> None:
    assert cut(SMALL, UNLIKE, REGIME) == {
        "conv2/kernel": Blocks(64, 18, 8),
        "conv3/kernel": Blocks(32, 4, 8),
        "fc/kernel": Blocks(80, 4, 16),
    }
    own = REGIME.model_copy(update={"layers": {"conv2/kernel": Cut(k=4), "fc/kernel": Cut(d=8)}})
    found = cut(SMALL, UNLIKE, own)
    assert found["conv2/kernel"] == Blocks(64, 18, 4) and found["fc/kernel"] == Blocks(40, 8, 8)


@pytest.mark.slow
def test_the_recipe_gives_a_file_that_the_rule_counts_the_same() -> None:
    random, blocks = np.random.default_rng(0), cut(SMALL, UNLIKE, REGIME)
    arrays = {path: random.uniform(0.5, 1.5, shape).astype(np.float32) for path, shape in SMALL.items()}
    statistics = {f"bn1/{name}": np.ones(8, np.float32) for name in ("mean", "var")}
    model = from_params(unflatten(arrays), unflatten(statistics))
    made = Recipe.from_config(recipe(blocks, iterations=2)).run(model, key=jax.random.key(0))
    assert {path for path, leaf in made.leaves.items() if leaf.uses()} == set(blocks)
    assert all(book.table().dtype == np.float16 for book in made.codebooks.values())
    assert Rule().count(made).stored == count(SMALL, blocks).total


@pytest.mark.slow
def test_a_real_file_is_no_larger_than_the_paper_counts() -> None:
    network = PAPER.networks["ResNet-18"]
    only = network.model_copy(update={"regimes": {"large": network.regimes["large"]}})
    [sheet] = files(PAPER.model_copy(update={"networks": {"ResNet-18": only}}))
    [row] = sheet.rows
    assert row["difference"] == 0 and 0.9 < row["file / published"] <= 1.01
    assert row["file"] == sum(row[part] for part in ("codes", "tables", "codebooks", "rest", "header"))
    assert row["rest"] >= 640_256 / 8, "norms are no constants"
