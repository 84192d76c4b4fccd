"""Which groups there are: all that there should be, with the members, places and reasons that they should have."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantree.errors import ConfigError, QuantreeError
from quantree.graph import Graph, Group, couple, named
from quantree.model import Tree, flatten
from quantree.registry import registered
from tests.graph.networks import ALL, names
from tests.graph.zoo import ZOO

KNOWN = [pytest.param(name, marks=marks) for name, marks in names() if ALL[name].free is not None]


def graph_of(name: str) -> Graph:
    case = ALL[name]
    assert case.model.apply is not None
    return couple(case.model.apply, case.model.params, case.model.state, case.inputs)


def group_of(graph: Graph, name: str) -> Group:
    (group,) = (group for group in graph.groups if group.name == name)
    return group


def roles(group: Group) -> dict[str, str]:
    return {f"{m.path}:{m.axis}": m.role for m in group.members}


def fixed(name: str) -> dict[str, str]:
    """path:axis -> why it is fixed."""
    groups = graph_of(name).groups
    return {f"{m.path}:{m.axis}": group.fixed for group in groups if group.fixed for m in group.members}


@pytest.mark.parametrize("name", KNOWN)
def test_all_groups_are_found_and_nothing_else_is_free(name: str) -> None:
    case, graph = ALL[name], graph_of(name)
    assert {group.name: group.size for group in graph.shrinkable} == case.free
    assert {group.name: group.size for group in graph.free if group.tied is not None} == case.tied
    for path, leaf in flatten(case.model.params).items():
        for axis, n in enumerate(leaf.shape):
            places = [m.places.reshape(-1) for g in graph.groups for m in g.members if (m.path, m.axis) == (path, axis)]
            assert n == 1 or set(np.concatenate(places)) == set(range(n)), f"{path}[{axis}] is in no group"


def test_every_network_of_the_zoo_is_tried() -> None:
    assert set(ZOO) == set(registered("network")) - {"module"}


def test_a_multilayer_perceptron() -> None:
    graph = graph_of("mlp")
    assert roles(group_of(graph, "fc1")) == {
        "fc1/kernel:1": "producer",
        "fc1/bias:0": "per-channel",
        "fc2/kernel:0": "consumer",
    }
    ends = {"fc1/kernel:0": "an input of the network"}
    assert fixed("mlp") == {**ends, **dict.fromkeys(("fc3/kernel:1", "fc3/bias:0"), "an output of the network")}
    for fact in ("fc1: 6 channels", "fc2: 4 channels", "an input of the network: fc1/kernel[0]"):
        assert fact in graph.describe()


@pytest.mark.parametrize(
    ("name", "group", "apart", "pixels"), [("lenet5", "conv2", 1, 50), ("FlattenedChannelsFirst", "conv", 16, 1)]
)
def test_channels_of_a_flattened_image_lie_once_at_each_pixel(name: str, group: str, apart: int, pixels: int) -> None:
    """apart: from one channel to the next; pixels: from one pixel to the next."""
    found = group_of(graph_of(name), group)
    (reader,) = found.having("consumer")
    count = reader.places.shape[1]
    assert count == {"lenet5": 2 * 2, "FlattenedChannelsFirst": 4 * 4}[name]
    np.testing.assert_array_equal(
        reader.places, apart * np.arange(found.size)[:, None] + pixels * np.arange(count)[None]
    )


@pytest.mark.parametrize(
    ("name", "group", "state"),
    [
        ("resnet8", "conv2d_1", {"batch_normalization_1/mean": 0, "batch_normalization_1/var": 0}),
        ("LinenDense", "Conv_1", {"batch_stats/BatchNorm_1/mean": 5, "batch_stats/BatchNorm_1/var": 5}),
        ("PaddedShortcut", "outer/conv", {"outer/bn/mean": 4, "outer/bn/var": 4}),
    ],
)
def test_statistics_follow_the_channels_of_their_norm(name: str, group: str, state: dict[str, int]) -> None:
    """state: path -> place of the first channel."""
    found = group_of(graph_of(name), group)
    assert {member.path: member.places[0, 0] for member in found.members if member.state} == state
    assert all(member.path not in flatten(ALL[name].model.params) for member in found.members if member.state)


def test_a_padded_stream_has_a_group_for_each_width() -> None:
    graph = graph_of("resnet20")
    first, second, third = (group_of(graph, name) for name in ("conv1", "layer2/0/conv2", "layer3/0/conv2"))
    (linear,) = (member for member in first.members if member.path == "linear/kernel")
    np.testing.assert_array_equal(linear.places[:, 0], np.arange(24, 40))
    parts = [next(m.places[:, 0] for m in g.members if m.path == "linear/kernel") for g in (second, third)]
    np.testing.assert_array_equal(parts[0], [*range(16, 24), *range(40, 48)])
    np.testing.assert_array_equal(parts[1], [*range(16), *range(48, 64)])
    assert {group.tied for group in (first, second)} == {"padded from 16 to 32 channels, a fixed number"}
    assert third.tied == "padded from 32 to 64 channels, a fixed number"


def test_heads_and_their_channels_move_apart_from_each_other() -> None:
    graph = graph_of("TransformerByHand")
    heads, scores, values = (group_of(graph, f"attention/qkv#{i}") for i in (1, 2, 3))
    whole = np.arange(36).reshape(3, 3, 4)  # queries, keys, values; heads; channels
    for group, expected in (
        (heads, whole.transpose(1, 0, 2).reshape(3, -1)),
        (scores, whole[:2].transpose(2, 0, 1).reshape(4, -1)),
        (values, whole[2].T),
    ):
        (kernel,) = group.having("producer")
        assert kernel.path == "attention/qkv/kernel" and kernel.axis == 1
        np.testing.assert_array_equal(np.sort(kernel.places, axis=1), expected)
    assert [member.path for member in heads.having("consumer")] == ["attention/out/kernel"]
    assert scores.having("consumer") == ()


def test_tied_weights_are_one_member() -> None:
    graph = graph_of("TransformerByHand")
    members = [m for m in group_of(graph, "embed").members if m.path == "embed/embedding"]
    assert [(member.axis, member.role) for member in members] == [(1, "producer")]
    assert fixed("TransformerByHand")["embed/embedding:0"] == "the program looks them up by their number"
    shared = group_of(graph_of("autoencoder_with_one_kernel"), "w1:1")
    assert shared.tied == "an array makes them and sums over them along one axis"
    called_twice = group_of(graph_of("one_layer_called_twice"), "w1:1")
    assert roles(called_twice) == {"w1:1": "producer", "w:1": "producer", "w:0": "consumer", "w2:0": "consumer"}


@pytest.mark.parametrize(
    ("name", "path", "reason"),
    [
        ("spectrum_of_channels", "w1:1", "operation 'fft', of which nothing is known"),
        ("sorted_channels_gate_them", "w1:1", "operation 'sort' goes by their order"),
        ("summed_along_channels", "w1:1", "operation 'cumsum' goes by their order"),
        ("weighted_by_place", "w2:0", "the program numbers them"),
        ("hidden_layer_is_an_output", "w2:0", "an output of the network"),
        ("stream_that_begins_with_the_input", "w2:0", "an input of the network"),
        ("a_leaf_that_nothing_reads", "unused:1", "nothing in the network reads it"),
        ("convolved_along_channels", "taps:0", "they are positions in a kernel"),
    ],
)
def test_what_is_fixed_has_a_reason(name: str, path: str, reason: str) -> None:
    assert fixed(name)[path] == reason
    assert reason in graph_of(name).describe()


def test_activations_are_what_the_next_layers_see() -> None:
    case = ALL["concatenated"]
    graph, x, p = graph_of("concatenated"), np.asarray(case.inputs), case.model.params
    for name in ("w1", "w2"):
        seen = graph.activations(p, {}, case.inputs, group_of(graph, f"{name}:1"))
        np.testing.assert_allclose(seen, np.tanh(x @ np.asarray(p[name])), rtol=1e-5)
    case, graph = ALL["FlattenedChannelsFirst"], graph_of("FlattenedChannelsFirst")
    seen = graph.activations(case.model.params, {}, case.inputs, group_of(graph, "conv"))
    layout = ("NHWC", "HWIO", "NHWC")
    conv = case.model.params["conv"]
    image = jax.lax.conv_general_dilated(case.inputs, conv["kernel"], (2, 2), "SAME", dimension_numbers=layout)
    image = jax.nn.elu(image + conv["bias"].reshape(1, 1, 1, -1)).reshape(-1, 6)
    assert seen.shape == image.shape == (2 * 16, 6)
    np.testing.assert_allclose(np.sort(seen, axis=0), np.sort(image, axis=0), rtol=1e-4, atol=1e-6)


def test_a_network_that_fails_is_an_error_of_its_own() -> None:
    def apply(params: Tree, state: Tree, inputs: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Tree]:
        return inputs @ params["w"], state

    with pytest.raises(QuantreeError, match="the network fails on inputs of these shapes: TypeError: dot_general"):
        couple(apply, {"w": jnp.zeros((5, 6))}, {}, jnp.zeros((2, 4)))


@pytest.mark.parametrize("name", ["mlp", "all_widths_alike", "TransformerByHand", "mixture_of_experts"])
def test_a_name_is_a_pattern_that_fits_its_group_alone(name: str) -> None:
    groups = graph_of(name).groups
    assert [named([group.name], groups) for group in groups] == [[group] for group in groups]


def test_a_pattern_that_names_no_group_is_an_error() -> None:
    groups = graph_of("mlp").free
    assert [group.name for group in named(["fc*"], groups)] == ["fc1", "fc2"]
    with pytest.raises(ConfigError, match="pattern 'fc9' matches no group"):
        named(["fc9"], groups)
