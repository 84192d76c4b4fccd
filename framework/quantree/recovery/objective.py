"""What a training minimises."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from quantree.model import Apply, Tree
from quantree.task import Batch


@dataclass(frozen=True)
class Objective:
    """The task's loss, distillation from the uncompressed network, or a mix. Hashable: equal ones share compiled code.

    loss = (1 - distill) task + distill T^2 KL(softmax(teacher / T) || softmax(student / T))   (Hinton et al. 2015,
    section 2)

    For tasks whose outputs are not logits the second term is the mean squared difference of the outputs.
    """

    apply: Apply
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    distill: float = 0.0
    temperature: float = 1.0
    logits: bool = True

    def __call__(
        self, params: Tree, state: Tree, teacher: tuple[Tree, Tree], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Tree]:
        """Mean loss over a batch, and the new state. `teacher` is (params, state) of the uncompressed network."""
        inputs, targets = batch
        outputs, state = self.apply(params, state, inputs, train=True, key=key)
        total = jnp.zeros((), outputs.dtype)
        if self.distill < 1:
            total += (1 - self.distill) * jnp.mean(self.loss(outputs, targets))
        if self.distill > 0:
            wanted = jax.lax.stop_gradient(self.apply(*teacher, inputs)[0])
            total += self.distill * jnp.mean(self._distance(wanted, outputs))
        return total, state

    def _distance(self, teacher: jax.Array, student: jax.Array) -> jax.Array:
        if not self.logits:
            return jnp.mean(jnp.square(student - teacher).reshape(teacher.shape[0], -1), axis=1)
        wanted = jax.nn.log_softmax(teacher / self.temperature)
        got = jax.nn.log_softmax(student / self.temperature)
        return self.temperature**2 * jnp.sum(jnp.exp(wanted) * (wanted - got), axis=-1)
