"""A plain k-means as one writes it in PyTorch, in blocks of points, for the comparison on a GPU."""

from typing import Any

from experiments.benchmarks.peers import module

DISTANCES = 1 << 28  # that exist at once


def torch_kmeans(x: Any, start: Any, iterations: int) -> Any:
    """Tensors [n, d] and [k, d], or [b, n, d] and [b, k, d] -> centroids of the shape of `start`, full precision.

    A centroid without points stays where it is.
    """
    torch = module("torch")
    torch.set_float32_matmul_precision("highest")  # no TF32
    if x.ndim == 2:
        return torch_kmeans(x[None], start[None], iterations)[0]
    (b, n, d), k = x.shape, start.shape[1]
    step = max(1, DISTANCES // (b * k))
    row = torch.arange(b, device=x.device)[:, None] * k
    ones = torch.ones((b * min(step, n), 1), device=x.device)
    centroids = start
    for _ in range(iterations):
        sums = torch.zeros((b * k, d), device=x.device)
        counts = torch.zeros((b * k, 1), device=x.device)
        norms = centroids.square().sum(2)[:, None]
        for piece in x.split(step, dim=1):
            scores = torch.baddbmm(norms, piece, centroids.transpose(1, 2), alpha=-2)
            codes = (scores.argmin(2) + row).reshape(-1)
            sums.index_add_(0, codes, piece.reshape(-1, d))
            counts.index_add_(0, codes, ones[: len(codes)])
        means = torch.where(counts > 0, sums / counts.clamp(min=1), centroids.reshape(b * k, d))
        centroids = means.reshape(b, k, d)
    return centroids
