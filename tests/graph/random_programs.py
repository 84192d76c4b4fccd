"""Random networks: chains of operations on activations [examples, steps, channels], drawn one by one."""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from quantree.model import Model, Tree
from tests.graph.cases import Pure

Step = Callable[[Tree, list[Array]], Array]
WIDEST = 24


@dataclass
class Program:
    """A network as it grows. shapes: of the parameters; steps: each makes one more array of those made before; told:
    what they do; sizes: steps and channels of each array, the input first.
    """

    rng: np.random.Generator
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=lambda: [(2, 5)])

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.shapes)}"
        self.shapes[name] = shape
        return name

    def add(self, told: str, step: Step, size: tuple[int, int]) -> None:
        if size[0] * size[1] <= 2 * WIDEST and min(size) > 0:
            self.told.append(told)
            self.steps.append(step)
            self.sizes.append(size)

    def pick(self, *choices: int) -> int:
        return int(self.rng.choice(choices))

    def __call__(self, params: Tree, x: Array) -> Array:
        made = [x]
        for step in self.steps:
            made.append(step(params, made))
        flat = made[-1].reshape(x.shape[0], -1)
        return flat @ params["out"]

    def model(self) -> Model:
        rng = np.random.default_rng(0)
        scale = {name: 1 / np.sqrt(shape[0]) if len(shape) > 1 else 1 for name, shape in self.shapes.items()}
        arrays = {name: scale[name] * rng.normal(size=shape) for name, shape in self.shapes.items()}
        return Model({name: jnp.asarray(value.astype(np.float32)) for name, value in arrays.items()}, {}, Pure(self))


def program(seed: int, length: int) -> Program:
    found = Program(np.random.default_rng(seed))
    _dense(found)
    while len(found.steps) < length:
        OPERATIONS[int(found.rng.integers(len(OPERATIONS)))](found)
    steps, width = found.sizes[-1]
    found.shapes["out"] = (steps * width, 3)
    return found


def _dense(p: Program) -> None:
    steps, width = p.sizes[-1]
    wider = p.pick(4, 6, 8)
    w, b = p.weight(width, wider), p.weight(wider)
    p.add("dense", lambda q, a: jnp.tanh(a[-1] @ q[w] + q[b][None, None]), (steps, wider))


def _gain(p: Program) -> None:
    steps, width = p.sizes[-1]
    w = p.weight(width)
    p.add("gain", lambda q, a: a[-1] * q[w][None, None], (steps, width))


def _gain_per_step(p: Program) -> None:
    steps, width = p.sizes[-1]
    w = p.weight(steps, width)
    p.add("gain per step", lambda q, a: a[-1] * q[w][None], (steps, width))


def _square(p: Program) -> None:
    p.add("square", lambda q, a: a[-1] * a[-1] + a[-1], p.sizes[-1])


def _older(p: Program, alike: Callable[[tuple[int, int]], bool]) -> int | None:
    fits = [i for i, size in enumerate(p.sizes[:-1]) if i and alike(size)]
    return int(p.rng.choice(fits)) if fits else None


def _residual(p: Program) -> None:
    i = _older(p, lambda size: size == p.sizes[-1])
    if i is not None:
        times = p.pick(0, 1)
        p.add(f"with {i}", lambda q, a: a[-1] * a[i] if times else a[-1] + a[i], p.sizes[-1])


def _concatenated(p: Program) -> None:
    steps, width = p.sizes[-1]
    i = _older(p, lambda size: size[0] == steps)
    if i is not None:
        p.add(f"beside {i}", lambda q, a: jnp.concatenate([a[i], a[-1]], axis=-1), (steps, width + p.sizes[i][1]))


def _halves(p: Program) -> None:
    steps, width = p.sizes[-1]
    if width % 2:
        return
    kind = p.pick(0, 1, 2, 3)

    def step(q: Tree, a: list[Array]) -> Array:
        one, other = jnp.split(a[-1], 2, axis=-1)
        if kind == 0:
            return one * jax.nn.sigmoid(other)
        if kind == 1:
            return one - other
        return jnp.concatenate([other, one] if kind == 2 else [one + other, one - other], axis=-1)

    p.add(f"halves {kind}", step, (steps, width // 2 if kind < 2 else width))


def _slice(p: Program) -> None:
    steps, width = p.sizes[-1]
    start, stride = p.pick(0, 1, 2), p.pick(1, 1, 2)
    p.add(f"[{start}::{stride}]", lambda q, a: a[-1][..., start::stride], (steps, len(range(start, width, stride))))


def _pad(p: Program) -> None:
    steps, width = p.sizes[-1]
    low, high = p.pick(0, 1, 2), p.pick(0, 1)
    p.add(f"pad {low} {high}", lambda q, a: jnp.pad(a[-1], ((0, 0), (0, 0), (low, high))), (steps, low + width + high))


def _roll(p: Program) -> None:
    by = p.pick(1, 2, 3)
    p.add(f"roll {by}", lambda q, a: jnp.roll(a[-1], by, axis=-1), p.sizes[-1])


def _flip(p: Program) -> None:
    axis = p.pick(1, 2)
    p.add(f"flip {axis}", lambda q, a: jnp.flip(a[-1], axis=axis), p.sizes[-1])


def _shuffle(p: Program) -> None:
    steps, width = p.sizes[-1]
    rows = p.pick(2, 3, 4)
    if width % rows == 0:
        p.add(
            f"shuffle {rows}",
            lambda q, a: a[-1].reshape(3, steps, rows, -1).swapaxes(2, 3).reshape(3, steps, -1),
            (steps, width),
        )


def _pooled(p: Program) -> None:
    steps, width = p.sizes[-1]
    rows, axis, kind = p.pick(2, 3), p.pick(2, 3), p.pick(0, 1)
    if width % rows == 0 and width > rows:

        def step(q: Tree, a: list[Array]) -> Array:
            grid = a[-1].reshape(3, steps, rows, -1)
            return grid.max(axis=axis) if kind else grid.sum(axis=axis)

        p.add(f"pooled {rows} {axis} {kind}", step, (steps, width // rows if axis == 2 else rows))


def _repeat(p: Program) -> None:
    steps, width = p.sizes[-1]
    tile = p.pick(0, 1)
    p.add(
        f"repeat {tile}",
        lambda q, a: jnp.tile(a[-1], (1, 1, 2)) if tile else jnp.repeat(a[-1], 2, axis=-1),
        (steps, 2 * width),
    )


def _norm(p: Program) -> None:
    kind = p.pick(0, 1, 2)
    p.add(
        f"norm {kind}",
        lambda q, a: (
            jax.nn.softmax(a[-1])
            if kind == 0
            else a[-1] - a[-1].mean(axis=-1, keepdims=True)
            if kind == 1
            else a[-1] + a[-1].max(axis=-2, keepdims=True)
        ),
        p.sizes[-1],
    )


def _constant(p: Program) -> None:
    steps, width = p.sizes[-1]
    values = p.rng.choice([0.5, 1, 2], size=(steps, 1) if p.pick(0, 1) else (1, width)).astype(np.float32)
    p.add(f"times {values.tolist()}", lambda q, a: a[-1] * values[None], (steps, width))


def _folded(p: Program) -> None:
    steps, width = p.sizes[-1]
    inner = p.pick(0, 1)
    p.add(
        f"folded {inner}",
        lambda q, a: (a[-1].swapaxes(1, 2) if inner else a[-1]).reshape(3, 1, -1),
        (1, steps * width),
    )


def _unfolded(p: Program) -> None:
    steps, width = p.sizes[-1]
    if width % 2 == 0 and steps == 1:
        p.add("unfolded", lambda q, a: a[-1].reshape(3, 2, -1), (2, width // 2))


def _turned_step(p: Program) -> None:
    steps, width = p.sizes[-1]
    if steps != 2:
        return
    kind, dealt = p.pick(0, 1, 2), p.pick(0, 1)

    def step(q: Tree, a: list[Array]) -> Array:
        one, other = a[-1][:, 0], a[-1][:, 1]
        if kind == 0:
            other = jnp.roll(other, 1, axis=-1)
        elif kind == 1 and width % 2 == 0:
            other = other.reshape(3, 2, -1).swapaxes(1, 2).reshape(3, -1)
        elif kind == 2:
            other = jnp.flip(other, axis=-1)
        return jnp.stack([one, other], axis=2 if dealt else 1).reshape(3, 1, -1)

    p.add(f"second step turned {kind} {dealt}", step, (1, 2 * width))


def _outer(p: Program) -> None:
    steps, width = p.sizes[-1]
    i = _older(p, lambda size: size[0] == steps and size[1] * width <= WIDEST)
    if i is not None:
        size = p.sizes[i][1] * width
        p.add(
            f"outer {i}", lambda q, a: (a[i][..., :, None] * a[-1][..., None, :]).reshape(3, steps, -1), (steps, size)
        )


def _grouped(p: Program) -> None:
    steps, width = p.sizes[-1]
    groups, outputs = p.pick(2, 3), p.pick(1, 2, 3)
    if width % groups == 0:
        w, last = p.weight(groups, width // groups, outputs), p.pick(0, 1)

        def step(q: Tree, a: list[Array]) -> Array:
            grid = a[-1].reshape(3, steps, groups, -1)
            return jnp.tanh(jnp.einsum("ntgi,gio->ntog" if last else "ntgi,gio->ntgo", grid, q[w])).reshape(
                3, steps, -1
            )

        p.add(f"grouped {groups} {outputs} {last}", step, (steps, groups * outputs))


def _attention(p: Program) -> None:
    steps, width = p.sizes[-1]
    i = _older(p, lambda size: size[1] == width)
    if i is not None:
        p.add(
            f"attention to {i}",
            lambda q, a: jnp.einsum("ntc,nsc,nsd->ntd", a[-1], a[i], a[i]),
            (steps, width),
        )


def _tied(p: Program) -> None:
    steps, width = p.sizes[-1]
    w, kind = p.weight(width, width), p.pick(0, 1, 2)

    def step(q: Tree, a: list[Array]) -> Array:
        y = jnp.tanh(a[-1] @ (q[w] + q[w].T if kind == 1 else q[w]))
        return y @ q[w].T if kind == 2 else y

    p.add(f"square kernel {kind}", step, (steps, width))


def _recurrent(p: Program) -> None:
    steps, width = p.sizes[-1]
    w = p.weight(width, width)

    def step(q: Tree, a: list[Array]) -> Array:
        def once(h: Array, now: Array) -> tuple[Array, Array]:
            h = jnp.tanh(now + h @ q[w])
            return h, h

        return jax.lax.scan(once, jnp.zeros_like(a[-1][:, 0]), a[-1].swapaxes(0, 1))[1].swapaxes(0, 1)

    p.add("recurrent", step, (steps, width))


OPERATIONS: tuple[Callable[[Program], None], ...] = (
    *(_dense, _dense, _gain, _gain_per_step, _square, _residual, _concatenated, _halves, _slice, _pad, _roll, _flip),
    *(_shuffle, _pooled, _repeat, _norm, _constant, _folded, _unfolded, _turned_step, _outer, _grouped, _attention),
    *(_tied, _recurrent),
)
