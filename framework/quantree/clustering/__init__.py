"""Arrays -> centroids and codes: k-means for vectors, the sorted form for scalars, nearest-centroid search."""

from quantree.clustering.additive import Additive, additive, residual
from quantree.clustering.agglomerative import Agglomeration, agglomerate
from quantree.clustering.entropy import entropy_constrained, entropy_lloyd
from quantree.clustering.result import EntropyCoded, KMeans
from quantree.clustering.scalar import kmeans_1d
from quantree.clustering.search import assign
from quantree.clustering.vector import annealed, kmeans

__all__ = [
    "Additive",
    "Agglomeration",
    "EntropyCoded",
    "KMeans",
    "additive",
    "agglomerate",
    "annealed",
    "assign",
    "entropy_constrained",
    "entropy_lloyd",
    "kmeans",
    "kmeans_1d",
    "residual",
]
