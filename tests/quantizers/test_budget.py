"""A size is asked for, and a file of that size is written."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import quantree as qt
from experiments.zoo import Network
from quantree import checkpoints, registry
from quantree.encodings import Codebook, Coded, Compressed, Raw, Table
from quantree.errors import ConfigError, DataError
from quantree.model import Model, Tree, flatten
from quantree.quantizers import Budget, Learner
from quantree.quantizers.plan import Plan
from quantree.recipe import Recipe
from quantree.recovery import evaluate
from quantree.schema import validate
from quantree.stage import Context
from quantree.storage.file import account, to_bytes
from quantree.task import Data, Task
from tests.nets import digits, mlp

KEY = jax.random.key(0)
ANS: Any = {"coder": "ans"}  # one coder instead of the smallest of all: most of the time goes into coding every rung


def net(seed: int = 0, width: int = 40) -> Model:
    """Layers of different spread and shape, heavy tails, one that is tiny, and what is not taken."""
    rng = np.random.default_rng(seed)
    shapes = {"conv": (3, 3, 8, width), "fc1": (9 * width, width), "fc2": (width, 10), "tiny": (1, 2)}
    params: Tree = {
        layer: {
            "kernel": (rng.standard_t(5, size=shape) * 10.0 ** rng.uniform(-2, 0)).astype(np.float32),
            "bias": rng.normal(size=shape[-1]).astype(np.float32),
        }
        for layer, shape in shapes.items()
    }
    return qt.from_params(params, {"norm": {"mean": np.zeros(width, np.float32)}})


def planned(model: Model, data: Data | None = None, before: Any = (), **settings: Any) -> Plan:
    settings = {"learners": ("uniform",), **settings}
    earlier = Recipe.from_config(before).run(model, key=KEY) if before else Compressed.from_model(model)
    return Budget.model_validate(settings).plan(earlier, Context(model, KEY, data))


def error(plan: Plan, model: Model) -> float:
    """Sum over the leaves taken of squared error over energy, from what is decoded."""
    decoded, total = flatten(plan.compressed.decode()), 0.0
    for path, leaf in flatten(model.params).items():
        if leaf.ndim > 1:
            original = np.asarray(leaf, np.float64)
            total += float(np.sum((np.asarray(decoded[path]) - original) ** 2) / np.sum(original**2))
    return total


# --- Size -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "ratio"),
    [(0, 6.0), *(pytest.param(seed, 8.0, marks=pytest.mark.slow) for seed in (1, 2)), (3, 12.0)],
)
def test_the_file_has_the_size_that_was_asked_for(seed: int, ratio: float, tmp_path: Path) -> None:
    model = net(seed)
    plan = planned(model, ratio=ratio)
    ledger = qt.save(tmp_path / "net.qtree", plan.compressed)
    written = (tmp_path / "net.qtree").stat().st_size
    assert ledger.ratio >= ratio and written == plan.written <= model.dense_bytes / ratio
    assert written > 0.9 * model.dense_bytes / ratio, "bytes that were left lying: four fifths are one leaf's"
    assert plan.predicted == pytest.approx(written, rel=0.02)
    assert plan.distortion == pytest.approx(error(plan, model), rel=1e-3)


@pytest.mark.slow
def test_a_network_of_the_zoo() -> None:
    model = Network.named("lenet5")().model(0, (28, 28, 1), 10)
    plan = planned(model, bytes=140_000)
    assert 0.95 * 140_000 < plan.written <= 140_000
    assert plan.predicted == pytest.approx(plan.written, rel=0.02)


@pytest.mark.slow
def test_a_residual_network(shared_data: Path) -> None:
    model = checkpoints.read(shared_data / "checkpoints" / "cifar10_resnet20.safetensors").model
    plan = planned(model, ratio=12.0)
    assert 0.99 * model.dense_bytes / 12 < plan.written <= model.dense_bytes / 12
    assert plan.predicted == pytest.approx(plan.written, rel=0.02)
    assert len(plan.rows) == 20 and plan.distortion == pytest.approx(error(plan, model), rel=1e-3)


def test_what_leaves_share_is_not_left_lying() -> None:
    kernel = np.random.default_rng(0).standard_t(3, size=(20, 20)).astype(np.float32)
    plan = planned(qt.from_params({f"fc{i}": {"kernel": kernel} for i in range(10)}), bytes=1500)
    # Each leaf by itself would not fit: equal leaves have one coding table.
    assert 1450 < plan.written <= 1500 < plan.predicted


@functools.cache
def equal(k: int) -> tuple[int, float]:
    """Bytes of a file whose leaves all have k uniform levels, and its error."""
    compressed = Recipe.from_config([{"kind": "uniform", "k": k}]).run(net(), key=KEY)
    written = len(to_bytes(compressed))
    return written, error(Plan(compressed, np.zeros(0), (), 0, written, 0.0), net())


@pytest.mark.parametrize("k", [4, pytest.param(16, marks=pytest.mark.slow)])
def test_it_is_better_than_the_same_setting_everywhere(k: int) -> None:
    written, lost = equal(k)
    plan = planned(net(), bytes=written)
    assert plan.written <= written and error(plan, net()) < 0.9 * lost


@pytest.mark.parametrize("settings", [ANS, pytest.param({}, marks=pytest.mark.slow)], ids=["ans", "smallest"])
def test_more_bytes_are_never_worse(settings: dict[str, Any]) -> None:
    lost = [planned(net(width=12), ratio=ratio, **settings).distortion for ratio in (10.0, 5.0, 2.0, 1.2)]
    assert lost == sorted(lost, reverse=True) and lost[-1] < 1e-3


def test_where_there_is_room_leaves_stay_as_they_are() -> None:
    model = net(width=12)
    plan = planned(model, ratio=0.9)
    assert all(isinstance(leaf, Raw) for leaf in plan.compressed.leaves.values())
    assert {row.setting for row in plan.rows} == {"as it was"} and plan.distortion == 0


def test_what_can_not_be_reached_is_told_with_what_can() -> None:
    model = net(width=12)
    with pytest.raises(
        ConfigError, match=r"ratio 100, 93 bytes, can't be reached: the smallest file has [\d,]+"
    ) as told:
        planned(model, ratio=100.0)
    assert told.value.value == 100.0
    smallest = int(str(told.value).split("smallest file has ")[1].split(" bytes")[0].replace(",", ""))
    assert planned(model, bytes=smallest).written == smallest
    with pytest.raises(ConfigError, match="can't be reached"):
        planned(model, bytes=smallest - 1)


# --- Settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, r"\[0\]\.ratio: give ratio, bytes or tolerance"),
        ({"ratio": 3.0, "bytes": 9}, r"\[0\]\.bytes: give either ratio or bytes"),
        ({"ratio": 3.0, "learners": ["kmean"]}, r"learners.*no learner is called 'kmean'; did you mean 'kmeans'"),
        ({"ratio": 3.0, "learners": ["uniform"], "blocking": {"kind": "sub_vectors", "d": 2}}, "has no ladder of sett"),
        (
            {"ratio": 3.0, "learners": [{"kind": "uniform", "k": 4}], "blocking": {"kind": "sub_vectors", "d": 2}},
            r"\[0\]\.learners: learner 'uniform' takes scalars, not 'sub_vectors'",
        ),
        ({"ratio": 3.0, "match": "fc9/*"}, r"pattern 'fc9/\*' matches no leaf"),
        ({"ratio": -1.0}, r"\[0\]\.ratio: "),
    ],
)
def test_what_does_not_go_together_is_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Recipe.from_config([{"kind": "budget", **settings}]).run(mlp(), key=KEY)


def test_learners_coder_and_leaves_can_be_named() -> None:
    plan = planned(
        net(), ratio=3.0, learners=({"kind": "kmeans", "k": 7}, "kmeans"), coder="fixed", match=("fc*/kernel",)
    )
    coded = {path: leaf for path, leaf in plan.compressed.leaves.items() if isinstance(leaf, Coded)}
    assert set(coded) == {"fc1/kernel", "fc2/kernel"} == {row.curve.path for row in plan.rows}
    assert {leaf.coder for leaf in coded.values()} == {"fixed"}
    assert all(isinstance(book, Table) for book in plan.compressed.codebooks.values())
    assert any(row.setting.startswith("kmeans k ") for row in plan.rows)


def test_vectors() -> None:
    blocking, learners = {"kind": "sub_vectors", "d": 2}, ({"kind": "kmeans", "k": 32},)
    plan = planned(net(), ratio=3.0, match=("fc1/kernel",), blocking=blocking, learners=learners)
    assert plan.compressed.codebooks["fc1/kernel"].table().shape == (1, 32, 2) and plan.ratio >= 3


def test_what_gains_nothing_on_scalars_is_tried_there_only_by_name() -> None:
    vectors: Any = {"kind": "sub_vectors", "d": 2}
    for settings, tried in (({}, False), ({"blocking": vectors}, True), ({"learners": ["annealed"]}, True)):
        budget = validate(Budget, {"ratio": 2, **settings})
        assert ("annealed" in {stage.learner.name for ladder in budget._ladders() for stage in ladder}) == tried


@pytest.mark.parametrize("centroids", ["float16", "float32"])
def test_codebooks_have_the_width_that_was_asked_for(centroids: str) -> None:
    plan = planned(net(), ratio=4.0, centroids=centroids, learners=("kmeans",), match=("fc1/kernel",))
    assert {book.table().dtype for book in plan.compressed.codebooks.values()} == {jnp.dtype(centroids)}


def test_a_plug_in_joins_the_planner_by_its_k() -> None:
    levels = np.asarray([-1.0, -0.4, 0.1, 0.5, 2.0], np.float32)

    class Known(Learner):
        """The levels of this test's weights, the first k of them."""

        k: int

        def learn(self, blocks: jax.Array, mask: jax.Array, key: jax.Array) -> tuple[Codebook, jax.Array]:
            table = np.resize(levels[: self.k], (1, self.k, 1))
            return Table(jnp.asarray(table)), jnp.asarray(np.abs(np.asarray(blocks) - table[..., 0]).argmin(axis=-1))

    class Demanding(Learner):
        """Has no ladder, because `temperature` has no default."""

        temperature: float

        def learn(self, blocks: jax.Array, mask: jax.Array, key: jax.Array) -> tuple[Codebook, jax.Array]:
            raise NotImplementedError

    model = qt.from_params({"fc": {"kernel": np.random.default_rng(0).choice(levels, size=(60, 40))}})
    with registry.temporarily():
        qt.register("known")(Known)
        assert [each.k for each in Known.ladder()][:4] == [2, 3, 4, 5] and Demanding.ladder() == ()
        plan = planned(model, ratio=10.0, learners=None)
        # Several learners find the five levels.
        assert plan.rows[0].setting.split()[0] in ("known", "kmeans", "ecsq") and plan.distortion == 0
        assert planned(model, ratio=10.0, learners=("known",)).rows[0].setting == "known k 5"


# --- Among other stages ---------------------------------------------------------------------------------------------


def test_pruned_weights_stay_zero_and_what_is_quantized_stays() -> None:
    model = net()
    before = [
        {"kind": "prune", "match": "fc1/kernel", "density": 0.2},
        {"kind": "kmeans", "k": 4, "match": "conv/kernel"},
    ]
    stages = [*before, {"kind": "budget", "ratio": 14.0, "learners": ["uniform"]}]
    compressed = Recipe.from_config(stages).run(model, key=KEY)
    earlier = Recipe.from_config(before).run(model, key=KEY)
    zeros = earlier.leaves["fc1/kernel"].zeros()
    assert zeros is not None and not np.asarray(compressed.decode()["fc1"]["kernel"])[zeros].any()
    assert len(to_bytes(compressed)) <= model.dense_bytes / 14
    with pytest.raises(ConfigError, match=r"stage 1 \(budget\): .*has been quantized by an earlier stage"):
        Recipe.from_config([{"kind": "kmeans", "k": 2}, stages[-1]]).run(model, key=KEY)


def test_the_same_key_gives_the_same_bytes_and_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe.from_config([{"kind": "budget", "ratio": 6.0}])
    one, two = (to_bytes(recipe.run(net(width=12), key=KEY)) for _ in range(2))
    assert one == two
    told = capsys.readouterr().out
    assert f"{len(one):,} bytes" in told and "distortion: relative" in told
    for word in ("conv/kernel", "3x3x8x12", "uniform k ", "bits per weight", "SNR dB", "slope"):
        assert word in told


def test_the_row_of_a_leaf_tells_its_bits_and_its_noise() -> None:
    model = net()
    plan = planned(model, ratio=9.0)
    decoded = flatten(plan.compressed.decode())
    entries = account(to_bytes(plan.compressed)).entries
    for row in plan.rows:
        original = np.asarray(flatten(model.params)[row.curve.path], np.float64)
        noise = np.sum((np.asarray(decoded[row.curve.path]) - original) ** 2)
        wanted = np.inf if noise == 0 else 10 * np.log10(np.sum(original**2) / noise)
        assert row.snr == pytest.approx(wanted, abs=0.01)
        spent = sum(each.bytes for each in entries if each.path == row.curve.path)
        assert row.bits == pytest.approx(8 * spent / original.size, rel=0.02)


# --- With data ------------------------------------------------------------------------------------------------------


def logistic(params: Tree, state: Tree, inputs: jax.Array, *, train: bool = False, key: object = None) -> Any:
    return inputs @ params["fc"]["kernel"] @ params["turn"]["kernel"], state


@functools.cache
def trained() -> Model:
    """scikit-learn's logistic regression on digits, and a turn of its outputs that changes nothing."""
    inputs, labels = next(iter(digits().train(0, 0, 512)))
    found = LogisticRegression(C=0.1, fit_intercept=False, max_iter=300).fit(inputs, labels)
    kernel = found.coef_.T.astype(np.float32)
    return qt.from_params(
        {"fc": {"kernel": np.tile(kernel, 8)}, "turn": {"kernel": np.tile(np.eye(10, dtype=np.float32) / 8, (8, 1))}},
        apply=logistic,
    )


def lost(compressed: Compressed) -> float:
    base = evaluate(Compressed.from_model(trained()), trained(), digits())
    return base.metric - evaluate(compressed, trained(), digits()).metric


def test_a_tolerance_gives_the_smallest_file_that_is_good_enough() -> None:
    plans = [planned(trained(), digits(), tolerance=tolerance, **ANS) for tolerance in (0.2, 0.02, 0.0)]
    assert [plan.written for plan in plans] == sorted(plan.written for plan in plans)
    assert plans[0].written < plans[1].written < trained().dense_bytes / 8
    for plan, tolerance in zip(plans, (0.2, 0.02, 0.0), strict=True):
        assert lost(plan.compressed) <= tolerance + 1e-9
        assert f"uncompressed {evaluate(Compressed.from_model(trained()), trained(), digits()).metric:.4f}" in str(plan)
    assert validate(Budget, {"ratio": 20}).ratio == 20.0, "as YAML has it"
    assert Budget(tolerance=0.2).chooses == "tolerance" and Budget(ratio=2.0).chooses is None


def test_a_metric_may_be_one_that_should_be_small() -> None:
    accuracy = digits().task
    wrong = Task(
        loss=accuracy.loss, metric=lambda *given: 1 - accuracy.metric(*given), metric_name="wrong", direction="min"
    )
    data = dataclasses.replace(digits(), task=wrong)
    one, other = (planned(trained(), each, tolerance=0.02, **ANS) for each in (digits(), data))
    assert one.written == other.written and "validation wrong" in other.notes


def test_a_size_is_held_to_the_tolerance() -> None:
    least = planned(trained(), digits(), tolerance=0.02, **ANS)
    assert planned(trained(), digits(), ratio=4.0, tolerance=0.02, **ANS).ratio >= 4
    with pytest.raises(ConfigError, match=r"worse than tolerance 0.02 allows: validation accuracy .* smallest") as told:
        planned(trained(), digits(), bytes=least.written // 2, tolerance=0.02, **ANS)
    assert f"has {least.written:,} bytes" in str(told.value) and told.value.value == 0.02
    ruined = [{"kind": "kmeans", "k": 1, "match": "fc/kernel"}]
    with pytest.raises(ConfigError, match="can't be kept, not even with these leaves as they are"):
        planned(trained(), digits(), before=ruined, tolerance=0.02, **ANS)


@pytest.mark.slow
def test_fisher_spares_what_the_loss_minds() -> None:
    """One output that is never looked at, and one that counts a hundredfold."""
    rng = np.random.default_rng(0)
    kernels = {name: rng.normal(size=(64, 60)).astype(np.float32) for name in ("dead", "small", "large")}

    def apply(params: Tree, state: Tree, inputs: jax.Array, *, train: bool = False, key: object = None) -> Any:
        small, large = (inputs @ params[name]["kernel"] for name in ("small", "large"))
        return (small / 100 + large)[:, :10], state

    model = qt.from_params({name: {"kernel": kernel} for name, kernel in kernels.items()}, apply=apply)
    rows = {
        kind: {row.curve.path: row.bits for row in planned(model, digits(), ratio=8.0, distortion=kind, **ANS).rows}
        for kind in ("relative", "fisher")
    }
    bits = rows["fisher"]
    assert bits["dead/kernel"] < bits["small/kernel"] < bits["large/kernel"]
    # At high rate a hundredfold gradient is worth log2(100) bits; three leaves of one spread are worth the same.
    assert max(rows["relative"].values()) < 1.3 * min(rows["relative"].values())
    for wanted in (Budget(ratio=8.0, distortion="fisher", learners=("uniform",)), Budget(tolerance=0.1)):
        with pytest.raises(DataError, match="stage 'budget' trains or measures"):
            wanted.plan(Compressed.from_model(model), Context(model, KEY))
