"""Moving and merging the channels of a group that was written by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quantree as qt
from quantree.encodings import Compressed, Pruned
from quantree.errors import LeafError
from quantree.graph import Group, Member, reorder, shrink
from quantree.recipe import Recipe

RNG = np.random.default_rng(0)
W1, B1, W2 = (RNG.normal(size=shape).astype(np.float32) for shape in ((4, 5), (5,), (10, 3)))
MEAN = RNG.normal(size=5).astype(np.float16)
ONCE, TWICE = np.arange(5)[:, None], np.arange(10).reshape(2, 5).T
GROUP = Group(
    "w1",
    (
        Member("w1", 1, ONCE, "producer"),
        Member("b1", 0, ONCE, "per-channel"),
        Member("mean", 0, ONCE, "per-channel", state=True),
        Member("w2", 0, TWICE, "consumer"),
    ),
)
ORDER = np.array([3, 0, 4, 1, 2])


def net() -> Compressed:
    return Compressed.from_model(qt.from_params({"w1": W1, "b1": B1, "w2": W2}, {"mean": MEAN}))


def arrays(compressed: Compressed) -> dict[str, np.ndarray]:
    decoded = {path: np.asarray(leaf) for path, leaf in compressed.decode().items()}
    return decoded | {path: np.asarray(leaf) for path, leaf in compressed.state.items()}


def test_each_member_is_reordered_along_its_axis() -> None:
    found = arrays(reorder(net(), GROUP, ORDER))
    np.testing.assert_array_equal(found["w1"], W1[:, ORDER])
    np.testing.assert_array_equal(found["b1"], B1[ORDER])
    np.testing.assert_array_equal(found["mean"], MEAN[ORDER])
    np.testing.assert_array_equal(found["w2"], np.concatenate([W2[:5][ORDER], W2[5:][ORDER]]))
    assert {path: array.dtype for path, array in found.items()} == {
        **dict.fromkeys(("w1", "b1", "w2"), np.float32),
        "mean": np.float16,
    }


@given(st.permutations(range(5)), st.permutations(range(5)))
def test_orders_follow_each_other(first: list[int], second: list[int]) -> None:
    one, other = np.array(first), np.array(second)
    twice, at_once = reorder(reorder(net(), GROUP, one), GROUP, other), reorder(net(), GROUP, one[other])
    assert jax.tree.all(jax.tree.map(np.array_equal, arrays(twice), arrays(at_once)))
    back = reorder(reorder(net(), GROUP, one), GROUP, np.argsort(one))
    assert jax.tree.all(jax.tree.map(np.array_equal, arrays(back), arrays(net())))


def test_channels_are_kept_as_they_are_or_summed() -> None:
    kept = np.array([0, 2, 3])
    found = arrays(shrink(net(), GROUP, kept))
    np.testing.assert_array_equal(found["w1"], W1[:, kept])
    np.testing.assert_array_equal(found["w2"], W2[[0, 2, 3, 5, 7, 8]])
    incoming, outgoing = RNG.normal(size=(3, 5)), RNG.normal(size=(3, 5))
    found = arrays(shrink(net(), GROUP, kept, incoming, outgoing))
    np.testing.assert_allclose(found["w1"], W1.astype(np.float64) @ incoming.T, rtol=1e-6)
    np.testing.assert_allclose(found["b1"], incoming @ B1.astype(np.float64), rtol=1e-6)
    np.testing.assert_allclose(found["mean"], incoming @ MEAN.astype(np.float64), rtol=1e-3)
    np.testing.assert_allclose(
        found["w2"],
        np.concatenate([outgoing @ W2[:5].astype(np.float64), outgoing @ W2[5:].astype(np.float64)]),
        rtol=1e-5,
    )
    assert found["mean"].dtype == np.float16 and found["w1"].dtype == np.float32


def test_zeros_of_pruned_leaves_move_along_and_meet() -> None:
    mask = RNG.random(W1.shape) < 0.5
    mask[:, 0], mask[:, 1] = [True, True, False, False], [True, False, True, False]
    before = net().replace({"w1": Pruned.of(jnp.asarray(W1), jnp.asarray(mask), jnp.float32)})
    after = reorder(before, GROUP, ORDER).leaves["w1"]
    assert isinstance(after, Pruned)
    np.testing.assert_array_equal(after.mask, mask[:, ORDER])
    np.testing.assert_array_equal(after.decode({}), (W1 * mask)[:, ORDER])
    both = np.array([[1, 1, 0, 0, 0], [0, 0, 1, 0, 0]]) / 2
    merged = shrink(before, GROUP, np.array([0, 2]), both, both).leaves["w1"]
    assert isinstance(merged, Pruned)
    np.testing.assert_array_equal(merged.mask[:, 0], [True, True, True, False])
    np.testing.assert_allclose(merged.decode({})[:, 0], (W1 * mask)[:, :2].mean(axis=1), rtol=1e-6)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 0, 1, 2, 3], [1, 2, 3, 4, 5], [[0, 1, 2, 3, 4]], []])
def test_what_is_no_order_is_refused(order: list) -> None:
    with pytest.raises(LeafError, match=r"w1: .* is no order of 5 channels"):
        reorder(net(), GROUP, np.array(order))


@pytest.mark.parametrize("kept", [[], [1, 0], [0, 0], [0, 5], [-1, 2]])
def test_channels_to_keep_must_ascend(kept: list[int]) -> None:
    with pytest.raises(LeafError, match="are no ascending channels of 5"):
        shrink(net(), GROUP, np.array(kept, int))


def test_quantized_leaves_are_refused() -> None:
    stages = [{"kind": "quantize", "learner": {"kind": "kmeans", "k": 2}, "match": ["w2"]}]
    coded = Recipe.from_config(stages).run(qt.from_params({"w1": W1, "b1": B1, "w2": W2}), key=jax.random.key(0))
    group = Group("w1", tuple(member for member in GROUP.members if not member.state))
    for change in (lambda: reorder(coded, group, ORDER), lambda: shrink(coded, group, np.arange(3))):
        with pytest.raises(LeafError, match=r"w2: it is .* already; put this stage before the one that made it so"):
            change()


def test_what_is_not_a_number_does_not_spread_over_what_is_summed() -> None:
    broken = Compressed.from_model(qt.from_params({"w1": W1, "b1": B1, "w2": np.where(W2[3] == W2, np.nan, W2)}))
    group = Group("w1", tuple(member for member in GROUP.members if not member.state))
    with pytest.raises(LeafError, match="w2: 3 numbers are NaN or infinite"):
        shrink(broken, group, np.arange(4), outgoing=np.eye(4, 5))
    assert np.isnan(np.asarray(shrink(broken, group, np.arange(4)).decode()["w2"])).sum() == 3


def test_groups_that_may_not_change_and_those_of_another_network_are_refused() -> None:
    with pytest.raises(LeafError, match="w1: its channels can't be permuted: an output"):
        reorder(net(), dataclasses.replace(GROUP, fixed="an output"), ORDER)
    with pytest.raises(LeafError, match="w1: its channels can't be merged or removed: padded"):
        shrink(net(), dataclasses.replace(GROUP, tied="padded"), np.arange(4))
    less = shrink(net(), GROUP, np.arange(4))
    with pytest.raises(LeafError, match="w1: the graph is of another network, or of this one before its channels"):
        reorder(less, GROUP, ORDER)
    other = Compressed.from_model(qt.from_params({"w1": W1}))
    with pytest.raises(LeafError, match="b1: the graph is of another network"):
        reorder(other, GROUP, ORDER)
