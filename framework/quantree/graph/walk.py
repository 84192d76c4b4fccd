"""Reading a program (a jaxpr) operation by operation: what its values are called, and which of them are weights."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from quantree.graph.terms import ALONE, Labels, Mark, Terms, here

CALLS = {  # operations that only run another program, and where they keep it
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "custom_lin": "call_jaxpr",
}
CONTRACTIONS = {"dot_general", "conv_general_dilated"}
INPUT = ""  # stands for the inputs of the network among paths of leaves


@dataclass(frozen=True, eq=False)
class Value:
    """One array of the program: a term for every index of every axis, and what it was computed from: paths of leaves,
    `INPUT` for the inputs of the network, and nothing for the program's own numbers. linear: whether it is a sum of
    those leaves' numbers times others.
    """

    axes: tuple[Labels, ...]
    sources: frozenset[str] = frozenset()
    linear: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(labels) for labels in self.axes)

    @property
    def is_weights(self) -> bool:
        """True if it is computed from leaves and nothing else."""
        return bool(self.sources) and INPUT not in self.sources


@dataclass(frozen=True, eq=False)
class Contraction:
    """Weights that met activations in a sum of products (or, in a look-up, one row of them that is taken).

    summed, free: axes of the weights that are summed over, and that the outcome keeps. site: which contraction of the
    program this is, operand: the place of the activations among its arguments; None inside loops, or if there are none.
    """

    weights: frozenset[str]
    summed: tuple[Labels, ...]
    free: tuple[Labels, ...]
    activations: Value
    site: int | None
    operand: int


@dataclass
class Walk:
    """What is known while a program is read. rule: gives the outputs of one operation. numbers: single ones that are
    written into the program, in its order.
    """

    rule: "Callable[[Walk, Any, list[Value]], list[Value]]"
    terms: Terms = field(default_factory=Terms)
    contractions: list[Contraction] = field(default_factory=list)
    first_use: dict[str, int] = field(default_factory=dict)
    numbers: list[str] = field(default_factory=list)
    _sites: int = 0
    _loops: int = 0

    def run(self, program: Any, inputs: Sequence[Value]) -> list[Value]:
        """The outputs of a program."""
        jaxpr, consts = opened(program)
        known: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
        known |= {var: self.constant(const) for var, const in zip(jaxpr.constvars, consts, strict=True)}

        def read(atom: Any) -> Value:
            return self.constant(atom.val) if isinstance(atom, core.Literal) else known[atom]

        for eqn in jaxpr.eqns:
            given = [read(atom) for atom in eqn.invars]
            name = eqn.primitive.name
            if name in CALLS:
                outputs = self.run(eqn.params[CALLS[name]], given)
            else:
                for source in sorted({source for value in given for source in value.sources}):
                    self.first_use.setdefault(source, len(self.first_use))
                self._sites += name in CONTRACTIONS and not self._loops
                outputs = self.rule(self, eqn, given)
            known |= zip(eqn.outvars, outputs, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def loop(self, program: Any, inputs: Sequence[Value]) -> list[Value]:
        """The outputs of a program that runs several times, or perhaps not at all."""
        self._loops += 1
        outputs = self.run(program, inputs)
        self._loops -= 1
        return outputs

    def contract(
        self, operands: Sequence[Value], summed: Sequence[Sequence[int]], shared: Sequence[Sequence[int]]
    ) -> None:
        """A sum of products over axes `summed` of both operands, which run along `shared` together."""
        left, right = operands
        for axes in (summed, shared):
            for one, other in zip(*axes, strict=True):
                self.terms.unify(left.axes[one], right.axes[other])
        if left.is_weights == right.is_weights or not all(
            INPUT in each.sources or each.is_weights for each in operands
        ):
            for axis in summed[0]:
                self.terms.tie(left.axes[axis], "they are summed over in a product of two activations, or two weights")
        if left.is_weights and right.is_weights:
            return  # another kernel; what it does to channels is seen where it meets activations
        for own, (weights, activations) in enumerate(((left, right), (right, left))):
            gone = tuple(weights.axes[axis] for axis in summed[own])
            along = {*summed[own], *shared[own]}
            left_over = (labels for axis, labels in enumerate(weights.axes) if axis not in along)
            free = tuple(labels for labels in left_over if not self.terms.is_fixed(labels))
            self.note(weights, gone, free, activations, 1 - own)

    def note(
        self, weights: Value, summed: tuple[Labels, ...], free: tuple[Labels, ...], activations: Value, operand: int
    ) -> None:
        """Keeps a contraction, if `weights` are any."""
        if weights.is_weights:
            for labels in () if weights.linear else summed:
                # The sum of two kernels' rows would not give the sum of what they give.
                self.terms.tie(labels, "what sums over them is no linear function of its weights")
            site = self._sites - 1 if not self._loops and INPUT in activations.sources else None
            self.contractions.append(Contraction(weights.sources, summed, free, activations, site, operand))

    def constant(self, array: Any) -> Value:
        """An array that the program holds. Where it is the same all along an axis, that axis may be permuted."""
        if jnp.issubdtype(jnp.result_type(array), jax.dtypes.extended):
            return Value(tuple(self.still(n, "they are random keys") for n in array.shape))
        array = np.asarray(array)
        if array.size == 1:
            self.numbers.append(repr(array.item()))
        return Value(tuple(self._constant_axis(array, axis) for axis in range(array.ndim)))

    def _constant_axis(self, array: np.ndarray, axis: int) -> Labels:
        n = array.shape[axis]
        if n == 1:
            return self.alone()
        if n and (array == np.take(array, [0], axis)).all():
            return self.terms.fresh(n, here())
        return self.still(n, "a constant of the program tells them apart")

    def alone(self) -> Labels:
        """An axis of size 1."""
        return np.full(1, ALONE)

    def still(self, n: int, reason: str) -> Labels:
        """An axis along which nothing may move."""
        return np.full(n, self.terms.fixed(reason))

    def new(self, n: int, mark: Mark | None) -> Labels:
        """An axis along which all is the same."""
        return self.alone() if n == 1 else self.terms.fresh(n, mark)


def opened(jaxpr: Any) -> tuple[core.Jaxpr, Sequence[Any]]:
    """A program and its constants."""
    return (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, core.ClosedJaxpr) else (jaxpr, ())


def operands(program: Any, inputs: Sequence[Any], wanted: dict[int, int]) -> dict[int, jax.Array]:
    """Runs a program and gives operand `wanted[site]` of those contractions; sites are numbered as `Walk` does."""
    found: dict[int, jax.Array] = {}
    sites = itertools.count()

    def run(program: Any, inputs: Sequence[Any]) -> list[Any]:
        jaxpr, consts = opened(program)
        known: dict[Any, Any] = dict(zip(jaxpr.invars, inputs, strict=True))
        known |= zip(jaxpr.constvars, consts, strict=True)

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, core.Literal) else known[atom]

        for eqn in jaxpr.eqns:
            given = [read(atom) for atom in eqn.invars]
            name = eqn.primitive.name
            if name in CALLS:
                outputs = run(eqn.params[CALLS[name]], given)
            else:
                if name in CONTRACTIONS and (site := next(sites)) in wanted:
                    found[site] = given[wanted[site]]
                outputs = _bound(eqn, given)
            known |= zip(eqn.outvars, outputs, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    run(program, inputs)
    return found


def _bound(eqn: Any, given: list[Any]) -> list[Any]:
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)  # older versions of JAX: with functions
    outputs = eqn.primitive.bind(*functions, *given, **params)
    return list(outputs) if eqn.primitive.multiple_results else [outputs]
