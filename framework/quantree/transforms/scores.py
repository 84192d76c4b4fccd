"""How much a channel counts, for the removal of those that count least."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from scipy.spatial.distance import pdist, squareform

from quantree.encodings import Compressed
from quantree.errors import ConfigError
from quantree.graph import Group, Member
from quantree.transforms.effective import rows

Score = Literal["magnitude", "norm_scale", "geometric_median"]
Norm = Literal["l1", "l2"]


def score(compressed: Compressed, group: Group, kind: Score, norm: Norm) -> np.ndarray:
    """One number for each channel of a group, float64 [channels]; what counts least is smallest.

    magnitude: norm of all weights that lead to the channel, in all kernels that make it, biases aside (Li et al. 2017,
    arXiv 1608.08710). norm_scale: size of its scale in the norm behind, or the norm of its scales if there are several
    (network slimming, Liu et al. 2017, arXiv 1708.06519). geometric_median: sum of the distances of its weights to
    those of the others, small where others can stand for it (FPGM, He et al. 2019, arXiv 1811.00250).

    `ConfigError` if the group has none of the arrays that count; `LeafError` if one is quantized, or not finite.
    """
    if kind == "norm_scale":
        scales = [each for each in group.having("per-channel") if each.path.rpartition("/")[2] == "scale"]
        if not scales:
            raise ConfigError(f"{group.name}: no norm behind it has a `scale`; another score is needed for it")
        return _norm(_rows(compressed, scales), norm)
    producers = group.having("producer")
    if not producers:
        raise ConfigError(f"{group.name}: no kernel makes these channels, so they have no weights to compare")
    rows = _rows(compressed, producers)
    if kind == "magnitude":
        return _norm(rows, norm)
    return squareform(pdist(rows, "cityblock" if norm == "l1" else "euclidean")).sum(axis=1)


def least(
    compressed: Compressed, groups: Sequence[Group], scores: Mapping[str, np.ndarray], share: float
) -> dict[str, np.ndarray]:
    """The channels that stay, by group, if those of least score go until the model has this share of its parameters.

    Scores are compared between groups once they are divided by their l2 norm over the group (Molchanov et al. 2017,
    arXiv 1611.06440), so that neither fan-in nor scale of a layer decides; one channel of each group stays. Counted are
    the entries of all parameters, pruned ones too. `ConfigError` if that is not enough.
    """
    shapes = {path: list(leaf.shape) for path, leaf in compressed.leaves.items()}
    sizes = {path: int(np.prod(shape)) for path, shape in shapes.items()}
    total = sum(sizes.values())
    left, wanted = total, share * total
    kept = {group.name: np.ones(group.size, bool) for group in groups}
    relative = [scores[group.name] / max(float(np.linalg.norm(scores[group.name])), 1e-300) for group in groups]
    channels = [(group, channel) for group in groups for channel in range(group.size)]
    for i in np.argsort(np.concatenate(relative), kind="stable").tolist():
        if left <= wanted:
            break
        group, channel = channels[i]
        stays = kept[group.name]
        if stays.sum() == 1:
            continue
        stays[channel] = False
        for member in group.members:
            if not member.state:
                shapes[member.path][member.axis] -= member.places.shape[1]
        for path in {member.path for member in group.members if not member.state}:
            left -= sizes[path]
            sizes[path] = int(np.prod(shapes[path]))
            left += sizes[path]
    if left > wanted:
        raise ConfigError(
            f"with one channel left in each group the model still has {left / total:.4f} of its parameters, more than "
            f"{share:g}"
        )
    return {name: np.flatnonzero(stays) for name, stays in kept.items()}


def _rows(compressed: Compressed, members: Sequence[Member]) -> np.ndarray:
    """All that these arrays have for each channel, float64 [channels, n]."""
    return np.concatenate([rows(compressed, member) for member in members], axis=1)


def _norm(rows: np.ndarray, norm: Norm) -> np.ndarray:
    return np.linalg.norm(rows, 1 if norm == "l1" else 2, axis=1)
