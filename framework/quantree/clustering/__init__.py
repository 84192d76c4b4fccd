"""Arrays -> centroids and codes: k-means for vectors, the sorted form for scalars, nearest-centroid search."""

from quantree.clustering.result import KMeans
from quantree.clustering.scalar import kmeans_1d
from quantree.clustering.search import assign
from quantree.clustering.vector import kmeans

__all__ = ["KMeans", "assign", "kmeans", "kmeans_1d"]
