"""Arrays -> centroids and codes: k-means for vectors, the sorted form for scalars, nearest-centroid search."""

from quantree.clustering.additive import Additive, additive, residual
from quantree.clustering.agglomerative import Agglomeration, agglomerate
from quantree.clustering.balanced import Balanced, balanced_assign, balanced_kmeans
from quantree.clustering.entropy import entropy_constrained, entropy_lloyd
from quantree.clustering.result import EntropyCoded, KMeans
from quantree.clustering.scalar import kmeans_1d
from quantree.clustering.search import assign
from quantree.clustering.soft import SoftKMeans, soft_kmeans
from quantree.clustering.streaming import kmeans_minibatch, kmeans_streamed
from quantree.clustering.vector import annealed, kmeans

__all__ = [
    "Additive",
    "Agglomeration",
    "Balanced",
    "EntropyCoded",
    "KMeans",
    "SoftKMeans",
    "additive",
    "agglomerate",
    "annealed",
    "assign",
    "balanced_assign",
    "balanced_kmeans",
    "entropy_constrained",
    "entropy_lloyd",
    "kmeans",
    "kmeans_1d",
    "kmeans_minibatch",
    "kmeans_streamed",
    "residual",
    "soft_kmeans",
]
