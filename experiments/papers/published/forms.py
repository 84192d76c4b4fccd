"""What the files of this folder may say, and how they are read."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, StringConstraints

from experiments.papers.accounting import PaperRule
from experiments.papers.accounting.rule import Part
from quantree.registry import Named
from quantree.schema import Config, read_yaml, validate

C = TypeVar("C", bound=Config)
Printed = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?$")]
Count = Annotated[int, Field(ge=1)]


def interval(printed: str) -> tuple[float, float]:
    """The numbers that are printed like this when they are rounded."""
    value = Decimal(printed)
    half = Decimal(5).scaleb(int(value.as_tuple().exponent) - 1)
    return float(value - half), float(value + half)


def load(model: type[C], name: str) -> C:
    """One of the files here."""
    return validate(model, read_yaml(Path(__file__).with_name(f"{name}.yaml")))


class Huffman(Config):
    """Means of a layer after Huffman coding."""

    code: Printed = Field(description="bits of a code")
    gap: Printed = Field(description="bits of a distance")
    rate: Printed = Field(description="% of 32 bits a weight")


class Layer(Config):
    """A layer in the tables of Deep Compression."""

    shape: tuple[Count, ...] = Field(description="of the kernel")
    density: Printed = Field(description="% of the weights that pruning left")
    code: Count = Field(description="bits of a code")
    rate: Printed = Field(description="% of 32 bits a weight, without Huffman coding")
    huffman: Huffman | None = Field(default=None, description="with Huffman coding")


class Total(Config):
    """All layers together."""

    rate: Printed = Field(description="% of 32 bits a weight, without Huffman coding")
    huffman: Printed = Field(description="the same with it")


class Headline(Config):
    """A row of Table 1."""

    error_before: Printed = Field(description="% of the test images, top 1, uncompressed")
    error_after: Printed = Field(description="% of the test images, top 1, compressed")
    kilobytes_before: Printed = Field(description="size, uncompressed, 1000 bytes")
    kilobytes_after: Printed = Field(description="size, compressed, 1000 bytes")
    ratio: Printed = Field(description="the former over the latter")


class Compressed(Config):
    """A network of Deep Compression."""

    model: str | None = Field(default=None, description="its name in the zoo, if it is there")
    dataset: str | None = Field(default=None, description="likewise")
    table: Headline = Field(description="Table 1")
    gap: Count = Field(description="bits of a distance")
    total: Total = Field(description="the last row of its table")
    layers: dict[str, Layer] = Field(description="the other rows")


class Han2016(Config):
    """`han2016.yaml`."""

    source: str = Field(description="where the numbers were read")
    networks: dict[str, Compressed] = Field(description="by their names in the paper")


class Baseline(Config):
    """A network of Marino et al. before compression."""

    model: str | None = Field(default=None, description="its name in the zoo, if it is there")
    name: str = Field(description="its name in the paper")
    metric: float = Field(description="on the test set")


class Claim(Config):
    """A figure of an abstract."""

    part: Part = Field(description="kernels that it is about")
    psi: float = Field(description="compressed over uncompressed")
    text: str = Field(description="what is claimed")


class Row(Config):
    """A row of a table of Marino et al."""

    dataset: str = Field(description="its name here")
    method: str = Field(description="its name there")
    settings: str = Field(default="", description="as printed")
    metric: float = Field(description="on the test set")
    psi: float | None = Field(description="compressed over uncompressed, as printed; none: not found")
    form: Literal["hac", "shac"] | None = Field(default=None, description="how it is stored, where that matters")


class Table(Config):
    """A table of Marino et al."""

    title: str = Field(description="which")
    source: str = Field(description="where it was read")
    part: Part = Field(description="kernels that are compressed and counted")
    aim: Literal["best", "smallest"] = Field(description="what its rows are the best in")
    rule: Annotated[str, Named(PaperRule)] = Field(description="how files are counted beside it")
    quantizer_only: bool = Field(default=False, description="methods are named by their quantizer alone")
    rows: tuple[Row, ...] = Field(description="its rows")


class Marino2021(Config):
    """`marino2021.yaml`."""

    networks: dict[str, Baseline] = Field(description="data set -> network")
    headlines: tuple[Claim, ...] = Field(description="figures of the abstract of 2021")
    tables: tuple[Table, ...] = Field(description="tables of 2020 and 2023")


class Cut(Config):
    """How a layer of Martinez et al. is cut where the regime says otherwise."""

    d: Count | None = Field(default=None, description="weights of a sub-vector")
    k: Count | None = Field(default=None, description="most centroids")


class Regime(Config):
    """Sizes of sub-vectors and codebooks, and what a network takes with them."""

    kernels: Count = Field(description="sub-vector of a convolution wider than 1 x 1, in kernels")
    pointwise: Count = Field(description="sub-vector of a convolution of 1 x 1, in weights")
    dense: Count = Field(default=4, description="sub-vector of a dense layer, in weights")
    k: Count = Field(default=256, description="most centroids of a convolution")
    dense_k: Count = Field(description="most centroids of a dense layer")
    layers: dict[str, Cut] = Field(default={}, description="kernels that have others")
    bits: Count = Field(description="of the whole network, as the paper counts")
    strict_bits: Count | None = Field(default=None, description="with the clamp of kill-the-bits, if that was read")
    mebibytes: Printed = Field(description="2^20 bytes, as printed")
    ratio: Printed = Field(description="uncompressed over compressed, as printed")


class Quantized(Config):
    """A network of Martinez et al."""

    model: str = Field(description="its name in the zoo, or that of its larger part")
    without: tuple[str, ...] = Field(default=(), description="patterns: leaves of the model that it lacks")
    beside: dict[str, tuple[Count, ...]] = Field(default={}, description="path -> shape: leaves that it has besides")
    raw: tuple[str, ...] = Field(description="kernels that are not quantized")
    regimes: dict[Literal["small", "large"], Regime] = Field(description="by the size of the blocks")


class Accuracy(Config):
    """A row of Martinez et al."""

    network: str = Field(description="its name in the paper")
    regime: Literal["small", "large"] = Field(description="size of the blocks")
    dataset: str = Field(description="of training and test")
    metric: str = Field(description="what is measured, %")
    original: float = Field(description="uncompressed")
    pqf: float = Field(description="theirs")
    bgd: float = Field(description="And the Bit Goes Down at the same size")


class Martinez2021(Config):
    """`martinez2021.yaml`."""

    source: str = Field(description="where the numbers were read")
    networks: dict[str, Quantized] = Field(description="by their names in the paper")
    rows: tuple[Accuracy, ...] = Field(description="accuracies")


class Images(Config):
    """What the network of a data set takes and gives."""

    shape: tuple[Count, ...] = Field(description="of an image")
    classes: Count = Field(description="number of logits")


class Reduction(Config):
    """A figure of Wang et al."""

    dataset: str = Field(description="its name here")
    source: str = Field(description="where it was read")
    reduction: float = Field(description="% of the parameters that are gone")
    accuracy: str = Field(description="what is said of it")


class Wang2020(Config):
    """`wang2020.yaml`."""

    datasets: dict[str, Images] = Field(description="by their names here")
    rows: tuple[Reduction, ...] = Field(description="figures of the abstracts")
