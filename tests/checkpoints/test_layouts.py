import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantree.checkpoints import LAYOUTS, Layout, detect, from_layout, to_layout
from quantree.errors import ConfigError, LeafError

LASTS = ("weight", "bias", "kernel", "scale", "mean", "var", "mean_", "running_mean", "running_var", "gamma", "beta")
NAMES = {
    "torch": st.lists(st.sampled_from(("conv1", "0", "weight", *LASTS)), min_size=1, max_size=3).map(".".join),
    "flax": st.lists(st.sampled_from(("conv1", "0", *LASTS)), min_size=1, max_size=3).map("/".join),
    "linen": st.lists(st.sampled_from(("params", "conv1", *LASTS)), min_size=1, max_size=3).map("/".join),
}


@pytest.mark.parametrize("layout", NAMES)
@given(data=st.data())
def test_what_is_read_is_what_is_written_out_again(layout: Layout, data: st.DataObject) -> None:
    names = data.draw(st.lists(NAMES[layout], min_size=1, unique=True))
    if layout == "linen":
        names = [*{*names, "params/kernel"}]
    ranks = data.draw(st.lists(st.integers(0, 5), min_size=len(names), max_size=len(names)))
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=range(2, 2 + rank)) for name, rank in zip(names, ranks, strict=True)}
    params, state, left_out = from_layout(arrays, layout)
    again = to_layout(params, state, layout)
    assert not left_out and again.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)


def test_torch_kernels_get_their_inputs_and_outputs_last() -> None:
    conv, dense = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7), np.arange(6).reshape(2, 3)
    params, state, left_out = from_layout(
        {
            "a.weight": conv,
            "b.weight": dense,
            "n.weight": np.ones(2),
            "n.running_var": np.ones(2),
            "n.num_batches_tracked": 3,
        },
        "torch",
    )
    np.testing.assert_array_equal(params["a/kernel"], conv.transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(params["b/kernel"], dense.T)
    assert [*params] == ["a/kernel", "b/kernel", "n/scale"] and [*state] == ["n/var"]
    assert left_out == ["n.num_batches_tracked"]


def test_a_gamma_of_pytorch_keeps_its_name() -> None:
    names = ["stem.weight", "bn.running_mean", "bn.running_var", "bn.weight", "bn.bias", "blk.gamma"]
    params, state, _ = from_layout({name: np.ones(2) for name in names}, detect(names))
    assert [*params] == ["stem/scale", "bn/scale", "bn/bias", "blk/gamma"] and [*state] == ["bn/mean", "bn/var"]
    assert to_layout(params, state, "torch").keys() == {*names}


def test_keras_has_a_beta_where_a_layer_normalises_and_a_bias_elsewhere() -> None:
    names = ["conv2d/kernel", "conv2d/bias", "bn/gamma", "bn/beta", "bn/moving_mean", "bn/moving_variance"]
    params, state, _ = from_layout({name: np.ones(2) for name in names}, "keras")
    assert [*params, *state] == ["conv2d/kernel", "conv2d/bias", "bn/scale", "bn/bias", "bn/mean", "bn/var"]
    assert [*to_layout(params, state, "keras")] == names


def test_layouts_are_told_apart_by_their_names() -> None:
    assert detect(["conv.weight", "bn.running_mean"]) == "torch"
    assert detect(["conv/kernel", "bn/moving_mean"]) == "keras"
    assert detect(["conv/kernel", "bn/mean", "a/weight"]) == "flax"
    assert detect(["stem.weight", "bn.running_mean", "bn.bias", "blk.gamma"]) == "torch"
    assert detect(["encoder.LayerNorm.gamma", "encoder.LayerNorm.beta", "encoder.dense.weight"]) == "torch"
    assert detect(["bn.gamma", "bn.running_var"]) == "torch"
    assert detect(["conv/kernel", "bn/gamma", "bn/beta"]) == detect(["moving_mean", "gamma"]) == "keras"
    assert detect(["blk.gamma", "blk.beta"]) == "flax"
    assert detect(["params/conv/kernel", "params/blk/gamma", "batch_stats/bn/mean", "step"]) == "linen"
    assert detect(["params/conv/kernel", "bn/mean"]) == "flax"
    assert {"torch", "keras", "flax", "linen"} == {*LAYOUTS}


@pytest.mark.parametrize(
    ("names", "layout", "reason"),
    [
        ([], "torch", "holds no arrays"),
        (["bn.num_batches_tracked"], "torch", "holds no arrays"),
        (["bn/gamma", "bn/scale"], "keras", "bn/scale and bn/gamma would both be called bn/scale"),
        (["dense/scale"], "keras", "dense/scale: no name of layout 'keras'"),
        (["a/b.weight"], "torch", "a/b.weight: no name"),
        (["a/kernel"], "linen", "needs a collection 'params'"),
    ],
)
def test_names_that_can_not_be_kept_apart_are_refused(names: list[str], layout: Layout, reason: str) -> None:
    with pytest.raises(LeafError, match=reason):
        from_layout({name: np.ones(2) for name in names}, layout)


def test_collections_of_linen_are_parameters_and_state() -> None:
    names = ["batch_stats/bn/mean", "batch_stats/bn/var", "params/bn/bias", "params/bn/scale", "step"]
    arrays = {name: np.ones(2) for name in names}
    params, state, _ = from_layout(arrays, detect(names))
    assert [*params] == ["bn/bias", "bn/scale"] and [*state] == ["batch_stats/bn/mean", "batch_stats/bn/var", "step"]
    assert to_layout(params, state, "linen").keys() == arrays.keys()
    assert [*from_layout(arrays, "linen", ["step"]).state] == [*state]
    with pytest.raises(LeafError, match="params/bn/bias: in collection 'params' and thus no state"):
        from_layout(arrays, "linen", ["*/bias"])


def test_a_pattern_of_state_that_matches_nothing_is_an_error() -> None:
    arrays = {"bn.running_mean": np.ones(2), "bn.other": np.ones(2)}
    assert [*from_layout(arrays, "torch", ["*other"]).state] == ["bn/other"]
    with pytest.raises(ConfigError, match=r"did you mean 'bn\.running_mean'"):
        from_layout(arrays, "torch", ["bn.runing_mean"])
