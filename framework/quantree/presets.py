"""Methods of papers that need stages from several rooms; `quantizers/presets.py` has those of `quantize` alone."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from quantree.encodings import KernelSlices
from quantree.quantizers import Annealed, KMeans, PerKind, Quantize
from quantree.recovery import Finetune
from quantree.recovery.finetune import Gradual
from quantree.registry import register
from quantree.stage import Patterns, Stage
from quantree.transforms import Cast, Permute, Prune


@register("deep_compression")
class DeepCompression(Stage):
    """Prune while training, share values, tune them, store them in 16 bits (Han, Mao, Dally 2016, arXiv 1510.00149).

    Where the paper prunes once by a threshold and retrains, the density falls gradually during the training (Zhu and
    Gupta 2017); in place of its Huffman codes each stream takes the smallest coder. For another schedule write the
    stages out: `python -m experiments.methods` shows them.
    """

    example: ClassVar = {"density": 0.5, "k": 3, "epochs": 1, "tune_epochs": 1}

    density: Annotated[float, Field(gt=0, le=1)] = Field(description="share of the weights kept, 0..1")
    k: int = Field(ge=1, le=65536, description="number of values that the weights of a leaf share")
    bias_k: int | None = Field(
        default=16,
        ge=1,
        le=65536,
        description="number of values that all leaves `*/bias` share; null: they stay floats",
    )
    match: Patterns | None = Field(
        default=None, description="leaves to prune and quantize; default: every float leaf with two or more axes"
    )
    scope: Literal["layer", "global"] = Field(
        default="global", description="compare magnitudes within a leaf, or over all of them"
    )
    epochs: int = Field(default=30, ge=1, description="passes over the training data while pruning")
    batch_size: int = Field(default=256, ge=1, description="examples in one step while pruning")
    learning_rate: float = Field(default=4e-3, gt=0, description="step size of Adam while pruning, at its highest")
    l2: float = Field(
        default=3e-5,
        ge=0,
        description="this times the sum of squares of all weights is added to the loss while pruning",
    )
    stop: float = Field(
        default=0.7, gt=0, le=1, description="share of `epochs` after which the density is reached; the rest retrains"
    )
    tune_epochs: int = Field(default=3, ge=1, description="passes over the training data to tune the shared values")
    tune_learning_rate: float = Field(default=5e-4, gt=0, description="step size of Adam while tuning, at its highest")

    def expand(self) -> tuple[Stage, ...]:
        prune = Prune(match=self.match, density=self.density, scope=self.scope)
        retrain = Finetune(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            l2=self.l2,
            keep="last",  # an earlier epoch may be better only because less of it was pruned
            gradual=Gradual(stage=prune, stop=self.stop),
        )
        weights = Quantize(match=self.match, learner=KMeans(k=self.k))
        biases = (
            ()
            if self.bias_k is None
            else (Quantize(match=("*/bias",), grouping=PerKind(), learner=KMeans(k=self.bias_k)),)
        )
        tune = Finetune(epochs=self.tune_epochs, learning_rate=self.tune_learning_rate)
        return (retrain, weights, *biases, tune, Cast())


@register("pqf")
class PermuteQuantizeFinetune(Stage):
    """Order channels, quantize kernel slices by annealed k-means, tune what is left (Martinez et al., CVPR 2021).

    Sub-vectors of the paper's regimes: `slices: 1` is its small blocks, `slices: 2` its large ones (with `d: 8` for the
    1 x 1 kernels of ResNet-50). The paper leaves the first convolution as it is, and has more centroids for the last
    layer: say the first by `match`, the second by `last`. Codebooks are stored in 16 bits. The training takes the
    statistics of norms on its way; for another schedule write the stages out.
    """

    example: ClassVar = {"k": 4, "epochs": 1}

    match: Patterns | None = Field(
        default=None, description="leaves to quantize; default: every float leaf with two or more axes"
    )
    slices: int = Field(default=1, ge=1, description="kernel slices of a convolution that make one sub-vector")
    d: int = Field(default=4, ge=1, description="length of a sub-vector of dense and 1 x 1 kernels, in weights")
    k: int = Field(default=256, ge=1, le=65536, description="centroids of a leaf, where it has four blocks for each")
    last: Patterns | None = Field(default=None, description="leaves that have `last_k` centroids instead")
    last_k: int = Field(default=1024, ge=1, le=65536, description="centroids of the leaves that `last` names")
    steps: int = Field(default=100, ge=0, description="iterations of k-means with noise; the paper has 10 to 1000")
    epochs: int = Field(default=9, ge=1, description="passes over the training data to tune codebooks and the rest")
    batch_size: int = Field(default=128, ge=1, description="examples in one step of tuning")
    learning_rate: float = Field(default=1e-3, gt=0, description="step size of Adam, at its highest")

    def expand(self) -> tuple[Stage, ...]:
        lengths = self.d if self.match is None else dict.fromkeys((*self.match, *(self.last or ())), self.d)
        order = Permute(d=lengths, slices=self.slices)
        blocking = KernelSlices(slices=self.slices, d=self.d)

        def quantized(match: Patterns | None, k: int) -> Quantize:
            learner = Annealed(k=k, least_blocks=4, steps=self.steps)
            return Quantize(match=match, blocking=blocking, learner=learner)

        # What `last` takes is quantized first, and left alone after that.
        last = () if self.last is None else (quantized(self.last, self.last_k),)
        tune = Finetune(epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate)
        return (order, *last, quantized(self.match, self.k), tune, Cast(match=("codebooks/*",)))
