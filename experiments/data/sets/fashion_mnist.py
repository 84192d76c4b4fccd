"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747): articles of clothing, in the form of MNIST."""

from experiments.data.sets.mnist import Mnist
from quantree.registry import register


@register("fashion_mnist")
class FashionMnist(Mnist):
    """Inputs uint8 [n, 28, 28, 1], white on black."""

    title = "articles of clothing, 28 x 28 grey"
    classes = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
