"""Arrays -> an order of channels that codes better with sub-vectors."""

from quantree.ordering.children import Child
from quantree.ordering.covariance import Order, by_covariance
from quantree.ordering.distortion import by_distortion, distortion
from quantree.ordering.moments import gaussian

__all__ = ["Child", "Order", "by_covariance", "by_distortion", "distortion", "gaussian"]
