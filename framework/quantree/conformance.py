"""What every plug-in must do, whatever it does inside: one table of checks per family.

A plug-in joins by being registered; `example`, on its class, gives the settings that have no default. Its author runs
`check("learner", "mine")`, or has pytest list the checks one by one:

    @pytest.mark.parametrize("name", qt.conformance.checks("learner"))
    def test_mine(name):
        qt.conformance.check("learner", "mine", name)
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pydantic

from quantree.coding import Coder
from quantree.coding.base import Symbols
from quantree.encodings import Blocking, Compressed, Scalar, SubVectors
from quantree.errors import ConfigError, DataError, FormatError, LeafError, PluginError, QuantreeError, nearest
from quantree.model import Model, Tree, from_params, unflatten
from quantree.quantizers import Grouping, KMeans, Learner, PerTensor, Quantize, WholeNet
from quantree.recipe import Recipe
from quantree.registry import Plugin, registered
from quantree.stage import Stage
from quantree.storage.file import from_bytes, to_bytes
from quantree.task import Classification, Data
from quantree.transforms import Prune

Check = Callable[[Any], None]
_checks: dict[str, dict[str, Check]] = {}
_REFUSALS = (ConfigError, LeafError, DataError)  # ways to say that a stage can't be used here


def checks(family: str) -> dict[str, Check]:
    """Name -> check of what a plug-in of this family promises; each is called with an instance and raises
    `PluginError` if a promise is broken. Every family of plug-ins has the checks of its settings.
    """
    return {**_checks[Plugin.__name__], **_checks.get(family, {})}


def check(family: str, name: str, only: str | None = None) -> None:
    """Holds the registered plug-in `name` to every check of its family, or to one of them.

    `PluginError` tells the broken promise. A learner, grouping or blocking is tried with every registered partner,
    which takes seconds the first time, while JAX compiles.
    """
    known = checks(family)
    if only is not None and only not in known:
        raise PluginError(f"no check of {family}s is called {only!r}; {nearest(only, list(known))}")
    plugin = instance(family, name)
    for title in known if only is None else (only,):
        try:
            known[title](plugin)
        except Exception as error:
            reason = str(error) if isinstance(error, _Broken) else f"{type(error).__name__}: {error}"
            raise PluginError(f"{family} {name!r}, check {title!r}: {reason}") from error


def instance(family: str, name: str) -> Any:
    """The plug-in with the settings of its `example`; `PluginError` if they don't do, or there is no such plug-in."""
    plugins = registered(family)
    if name not in plugins:
        raise PluginError(f"no {family} is called {name!r}; {nearest(name, list(plugins))}")
    plugin = plugins[name]
    if not issubclass(plugin, Plugin):
        raise PluginError(f"there are no checks for the family {family!r}")
    try:
        return plugin.from_config({"kind": name, **plugin.example})
    except pydantic.ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        told = "`example: ClassVar = {...}` on the class must give what has no default"
        raise PluginError(f"{family} {name!r}: its `example` makes no instance ({wrong}); {told}") from None


class _Broken(Exception):
    """A promise is not kept."""


def _hold(kept: Any, otherwise: str) -> None:
    if not kept:
        raise _Broken(otherwise)


def _promise(family: str) -> Callable[[Check], Check]:
    def add(function: Check) -> Check:
        _checks.setdefault(family, {})[function.__name__.strip("_").replace("_", " ")] = function
        return function

    return add


def _same(one: Any, other: Any) -> bool:
    """True if two pytrees are equal to the bit."""
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    pairs = zip(*(map(np.asarray, jax.tree.leaves(tree)) for tree in (one, other)), strict=True)
    return all((a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes()) for a, b in pairs)


# --- Every family ---------------------------------------------------------------------------------------------------


@_promise(Plugin.__name__)
def _settings(plugin: Plugin) -> None:
    """Settings go to plain data and back, and the schema of configs can show them."""
    kind = type(plugin)
    again = registered(plugin.family)[plugin.name].from_config(plugin.to_config())
    _hold(again == plugin, f"settings {plugin.to_config()} come back as {again.to_config()}")
    _hold(vars(kind).get("__doc__"), f"{kind.__name__} has no docstring; `python -m experiments.methods` shows it")
    bare = [field for field, about in kind.model_fields.items() if not about.description]
    _hold(not bare, f"settings without a description: {', '.join(bare)}; use pydantic's Field(description=...)")


# --- Quantizers: learner x blocking x grouping ----------------------------------------------------------------------


@functools.cache
def _weights() -> Model:
    rng = np.random.default_rng(0)
    shapes = {"conv/kernel": (3, 3, 2, 4), "fc/kernel": (18, 4), "fc/bias": (4,), "tiny/kernel": (1, 4)}
    params: Tree = {}
    for path, shape in shapes.items():
        layer, leaf = path.split("/")
        params.setdefault(layer, {})[leaf] = rng.normal(size=shape).astype(np.float32)
    return from_params(params)


def _quantizes(plugin: Learner | Blocking | Grouping) -> None:
    """Together with its partners it gives a model that decodes, jits, is stored and found again, all to the bit."""
    tried = 0
    for learner, blocking, grouping in _with_partners(plugin):
        try:
            stage = Quantize(learner=learner, blocking=blocking, grouping=grouping)
        except pydantic.ValidationError:
            continue  # a combination that `quantize` refuses
        tried += 1
        with_names = f"with learner {learner.name!r}, blocking {blocking.name!r}, grouping {grouping.name!r}: "
        for stages in ((stage,), (Prune(density=0.5), stage)):
            recipe = Recipe(stages=stages)
            try:
                compressed = recipe.run(_weights(), key=_key())
            except LeafError:
                if isinstance(grouping, PerTensor):
                    raise
                continue  # leaves whose blocks differ in length can't share a codebook
            try:
                _decodes(compressed, pruned=len(stages) > 1)
            except _Broken as broken:
                raise _Broken(with_names + str(broken)) from None
            _hold(
                _same(recipe.run(_weights(), key=_key()), compressed), with_names + "the same key gives another model"
            )
    _hold(tried, "no combination with a registered learner, blocking and grouping is possible")


def _with_partners(plugin: Learner | Blocking | Grouping) -> Iterator[tuple[Learner, Blocking, Grouping]]:
    """The plug-in with each pair of partners: learners meet all, the others meet k-means."""
    choices: list[list[Any]] = [[KMeans(k=3)], _all(Blocking), _all(Grouping)]
    for place, family in enumerate((Learner, Blocking, Grouping)):
        if isinstance(plugin, family):
            choices[place] = [plugin]
    return itertools.product(*choices)


def _all(family: type[Plugin]) -> list[Any]:
    return [instance(family.family, name) for name in sorted(registered(family.family))]


def _decodes(compressed: Compressed, pruned: bool) -> None:
    compressed.check()
    decoded = compressed.decode()
    for path, leaf in compressed.leaves.items():
        layer, name = path.split("/")
        original, found = np.asarray(_weights().params[layer][name]), np.asarray(decoded[layer][name])
        here = f"{path} decodes to {found.dtype} {found.shape}, not to {original.dtype} {original.shape}"
        _hold((found.shape, found.dtype) == (original.shape, original.dtype), here)
        _hold(np.isfinite(found).all(), f"{path} decodes to NaN or infinity")
        _hold(len(leaf.uses()) == (name == "kernel"), f"{path} uses the codebooks {leaf.uses()}")
        zeros = leaf.zeros()
        _hold(zeros is None or not found[zeros].any(), f"{path}: pruned weights decode to something else than zero")
        if name == "kernel" and not pruned:
            better = np.mean((found - original) ** 2) < np.mean(original**2)
            _hold(better, f"{path}: the squared error is not less than that of zeros in place of all weights")
    _hold(_same(jax.jit(lambda tree: tree.decode())(compressed), decoded), "decode gives something else under jit")
    _hold(_same(from_bytes(to_bytes(compressed)), compressed), "what is loaded is not what was saved")


for _family in (Learner, Blocking, Grouping):
    _promise(_family.family)(_quantizes)


def _problems(learner: Learner) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(what it is, blocks [segments, n, d], mask [segments, n]): the corners that real networks have."""
    rng = np.random.default_rng(1)
    for d in (1,) if learner.scalars_only else (1, 3):
        blocks = rng.normal(size=(1, 60, d)).astype(np.float32)
        whole, part = np.ones((1, 60), bool), np.arange(60)[None] % 3 > 0
        yield "normal weights", blocks, whole
        yield "weights of which a third is pruned", blocks, part
        yield "one weight that takes part", blocks, np.arange(60)[None] == 7
        yield "equal weights", np.full_like(blocks, 0.25), whole
        yield "weights that are all zero", np.zeros_like(blocks), whole
        yield "weights of one sign", np.abs(blocks), part
        yield "very small weights", blocks * np.float32(1e-20), whole
        yield "very large weights", blocks * np.float32(1e15), whole
        yield "a single weight", blocks[:, :1], whole[:, :1]
    if not learner.scalars_only:
        yield "two segments", rng.normal(size=(2, 30, 2)).astype(np.float32), np.arange(60).reshape(2, 30) % 4 > 0


@_promise(Learner.family)
def _contract(learner: Learner) -> None:
    """`learn` gives a finite codebook of the right shape and codes into it, in every corner, and the same again."""
    for what, blocks, mask in _problems(learner):
        segments, n, d = blocks.shape
        arrays = jnp.asarray(blocks), jnp.asarray(mask)
        book, codes = learner.learn(*arrays, _key())
        table, found = np.asarray(book.table()), np.asarray(codes)
        _hold(table.shape == (segments, book.size, d), f"{what}: a table {table.shape}, not {(segments, book.size, d)}")
        _hold(np.isfinite(table).all(), f"{what}: centroids are NaN or infinite")
        _hold(found.shape == (segments, n), f"{what}: codes of shape {found.shape}, not {(segments, n)}")
        _hold(found.dtype.kind in "iu", f"{what}: codes are {found.dtype}, not integers")
        taken = found[mask]
        _hold(taken.min() >= 0 and taken.max() < book.size, f"{what}: codes outside of the codebook of {book.size}")
        # In float64: the squares of very large or small weights leave the range of float32.
        decoded = np.stack([table[s][np.where(mask[s], found[s], 0)] for s in range(segments)]).astype(np.float64)
        error, power = (np.sum(np.square(x[mask])) for x in (decoded - blocks, blocks.astype(np.float64)))
        _hold(error <= power * 1.0001, f"{what}: the squared error {error:.3g} is above that of zeros, {power:.3g}")
        _hold(_same(learner.learn(*arrays, _key()), (book, codes)), f"{what}: the same key gives something else")


@_promise(Learner.family)
def _ignores_what_is_pruned(learner: Learner) -> None:
    """Blocks that take no part change nothing."""
    blocks = np.random.default_rng(2).normal(size=(1, 40, 1)).astype(np.float32)
    mask = np.arange(40)[None] % 2 == 0
    other = np.where(mask[..., None], blocks, np.float32(9.0))
    tables = [learner.learn(jnp.asarray(x), jnp.asarray(mask), _key())[0].table() for x in (blocks, other)]
    _hold(_same(*tables), "the codebook depends on blocks that the mask leaves out")


@_promise(Learner.family)
def _ladder(learner: Learner) -> None:
    """The settings that the stage `budget` tries are of this learner, each once."""
    kind = type(learner)
    rungs = kind.ladder()
    _hold(all(type(rung) is kind for rung in rungs), f"not every rung is a {kind.__name__}: {rungs}")
    _hold(len({repr(rung) for rung in rungs}) == len(rungs), f"a rung stands there twice: {rungs}")


@_promise(Learner.family)
def _devices(learner: Learner) -> None:
    """The same codebook and codes on each device of one kind."""
    blocks = np.random.default_rng(3).normal(size=(1, 24, 1)).astype(np.float32)
    results = []
    for device in jax.devices()[:2]:
        with jax.default_device(device):
            here, mask = jax.device_put(blocks, device), jax.device_put(np.ones((1, 24), bool), device)
            results.append(learner.learn(here, mask, jax.random.key(0)))
    _hold(_same(results[0], results[-1]), "two devices give different results")


# --- The other families ---------------------------------------------------------------------------------------------


@_promise(Blocking.family)
def _splits_and_joins(blocking: Blocking) -> None:
    """`join` is the inverse of `split`, which gives the shape that `segments`, `count` and `width` tell."""
    for shape in ((7,), (4, 6), (5, 4), (1, 4), (4, 1), (3, 3, 2, 4)):
        leaf = jnp.arange(1, 1 + int(np.prod(shape)), dtype=jnp.float32).reshape(shape)
        blocks = blocking.split(leaf)
        told = blocking.segments(shape), blocking.count(shape), blocking.width(shape)
        _hold(blocks.shape == told, f"a leaf {shape} is split into {blocks.shape}, where the methods tell {told}")
        _hold(_same(blocking.join(blocks, shape), leaf), f"a leaf {shape} is not put together again")
        _hold(_same(jax.jit(blocking.split)(leaf), blocks), f"a leaf {shape} is split in another way under jit")
        joined = jax.jit(blocking.join, static_argnums=1)(blocks, shape)
        _hold(_same(joined, leaf), f"a leaf {shape} is put together in another way under jit")


@_promise(Grouping.family)
def _groups(grouping: Grouping) -> None:
    """Every path is in exactly one group, whatever paths are asked for."""
    leaves = Compressed.from_model(_weights()).leaves
    for paths in (list(leaves), list(leaves)[:1], list(leaves)[::-1]):
        groups = grouping.groups(paths, leaves)
        members = sorted(itertools.chain.from_iterable(groups.values()))
        _hold(members == sorted(paths), f"of the leaves {sorted(paths)} the groups hold {members}")
        _hold(all(isinstance(name, str) and name for name in groups), f"names of codebooks: {list(groups)}")
        _hold(all(groups.values()), "a group holds no leaf")


@_promise(Coder.family)
def _codes(coder: Coder) -> None:
    """What is decoded is what was encoded; what was cut off is a `FormatError` or other symbols, and nothing else."""
    rng = np.random.default_rng(4)
    skewed = np.minimum(rng.geometric(0.4, size=(30, 20)) - 1, 8)
    streams = [(skewed, 9), (np.zeros(5, int), 1), (np.zeros((4, 3), int), 2), (rng.integers(0, 300, 400), 300)]
    streams += [(np.zeros(0, int), 3), (np.array([6]), 7), (np.where(rng.random((9, 11)) < 0.9, 0, 2), 3)]
    coded = 0
    for values, alphabet in streams:
        symbols = Symbols(values.astype(np.int32), alphabet)
        try:
            table = coder.table(symbols)
        except LeafError:
            continue  # it says that it can't code these
        coded += 1
        payload = coder.encode(symbols, table)
        found = coder.decode(payload, table, values.shape, alphabet)
        what = f"{values.size} symbols of an alphabet of {alphabet}"
        _hold(found.dtype == np.int32, f"{what} decode to {found.dtype}, not int32")
        _hold(found.shape == values.shape and (found == values).all(), f"{what} decode to others")
        bits, cost = 8 * len(payload), coder.cost(symbols, table)
        _hold(abs(cost - bits) <= 64 + bits / 50, f"{what}: a cost of {cost:.0f} bits is told, {bits} are written")
        bound, whole = coder.bound(symbols), bits + 8 * len(table)
        _hold(whole <= bound, f"{what}: {whole} bits are written, its bound is {bound:.0f}")
        # The table of several streams has a code for what occurs in any of them.
        both = coder.table(symbols, Symbols(symbols.values[::-1] * 0, alphabet))
        again = coder.decode(coder.encode(symbols, both), both, values.shape, alphabet)
        _hold((again == values).all(), f"{what}: a table made for two streams does not code the first")
        for end in range(0, len(payload), max(1, len(payload) // 8)):
            try:
                short = coder.decode(payload[:end], table, values.shape, alphabet)
            except FormatError:
                continue
            kept = short.shape == values.shape and (not short.size or 0 <= short.min() <= short.max() < alphabet)
            _hold(kept, f"{what}, payload cut to {end} bytes: symbols that the alphabet has not")
    _hold(coded, "it can code nothing")


@_promise(Coder.family)
def _stores(coder: Coder) -> None:
    """A stage may name it: pruned and quantized leaves are stored with it and found again."""
    for blocking in (Scalar(), SubVectors(d=4)):
        stages = (Prune(density=0.5), Quantize(learner=KMeans(k=3), blocking=blocking, coder=coder.name))
        compressed = Recipe(stages=stages).run(_weights(), key=_key())
        _hold(_same(from_bytes(to_bytes(compressed)), compressed), "what is loaded is not what was saved")


def _apply(params: Tree, state: Tree, inputs: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Tree]:
    """64-12-10 with batch normalisation and ReLU between."""
    del key

    def dense(layer: Tree, x: jax.Array) -> jax.Array:
        return x @ layer["kernel"] + layer["bias"][None]

    hidden = dense(params["fc1"], jnp.asarray(inputs))
    norm = state["norm"]
    if train:
        now = {"mean": hidden.mean(0), "var": hidden.var(0)}
        mean, var = now["mean"], now["var"]
        norm = {name: 0.9 * norm[name] + 0.1 * now[name] for name in now}
    else:
        mean, var = norm["mean"], norm["var"]
    scaled = (hidden - mean[None]) * (params["norm"]["scale"] / jnp.sqrt(var + 1e-5))[None]
    hidden = jax.nn.relu(scaled + params["norm"]["bias"][None])
    return dense(params["fc2"], hidden), {"norm": norm}


@functools.cache
def _network() -> tuple[Model, Data]:
    """A small network that can be trained, and 256 examples of 10 classes in 64 dimensions."""
    rng = np.random.default_rng(5)

    def layer(inputs: int, outputs: int) -> Tree:
        kernel = rng.normal(size=(inputs, outputs)) / np.sqrt(inputs)
        return {"kernel": kernel.astype(np.float32), "bias": rng.normal(size=outputs).astype(np.float32) / 10}

    ones, zeros = np.ones(12, np.float32), np.zeros(12, np.float32)
    params = {"fc1": layer(64, 12), "norm": {"scale": ones, "bias": zeros}, "fc2": layer(12, 10)}
    labels = rng.integers(0, 10, 256).astype(np.int32)
    inputs = (rng.normal(size=(10, 64))[labels] + rng.normal(size=(256, 64))).astype(np.float32)
    split = inputs, labels
    return from_params(params, {"norm": {"mean": zeros, "var": ones}}, _apply), Data.from_arrays(
        split, split, Classification()
    )


@_promise(Stage.family)
def _runs(stage: Stage) -> None:
    """A new model that can be saved and used, the same from the same key; the old one is as it was."""
    model, data = _network()
    recipe = Recipe(stages=(stage,))
    recipe.check(Model(*jax.eval_shape(lambda: (model.params, model.state))))
    before = jax.tree.map(np.array, (model.params, model.state))
    one, two = (recipe.run(model, key=_key(), data=data) for _ in range(2))
    _hold(_same(one, two), "the same key gives another model")
    _hold(_same((model.params, model.state), before), "the model that was given is changed")
    _hold(one.dense_bytes == model.dense_bytes, "`dense_bytes`, the numerator of every ratio, is changed")
    _hold(_same(from_bytes(to_bytes(one)), one), "what is loaded is not what was saved")
    outputs, _ = _apply(one.decode(), unflatten(one.state), np.zeros((1, 64), np.float32))
    _hold(np.isfinite(np.asarray(outputs)).all(), "the network gives NaN or infinity")


@_promise(Stage.family)
def _expands(stage: Stage) -> None:
    """A preset stands for stages that stand for themselves."""
    inner = stage.expand()
    _hold(inner, "it expands to nothing")
    _hold(all(one.expand() == (one,) for one in inner), "it expands to other presets")


@_promise(Stage.family)
def _keeps_what_was_done_before(stage: Stage) -> None:
    """After pruning, or after quantizing, zeros stay zeros and codes stay codes; or it says that it can't go on."""
    model, data = _network()
    for first in (Prune(density=0.5), Quantize(learner=KMeans(k=4), grouping=WholeNet(), match=("fc1/kernel",))):
        try:
            Recipe(stages=(first, stage)).run(model, key=_key(), data=data)
        except _REFUSALS:
            continue  # other errors are what the recipe says of zeros that are none any more, or faults of the stage
        except QuantreeError as error:
            raise _Broken(f"after {first.name!r}: {error}") from None


def _key() -> jax.Array:
    # Not a constant: the first key starts JAX's devices, and `jax.distributed` must come before that.
    return jax.random.key(0)
