"""A stem runs once for all that is distinct in its inputs; if no training changes it, once for the whole training."""

import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from quantree.encodings import Compressed, float_fields
from quantree.errors import QuantreeError
from quantree.model import Apply, Model, Stem, flatten, unflatten
from quantree.task import Batch, Data

_ROWS = 64  # that a branch sees at once; always as many, so that it is compiled once
_CHECKED = 4  # examples on which a stem is compared with its network
_ROUNDING = 1e-2  # by which they may differ, of the largest output: 16-bit floats and TF32 have few digits


def beyond_stem(
    compressed: Compressed,
    model: Model,
    data: Data,
    trained: Callable[[str], bool] | None,
    update: Callable[[Compressed, float], Compressed] | None,
) -> tuple[Model, Data] | None:
    """The network without its stem, and data whose inputs are the stem's features; None if the stem must run.

    It must if the model knows none; if a float field that it reads is trained, or changed by `update` at full strength;
    if inputs are augmented; or if it does something else in training than in use, as batch norms and dropout do. The
    features are those of the compressed model as it stands. The model's `apply` takes the same parameters as before.
    `QuantreeError` if branches and head are not what the network computes: one small batch is run both ways.
    """
    stem = model.stem
    first = None if stem is None else next(iter(data.validation(_CHECKED)), None)
    if stem is None or first is None:  # whoever measures tells that there is nothing to measure on
        return None
    inputs, _ = first
    params, state = compressed.decode(), unflatten(compressed.state)
    _check(model.apply, stem, params, state, inputs)
    if trained is None or data.augment is not None:
        return None
    reads: set[str] = set()
    for part, branch in stem.branches:
        read = _reads(branch, params, state, np.asarray(inputs)[:, part])
        if read is None:
            return None
        reads |= read
    if any(trained(name) for name in float_fields(compressed) if _belongs(name, reads, compressed)):
        return None
    if update is not None and _differ(params, update(compressed, 1.0).decode(), reads):
        return None
    features = Features(stem, params, state)
    # One batch of all, or one by one, leaves no example over, and whatever a later epoch brings has been seen. So
    # features do not depend on where a training that was cut off goes on.
    for examples in (data.train(0, 0, data.examples or 1), data.validation(_ROWS)):
        for inputs, _ in examples:
            features.meet(inputs)
    short = replace(
        data,
        train=lambda seed, epoch, size: features.through(data.train(seed, epoch, size)),
        validation=lambda size: features.through(data.validation(size)),
    )
    return replace(model, apply=stem.head, stem=None), short


def _reads(branch: Apply, params: Any, state: Any, inputs: Any) -> set[str] | None:
    """Paths of the parameters that a branch's outputs depend on; None if training is something else than use, or if it
    depends on state.
    """

    def program(train: bool) -> Any:
        def run(params: Any, state: Any, key: jax.Array, inputs: Any) -> Any:
            return branch(params, state, inputs, train=train, key=key)[0]

        return jax.make_jaxpr(run)(params, state, jax.random.key(0), inputs)

    in_training, in_use = program(True), program(False)
    if _text(in_training) != _text(in_use):
        return None
    used = {id(each) for equation in in_use.jaxpr.eqns for each in equation.invars}
    used |= {id(each) for each in in_use.jaxpr.outvars}
    paths = list(flatten(params))
    arguments = [id(each) in used for each in in_use.jaxpr.invars]
    if any(arguments[len(paths) : len(paths) + len(flatten(state))]):
        return None
    return {path for path, is_read in zip(paths, arguments, strict=False) if is_read}


def _check(apply: Apply | None, stem: Stem, params: Any, state: Any, inputs: Any) -> None:
    """`QuantreeError` if branches and head give something else than the network does, but for rounding."""
    assert apply is not None
    features = [
        _ran(f"the branch of {_told(part)}", _Branch(part, branch, params, state).features, inputs)
        for part, branch in stem.branches
    ]
    run = functools.partial(forward(stem.head), params, state)
    cut = np.asarray(_ran("the head", lambda: run(np.concatenate(features, axis=1))), np.float64)
    whole = np.asarray(forward(apply)(params, state, inputs), np.float64)
    largest = np.max(np.abs(whole), initial=0, where=np.isfinite(whole))
    if cut.shape != whole.shape:
        found, wanted = f"outputs {cut.shape}", str(whole.shape)
    elif (wrong := ~np.isclose(cut, whole, rtol=0, atol=_ROUNDING * largest + 1e-6, equal_nan=True)).any():
        found, wanted = (f"{each[wrong][0]:.4g}" for each in (cut, whole))
    else:
        return
    order = ", ".join(_told(part) for part, _ in stem.branches)
    raise QuantreeError(
        f"the head on the features of {order}, in this order, gives {found} where the network gives {wanted}: see that "
        "each branch has its part, and that they stand in the order that the head wants"
    )


def _ran(what: str, run: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return run(*arguments)
    except (TypeError, ValueError, IndexError) as error:  # shapes that do not fit, as JAX and NumPy tell them
        raise QuantreeError(f"{what} of the stem can't be run: {error}") from error


def _told(part: slice) -> str:
    ends = ["" if each is None else str(each) for each in (part.start, part.stop, part.step)]
    return f"inputs[:, {':'.join(ends).removesuffix(':' * (part.step is None))}]"


def _text(program: Any) -> str:
    return re.sub("0x[0-9a-f]+", "", str(program))  # places in memory of the functions that it calls


def _belongs(field: str, paths: set[str], compressed: Compressed) -> bool:
    """Whether a float field is part of one of these leaves, or of a codebook that one of them uses."""
    books = {f"codebooks/{book}" for path in paths for book in compressed.leaves[path].uses()}
    return any(field.startswith(f"{owner}/") for owner in paths | books)


def _differ(before: Any, after: Any, paths: set[str]) -> bool:
    old, new = flatten(before), flatten(after)
    return any(not np.array_equal(np.asarray(old[path]), np.asarray(new[path])) for path in paths)


class Features:
    """What the branches of a stem give for every distinct part of an input that was seen, with these parameters."""

    def __init__(self, stem: Stem, params: Any, state: Any) -> None:
        self.branches = [_Branch(part, apply, params, state) for part, apply in stem.branches]

    def meet(self, inputs: Any) -> None:
        """Takes note of inputs [n, ...] that will be asked for."""
        for branch in self.branches:
            branch.meet(inputs)

    def through(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches with features [n, widths together] in place of inputs [n, ...]."""
        for inputs, targets in batches:
            yield np.concatenate([branch.features(inputs) for branch in self.branches], axis=1), targets


@functools.lru_cache(maxsize=64)
def forward(apply: Apply) -> Callable[..., jax.Array]:
    """Jitted: (params, state, inputs) -> outputs."""
    return jax.jit(lambda params, state, inputs: apply(params, state, inputs)[0])


class _Branch:
    def __init__(self, part: slice, apply: Apply, params: Any, state: Any) -> None:
        self.part = part
        self.run = lambda inputs: np.asarray(forward(apply)(params, state, inputs))
        self.places: dict[bytes, int] = {}
        self.waiting: list[np.ndarray] = []
        self.known: list[np.ndarray] = []

    def meet(self, inputs: Any) -> list[int]:
        """Numbers of the distinct parts that these inputs hold."""
        numbers = []
        for row in np.asarray(inputs)[:, self.part]:
            name = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            if name not in self.places:
                self.places[name] = len(self.places)
                self.waiting.append(np.array(row))
                if len(self.waiting) == _ROWS:
                    self._run_waiting()
            numbers.append(self.places[name])
        return numbers

    def features(self, inputs: Any) -> np.ndarray:
        """Features [n, width] of inputs [n, ...]."""
        numbers = self.meet(inputs)
        self._run_waiting()
        if len(self.known) > 1:
            self.known = [np.concatenate(self.known)]
        return self.known[0][numbers]

    def _run_waiting(self) -> None:
        if self.waiting:
            rows = np.stack(self.waiting)
            padded = np.concatenate([rows, np.repeat(rows[:1], _ROWS - len(rows), axis=0)])
            self.known.append(self.run(padded)[: len(rows)])
            self.waiting = []
