import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.zoo.deepdta import DeepDta
from quantree.errors import ConfigError
from quantree.model import Model, flatten

SMALL = DeepDta(ligand=9, ligand_letters=5, protein_letters=6, ligand_kernel=2, protein_kernel=3, hidden=(7, 8, 5))
RNG = np.random.default_rng(0)
TOKENS = np.concatenate([RNG.integers(0, 5, (4, 9)), RNG.integers(0, 6, (4, 12))], axis=1).astype(np.uint8)


def outputs(model: Model) -> np.ndarray:
    assert model.apply is not None
    return np.asarray(model.apply(model.params, model.state, TOKENS)[0])


def test_weights_are_counted_as_published() -> None:
    sizes = {path: np.prod(leaf.shape) for path, leaf in flatten(DeepDta().abstract((1285,), 1).params).items()}
    assert sum(size for path, size in sizes.items() if path.startswith("conv") and path.endswith("kernel")) == 245_760
    assert sum(size for path, size in sizes.items() if path.startswith("fc") and path.endswith("kernel")) == 1_769_984
    assert {path: sizes[path] for path in sizes if path.startswith("embed")} == {
        "embed_ligand/embedding": 65 * 128,
        "embed_protein/embedding": 26 * 128,
    }


def branch(params: dict[str, np.ndarray], name: str, tokens: np.ndarray) -> np.ndarray:
    """A branch letter by letter, in float64."""
    x = params[f"embed_{name}/embedding"][tokens]
    for i in (1, 2, 3):
        kernel, bias = params[f"conv_{name}{i}/kernel"], params[f"conv_{name}{i}/bias"]
        places = len(x) - len(kernel) + 1
        x = np.array([sum(x[place + tap] @ kernel[tap] for tap in range(len(kernel))) for place in range(places)])
        x = np.maximum(x + bias, 0)
    return x.max(axis=0)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_outputs_are_those_of_the_published_layers(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    model = SMALL.model(0, (21,), 1)
    params = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(model.params).items()}
    params |= {path: value + 0.1 for path, value in params.items() if path.endswith("bias")}
    x = np.array([[*branch(params, "ligand", row[:9]), *branch(params, "protein", row[9:])] for row in TOKENS])
    for i in (1, 2, 3, 4):
        x = x @ params[f"fc{i}/kernel"] + params[f"fc{i}/bias"]
        x = np.maximum(x, 0) if i < 4 else x
    biased = jax.tree.map_with_path(lambda path, leaf: leaf + 0.1 if path[-1].key == "bias" else leaf, model.params)
    assert model.apply is not None
    got = np.asarray(model.apply(biased, {}, TOKENS)[0])
    np.testing.assert_allclose(got, x, rtol=1e-4, atol=1e-5)
    assert np.ptp(got) > 1e-3


def test_the_stem_and_the_head_make_the_network() -> None:
    model = SMALL.model(0, (21,), 1)
    assert model.stem is not None
    features = [apply(model.params, {}, TOKENS[:, part])[0] for part, apply in model.stem.branches]
    assert [each.shape for each in features] == [(4, 96), (4, 96)]
    together, _ = model.stem.head(model.params, {}, jnp.concatenate(features, axis=1))
    np.testing.assert_array_equal(np.asarray(together), outputs(model))


def test_dropout_is_for_training_alone() -> None:
    model = SMALL.model(0, (21,), 1)
    assert model.apply is not None
    one, other = (model.apply(model.params, {}, TOKENS, train=True, key=jax.random.key(i))[0] for i in (0, 1))
    assert not np.array_equal(np.asarray(one), np.asarray(other))
    np.testing.assert_array_equal(outputs(model), outputs(model))


@pytest.mark.parametrize("shape", [(8, 8, 1), (9,), (15,)])
def test_inputs_that_leave_no_room_for_a_protein_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ConfigError, match=r"takes inputs of shape \[9 of a ligand, 4 or more, and 7 or more of a protein"
    ):
        SMALL.abstract(shape, 1)
