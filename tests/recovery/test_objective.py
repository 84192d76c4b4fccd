from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from quantree.recovery import Objective
from quantree.task import cross_entropy

RNG = np.random.default_rng(0)
X, LABELS = RNG.normal(size=(6, 3)).astype(np.float32), RNG.integers(0, 4, 6).astype(np.int32)
STUDENT, TEACHER = ({"w": RNG.normal(size=(3, 4)).astype(np.float32)} for _ in range(2))


def apply(params: Any, state: Any, inputs: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Any]:
    return jnp.dot(inputs, params["w"]), {"calls": state["calls"] + 1} if train else state


def squared(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(outputs - targets), axis=-1)


def value(objective: Objective, targets: Any = LABELS) -> float:
    loss, state = objective(STUDENT, {"calls": 0}, (TEACHER, {"calls": 5}), (X, targets), jax.random.key(0))
    assert state == {"calls": 1}, "the student's state, changed once"
    return float(loss)


@pytest.mark.parametrize("distill", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_hintons_loss(distill: float, temperature: float) -> None:
    student, teacher = (X.astype(np.float64) @ net["w"] for net in (STUDENT, TEACHER))
    hard = -log_softmax(student, axis=1)[np.arange(6), LABELS].mean()
    wanted = softmax(teacher / temperature, axis=1)
    divergence = (wanted * (np.log(wanted) - log_softmax(student / temperature, axis=1))).sum(axis=1).mean()
    found = value(Objective(apply, cross_entropy, distill, temperature))
    assert found == pytest.approx((1 - distill) * hard + distill * temperature**2 * divergence, rel=1e-5)


def test_outputs_that_are_no_logits_are_compared_as_they_are() -> None:
    targets = RNG.normal(size=(6, 4)).astype(np.float32)
    student, teacher = (X @ net["w"] for net in (STUDENT, TEACHER))
    found = value(Objective(apply, squared, 0.25, 3.0, logits=False), targets)
    assert found == pytest.approx(
        0.75 * np.mean((student - targets) ** 2) + 0.25 * np.mean((student - teacher) ** 2), rel=1e-5
    )


def test_the_teacher_gets_no_gradient_and_equal_objectives_are_one() -> None:
    objective = Objective(apply, cross_entropy, 0.5, 2.0)
    gradient = jax.grad(
        lambda student, teacher: objective(
            student, {"calls": 0}, (teacher, {"calls": 0}), (X, LABELS), jax.random.key(0)
        )[0],
        argnums=(0, 1),
    )(STUDENT, TEACHER)
    assert np.any(gradient[0]["w"]) and not np.any(gradient[1]["w"])
    assert objective == Objective(apply, cross_entropy, 0.5, 2.0) and hash(objective) == hash(
        Objective(apply, cross_entropy, 0.5, 2.0)
    )
