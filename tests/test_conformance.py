"""What every plug-in must do, whatever it does inside: a plug-in joins by being registered."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

import quantree as qt
from quantree.coding import Coder
from quantree.encodings import Blocking, Compressed, Scalar, SubVectors
from quantree.model import from_params
from quantree.quantizers import Grouping, Learner, Quantize
from quantree.recipe import Recipe
from quantree.registry import Plugin, families, registered
from quantree.stage import Stage
from quantree.storage.file import from_bytes, to_bytes
from tests.compilations import compilations
from tests.nets import digits, mlp

RNG = np.random.default_rng(0)
MODEL = from_params(
    {
        "conv": {"kernel": RNG.normal(size=(3, 3, 2, 4)).astype(np.float32)},
        "fc": {"kernel": RNG.normal(size=(18, 4)).astype(np.float32), "bias": np.ones(4, np.float32)},
        "tiny": {"kernel": RNG.normal(size=(1, 4)).astype(np.float32)},
    }
)

# What a plug-in needs besides its defaults. A new one whose defaults are not enough is told to add a line.
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("learner", "kmeans"): {"k": 3},
    ("learner", "uniform"): {"k": 3},
    ("blocking", "sub_vectors"): {"d": 4, "along": "outputs"},
    ("stage", "kmeans"): {"k": 3},
    ("stage", "uniform"): {"k": 3},
    ("stage", "product"): {"k": 3, "d": 4, "match": "fc2/kernel"},
    ("stage", "quantize"): {"learner": {"kind": "uniform", "k": 3}},
    ("stage", "prune"): {"density": 0.5},
    ("stage", "finetune"): {"epochs": 1, "batch_size": 256},
}


def own(family: str) -> list[str]:
    return sorted(name for name, plugin in registered(family).items() if plugin.__module__.startswith("quantree."))


def make(family: str, name: str) -> Any:
    return families()[family].from_config({"kind": name, **SETTINGS.get((family, name), {})})


def combinations() -> Iterator[tuple[str, str, str]]:
    for learner in own("learner"):
        for blocking in own("blocking"):
            if blocking == "scalar" or not make("learner", learner).scalars_only:
                for grouping in own("grouping"):
                    yield learner, blocking, grouping


each_combination = pytest.mark.parametrize(("learner", "blocking", "grouping"), list(combinations()))


@functools.cache
def quantized(learner: str, blocking: str, grouping: str, seed: int = 0, pruned: bool = False) -> Compressed:
    quantize = Quantize(
        learner=make("learner", learner), blocking=make("blocking", blocking), grouping=make("grouping", grouping)
    )
    prune = (make("stage", "prune"),) if pruned else ()
    return Recipe(stages=(*prune, quantize)).run(MODEL, key=jax.random.key(seed))


def assert_same(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype) and np.asarray(a).tobytes() == np.asarray(b).tobytes()


@each_combination
def test_a_quantizer(learner: str, blocking: str, grouping: str) -> None:
    for pruned in (False, True):
        compressed = quantized(learner, blocking, grouping, pruned=pruned)
        compressed.check()
        decoded = compressed.decode()
        for path, leaf in compressed.leaves.items():
            layer, name = path.split("/")
            original, found = np.asarray(MODEL.params[layer][name]), np.asarray(decoded[layer][name])
            assert found.shape == original.shape and found.dtype == original.dtype and np.isfinite(found).all()
            assert len(leaf.uses()) == (name == "kernel")
            zeros = leaf.zeros()
            assert zeros is None or (found[zeros] == 0).all()
            if name == "kernel" and not pruned:
                assert np.mean((found - original) ** 2) < np.mean(original**2), f"{path}: worse than all zeros"
        # jit and the file change nothing.
        assert_same(jax.jit(lambda tree: tree.decode())(compressed), decoded)
        assert_same(from_bytes(to_bytes(compressed)), compressed)
    again = quantized.__wrapped__(learner, blocking, grouping)
    assert_same(again, quantized(learner, blocking, grouping))


@each_combination
def test_a_quantizer_compiles_nothing_for_another_seed_or_other_weights(
    learner: str, blocking: str, grouping: str
) -> None:
    quantized(learner, blocking, grouping)
    with compilations() as compiled:
        quantized.__wrapped__(learner, blocking, grouping, seed=1)
    assert compiled == []


@pytest.mark.parametrize("learner", own("learner"))
def test_a_learner_gives_the_same_on_every_device(learner: str) -> None:
    if len(jax.devices()) < 2:
        pytest.skip("there is one device")
    blocks, mask = RNG.normal(size=(1, 24, 1)).astype(np.float32), np.ones((1, 24), bool)
    results = []
    for device in jax.devices()[:2]:
        with jax.default_device(device):
            results.append(make("learner", learner).learn(*jax.device_put((blocks, mask), device), jax.random.key(0)))
    assert_same(*results)


@pytest.mark.parametrize("coder", own("coder"))
def test_a_coder_can_be_named_by_a_stage_and_serves_every_stream(coder: str) -> None:
    stage = Quantize(learner=make("learner", "uniform"), coder=coder, blocking=Scalar())
    compressed = Recipe(stages=(make("stage", "prune"), stage)).run(MODEL, key=jax.random.key(0))
    assert_same(from_bytes(to_bytes(compressed)), compressed)
    assert issubclass(registered("coder")[coder], Coder)


@pytest.mark.parametrize("stage", own("stage"))
def test_a_stage_keeps_its_promises(stage: str) -> None:
    model, key = mlp(), jax.random.key(0)
    recipe = Recipe(stages=(make("stage", stage),))
    before = jax.tree.map(np.array, model.params)
    one, two = (recipe.run(model, key=key, data=digits()) for _ in range(2))
    assert_same(one, two)
    assert_same(model.params, before)
    assert one.dense_bytes == model.dense_bytes
    assert_same(from_bytes(to_bytes(one)), one)
    outputs, _ = model.apply(one.decode(), {}, np.zeros((1, 64), np.float32))  # pyright: ignore[reportOptionalCall]
    assert np.isfinite(np.asarray(outputs)).all()


PLUGINS = [(family, name) for family in ("stage", "learner", "grouping", "blocking", "coder") for name in own(family)]


@pytest.mark.parametrize(("family", "name"), PLUGINS)
def test_settings_go_to_plain_data_and_back_and_are_described(family: str, name: str) -> None:
    plugin = make(family, name)
    assert isinstance(plugin, Plugin) and type(plugin).name == name
    assert families()[family].from_config(plugin.to_config()) == plugin
    assert type(plugin).__doc__, "the schema of configs shows it"
    assert all(field.description for field in type(plugin).model_fields.values())


def test_families_that_are_held_to_something_here() -> None:
    assert {Stage.family, Learner.family, Grouping.family, Blocking.family, Coder.family} == {
        family for family, _ in PLUGINS
    }
    assert isinstance(make("blocking", "sub_vectors"), SubVectors)
    assert qt.Learner is Learner
