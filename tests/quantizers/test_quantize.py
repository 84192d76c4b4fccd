"""The stage: which leaves it takes, what they share, what becomes of odd ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantree as qt
from quantree.encodings import Affine, Coded, Compressed, Pruned, Raw, Scalar, SubVectors, Table
from quantree.errors import ConfigError, LeafError
from quantree.quantizers import Learner, Quantize, WholeNet
from quantree.recipe import Recipe

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


NET = {
    "conv": {"kernel": floats(3, 3, 2, 4), "bias": floats(4)},
    "fc1": {"kernel": floats(6, 5), "bias": floats(5)},
    "fc2": {"kernel": floats(5, 3), "steps": np.arange(6, dtype=np.int32).reshape(2, 3)},
}


def run(*stages: Any, net: Any = None) -> Compressed:
    return Recipe.from_config(list(stages)).run(qt.from_params(NET if net is None else net), key=KEY)


def kmeans(k: int = 4, **settings: Any) -> dict[str, Any]:
    return {"kind": "quantize", "learner": {"kind": "kmeans", "k": k}, **settings}


class Picked(Learner):
    """The first k blocks of each segment that take part. Unlike k-means it needs no compilation for each shape."""

    k: int

    def learn(self, blocks: jax.Array, mask: jax.Array, key: jax.Array) -> tuple[Table, jax.Array]:
        x, first = np.asarray(blocks), np.argsort(~np.asarray(mask), axis=1, kind="stable")[:, : self.k]
        table = np.take_along_axis(x, first[..., None], axis=1)
        codes = np.sum((x[:, :, None] - table[:, None]) ** 2, axis=-1).argmin(axis=-1)
        return Table(jnp.asarray(table)), jnp.asarray(codes)


def picked(k: int, d: int, codebooks: str = "layer", *before: Any, net: Any = None, **settings: Any) -> Compressed:
    blocking = SubVectors.model_validate({"d": d, "codebooks": codebooks})
    earlier = Recipe.from_config(before).stages if before else ()
    quantize = Quantize(learner=Picked(k=k), blocking=blocking, **settings)
    return Recipe(stages=(*earlier, quantize)).run(qt.from_params(NET if net is None else net), key=KEY)


def coded(compressed: Compressed, path: str) -> Coded:
    leaf = compressed.leaves[path]
    assert isinstance(leaf, Coded)
    return leaf


KERNELS = ("conv/kernel", "fc1/kernel", "fc2/kernel")


@pytest.mark.parametrize(
    ("grouping", "books"),
    [
        ("tensor", {path: path for path in KERNELS}),
        ("kind", {"conv/kernel": "conv", "fc1/kernel": "dense", "fc2/kernel": "dense"}),
        ("net", dict.fromkeys(KERNELS, "net")),
    ],
)
def test_groupings_share_codebooks_or_not(grouping: str, books: dict[str, str]) -> None:
    compressed = run(kmeans(grouping=grouping))
    assert {path: coded(compressed, path).codebook for path in KERNELS} == books
    assert set(compressed.codebooks) == set(books.values())
    for path, leaf in compressed.leaves.items():
        assert isinstance(leaf, Coded if path in KERNELS else Raw), "biases and whole numbers are left as they are"
    params = compressed.decode()
    for book in set(books.values()):
        values = [np.unique(params[p.split("/")[0]]["kernel"]) for p in KERNELS if books[p] == book]
        assert len(np.unique(np.concatenate(values))) <= 4
    compressed.check()


def test_codes_and_centroids_are_those_of_the_learner() -> None:
    compressed = run(kmeans(grouping="net", match=["fc*/kernel"]))
    together = np.concatenate([NET["fc1"]["kernel"].reshape(-1), NET["fc2"]["kernel"].reshape(-1)])
    wanted = qt.clustering.kmeans_1d(together, 4)
    np.testing.assert_allclose(compressed.codebooks["net"].table()[0, :, 0], wanted.centroids)
    codes = np.concatenate([np.asarray(coded(compressed, f"fc{i}/kernel").codes)[0] for i in (1, 2)])
    np.testing.assert_array_equal(codes, wanted.codes)


def test_a_second_stage_takes_what_the_first_has_left_and_gets_a_codebook_of_its_own() -> None:
    compressed = run(kmeans(grouping="net", match="fc1/*"), kmeans(8, grouping="net"))
    assert coded(compressed, "fc1/kernel").codebook == coded(compressed, "fc1/bias").codebook == "net"
    assert coded(compressed, "fc2/kernel").codebook == coded(compressed, "conv/kernel").codebook == "net#2"
    assert {name: book.size for name, book in compressed.codebooks.items()} == {"net": 4, "net#2": 8}
    with pytest.raises(ConfigError, match=r"stage 1 \(quantize\).*every leaf that it matches has been quantized"):
        run(kmeans(), kmeans())


@pytest.mark.parametrize(("d", "codebooks"), [(2, "layer"), (7, "layer"), (4, "segment")])
def test_sub_vectors_decode_to_centroids_whatever_the_size(d: int, codebooks: str) -> None:
    compressed = picked(3, d, codebooks)
    for path in KERNELS:
        leaf = coded(compressed, path)
        table = np.asarray(compressed.codebooks[path].table())
        decoded = leaf.decode(compressed.codebooks)
        blocks = np.asarray(leaf.blocking.split(decoded))
        assert decoded.shape == leaf.shape and table.shape[0] == blocks.shape[0]
        for found, centroids, codes in zip(blocks, table, np.asarray(leaf.codes), strict=True):
            filling = found == 0  # of the last piece of a row
            np.testing.assert_array_equal(found, np.where(filling, 0, centroids[codes]))
        assert np.count_nonzero(decoded) > 0.6 * decoded.size
    compressed.check()


def test_sub_vectors_of_different_length_can_not_share() -> None:
    with pytest.raises(LeafError, match="fc2/kernel: blocks of 5 weights can't share a codebook with the 6 of"):
        picked(3, 6, grouping=WholeNet())
    assert picked(3, 5, grouping=WholeNet()).codebooks["net"].table().shape == (1, 3, 5)


@pytest.mark.parametrize(("learner", "d"), [("kmeans", None), ("kmeans", 2), ("uniform", None)])
@pytest.mark.parametrize("stages", [[], [{"kind": "prune", "density": 0.5}]], ids=["dense", "pruned"])
@pytest.mark.parametrize(
    "value", [np.zeros((2, 2)), np.full((2, 2), -2.5), np.eye(2), np.full((2, 2), 1e-30), np.ones((1, 1))]
)
def test_odd_leaves_are_kept_exactly(learner: str, d: int | None, stages: list[Any], value: np.ndarray) -> None:
    blocking = "scalar" if d is None else {"kind": "sub_vectors", "d": d}
    stage = {"kind": "quantize", "learner": {"kind": learner, "k": 16}, "blocking": blocking}
    compressed = run(*stages, stage, net={"a": value.astype(np.float32)})
    wanted = run(*stages, net={"a": value.astype(np.float32)}).decode()["a"] if stages else value
    np.testing.assert_array_equal(compressed.decode()["a"], wanted.astype(np.float32))
    if learner == "kmeans":
        assert compressed.codebooks["a"].size <= 5, "no centroid that nothing points to"
    compressed.check()


@pytest.mark.parametrize("blocking", [Scalar(), SubVectors(d=2, codebooks="segment")])
def test_a_leaf_that_was_pruned_away_decodes_to_zeros(blocking: Any) -> None:
    model = qt.from_params({"a": floats(4, 4), "b": floats(4, 4)})
    start = Compressed.from_model(model)
    gone = Pruned.of(jnp.asarray(floats(4, 4)), jnp.zeros((4, 4), bool))
    recipe = Recipe(stages=(Quantize(learner=Picked(k=3), blocking=blocking),))
    after = recipe.run_stage(0, start.replace({"a": gone}), model=model, key=KEY)
    np.testing.assert_array_equal(after.decode()["a"], np.zeros((4, 4)))
    assert np.isfinite(np.asarray(after.decode()["b"])).all()


@pytest.mark.parametrize(
    ("leaf", "told"),
    [
        (
            np.asarray([[1, np.nan, np.inf]], np.float32),
            r"stage 0 \(quantize\): a/b: 2 of 3 weights are NaN or infinite",
        ),
        (np.zeros((0, 3), np.float32), r"a/b: an empty tensor of shape \(0, 3\) has nothing to quantize"),
        (np.ones((2, 2), np.int32), r"a/b: only plain or pruned float leaves can be quantized, not raw int32"),
        (np.ones((2, 2), bool), r"a/b: only plain or pruned float leaves can be quantized, not raw bool"),
    ],
)
def test_leaves_that_can_not_be_quantized_are_named(leaf: np.ndarray, told: str) -> None:
    with pytest.raises(LeafError, match=told):
        run(kmeans(match="a/b"), net={"a": {"b": leaf}, "c": floats(2, 2)})


def test_a_model_without_matrices_needs_a_pattern() -> None:
    with pytest.raises(ConfigError, match="no float leaf with two or more axes"):
        run(kmeans(), net={"a": floats(9)})
    compressed = run(kmeans(3, match="a"), net={"a": floats(9)})
    assert compressed.codebooks["a"].size == 3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_leaves_decode_to_the_dtype_they_had(dtype: str) -> None:
    compressed = run(kmeans(), net={"a": jnp.asarray(floats(4, 4)).astype(dtype)})
    assert compressed.decode()["a"].dtype == dtype
    assert isinstance(compressed.codebooks["a"], Table) and compressed.codebooks["a"].dtype == np.float32


# --- Pruned and quantized -------------------------------------------------------------------------------------------


def test_scalars_keep_pruned_zeros_as_a_symbol() -> None:
    pruned, compressed = run({"kind": "prune", "density": 0.3}), run({"kind": "prune", "density": 0.3}, kmeans())
    for path in KERNELS:
        leaf, before = coded(compressed, path), pruned.leaves[path]
        assert leaf.zero and leaf.mask is None
        np.testing.assert_array_equal(np.asarray(leaf.codes).reshape(leaf.shape) == 0, before.zeros())
        np.testing.assert_array_equal(np.asarray(leaf.decode(compressed.codebooks)) == 0, before.zeros())


@pytest.mark.parametrize("grouping", ["tensor", "kind"])
@pytest.mark.parametrize(
    "learner",
    [
        {"kind": "kmeans", "k": 4},
        {"kind": "probabilistic", "k": 5},
        {"kind": "lattice", "k": 5},
        {"kind": "uniform", "k": 5},
        {"kind": "ecsq_lloyd", "k": 5, "slope": 0.05},
        {"kind": "ecsq", "bits": 2.0},
    ],
    ids=lambda learner: learner["kind"],
)
def test_only_what_survives_is_learned_from_though_leaves_share(learner: dict[str, Any], grouping: str) -> None:
    """Of the dense leaves one is pruned and one is not."""
    prune = {"kind": "prune", "density": 0.3, "match": ["conv/*", "fc1/kernel"]}
    pruned = run(prune)
    compressed = run(prune, {"kind": "quantize", "grouping": grouping, "learner": learner})
    survivors: dict[str, list[np.ndarray]] = {}
    for path in KERNELS:
        leaf, zeros = coded(compressed, path), pruned.leaves[path].zeros()
        assert leaf.zero == (path != "fc2/kernel") == (zeros is not None)
        values = np.asarray(pruned.leaves[path].decode({}))
        survivors.setdefault(leaf.codebook, []).append(values.reshape(-1) if zeros is None else values[~zeros])
        if zeros is not None:
            np.testing.assert_array_equal(np.asarray(leaf.codes).reshape(leaf.shape) == 0, zeros)
            assert not np.asarray(leaf.decode(compressed.codebooks))[zeros].any()
    assert set(survivors) == (set(KERNELS) if grouping == "tensor" else {"conv", "dense"})
    alone = {name: {"x": np.concatenate(parts).reshape(1, -1)} for name, parts in survivors.items()}
    for name, net in alone.items():
        table = np.asarray(compressed.codebooks[name].table())[0, :, 0]
        if learner["kind"] == "probabilistic":  # draws depend on the place in the leaf, and drop levels of small ones
            wanted = np.quantile(net["x"], np.linspace(0, 1, learner["k"]))
            assert np.abs(table[:, None] - wanted).min(axis=1).max() < 1e-5
        else:
            book = run({"kind": "quantize", "learner": learner}, net=net).codebooks["x"]
            np.testing.assert_allclose(table, np.asarray(book.table())[0, :, 0], rtol=1e-5, atol=1e-6)


def test_vectors_keep_the_mask_or_release_it() -> None:
    prune = {"kind": "prune", "match": "fc1/kernel", "density": 0.2}
    pruned, kept = run(prune), picked(2, 2, "layer", prune, match=("fc1/kernel",))
    leaf, zeros = coded(kept, "fc1/kernel"), pruned.leaves["fc1/kernel"].zeros()
    assert zeros is not None and leaf.mask is not None and not leaf.zero
    np.testing.assert_array_equal(leaf.zeros(), zeros)
    assert (np.asarray(leaf.decode(kept.codebooks))[zeros] == 0).all()

    released = picked(2, 2, "layer", prune, match=("fc1/kernel",), release_mask=True)
    leaf = coded(released, "fc1/kernel")
    assert leaf.mask is None and leaf.zeros() is None
    # Whole blocks of zeros are blocks like any other: each has the nearest centroid, not an arbitrary one.
    blocks = np.asarray(leaf.blocking.split(pruned.leaves["fc1/kernel"].decode({})))[0]
    table = np.asarray(released.codebooks["fc1/kernel"].table())[0]
    nearest = ((blocks[:, None] - table) ** 2).sum(axis=-1).argmin(axis=1)
    np.testing.assert_array_equal(np.asarray(leaf.codes)[0], nearest)


# --- Settings -------------------------------------------------------------------------------------------------------


UNIFORM = {"kind": "uniform", "k": 4}
BY_SEGMENT = {"kind": "sub_vectors", "d": 2, "codebooks": "segment"}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"blocking": BY_SEGMENT, "grouping": "net"}, r"\[0\].grouping: one codebook per segment"),
        ({"coder": "asn"}, r"\[0\].coder: no coder is called 'asn'; did you mean 'ans'\?"),
        ({"learner": UNIFORM, "blocking": BY_SEGMENT}, r"\[0\].blocking: learner 'uniform' takes scalars"),
        ({"match": []}, r"\[0\].match: "),
        ({"match": "fc9/*"}, r"pattern 'fc9/\*' matches no leaf"),
    ],
)  # fmt: skip
def test_what_can_not_go_together_is_told_before_anything_runs(settings: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        run({**kmeans(), **settings})


def test_presets_stand_for_the_stage() -> None:
    stages = Recipe.from_config(
        [
            {"kind": "kmeans", "k": 4, "grouping": "kind", "match": "fc*", "coder": "ans"},
            {"kind": "uniform", "k": 4},
            {"kind": "product", "k": 4, "d": 9, "along": "outputs", "codebooks": "segment"},
        ]
    ).expanded
    one, two, three = (stage.to_config() for stage in stages)
    assert {stage.name for stage in stages} == {"quantize"}
    assert (one["grouping"]["kind"], one["learner"]["kind"], one["match"], one["coder"]) == (
        "kind",
        "kmeans",
        ["fc*"],
        "ans",
    )
    assert two["learner"] == {"kind": "uniform", "k": 4, "clip": "mse"}
    assert three["blocking"] == SubVectors(d=9, along="outputs", codebooks="segment").to_config()
    direct = run(kmeans(grouping="net"))
    preset = run({"kind": "kmeans", "k": 4, "grouping": "net"})
    assert jax.tree.all(jax.tree.map(np.array_equal, direct, preset))
    assert isinstance(run({"kind": "uniform", "k": 4}).codebooks["fc1/kernel"], Affine)


@pytest.mark.parametrize("kind", ["kmeans", "uniform"])
def test_a_preset_refuses_an_unknown_coder_too(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"\[0\].coder: no coder is called 'anss'; did you mean 'ans'"):
        Recipe.from_config([{"kind": kind, "k": 4, "coder": "anss"}])


@pytest.mark.parametrize(
    "learner", [{"kind": "kmeans", "k": 4}, {"kind": "uniform", "k": 5}, {"kind": "ecsq", "bits": 1.5}]
)
def test_weights_keep_their_energy_if_asked(learner: Any) -> None:
    net = {"a": np.random.default_rng(0).normal(size=(60, 40)).astype(np.float32)}
    stages = [{"kind": "prune", "density": 0.7}, {"kind": "quantize", "learner": learner}]
    pruned, plain = (Recipe.from_config(stages[:n]).run(qt.from_params(net), key=KEY) for n in (1, 2))
    kept = Recipe.from_config([stages[0], {**stages[1], "keep_energy": True}]).run(qt.from_params(net), key=KEY)
    one, two = plain.leaves["a"], kept.leaves["a"]
    assert isinstance(one, Coded) and isinstance(two, Coded)
    np.testing.assert_array_equal(one.codes, two.codes)
    original, shrunk, again = (np.asarray(each.decode()["a"], np.float64) for each in (pruned, plain, kept))
    assert np.sum(shrunk**2) < 0.97 * np.sum(original**2)
    np.testing.assert_allclose(np.sum(again**2), np.sum(original**2), rtol=1e-5)
    assert np.sum((again - original) ** 2) < 1.1 * np.sum((shrunk - original) ** 2)


def test_energy_is_not_kept_at_any_price() -> None:
    net = {"a": np.random.default_rng(0).normal(0.1, 1, (60, 40)).astype(np.float32)}
    stage = {"kind": "kmeans", "k": 1}
    plain = Recipe.from_config([stage]).run(qt.from_params(net), key=KEY)
    settings = {"kind": "quantize", "learner": stage, "keep_energy": True}
    kept = Recipe.from_config([settings]).run(qt.from_params(net), key=KEY)
    np.testing.assert_allclose(kept.decode()["a"], 1.4 * np.asarray(plain.decode()["a"]), rtol=1e-5)
