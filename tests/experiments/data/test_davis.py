import json
import lzma
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.data import DataConfig, load, prepared, splits
from experiments.data.affinity import PROTEIN, SMILES, Affinity, read_matrix
from experiments.data.sets.davis import Davis
from experiments.data.sets.kiba import Kiba
from quantree.errors import DataError
from quantree.task import Regression

LIGANDS = {"a": "CC(=O)N", "b": "C" * 120, "c": "c1ccccc1"}
PROTEINS = {"x": "MKK", "y": "ACDEFGHIKLMNPQRSTVWYX" * 70}
KD = np.array([[1.0, 10_000.0], [50.0, 1e9], [np.nan, 3.0]])
TRAIN, TEST = [[3], [0], [4], [], []], [1, 2]  # places among the five that were measured
PARTS = {"ligands": LIGANDS, "proteins": PROTEINS, "Y": KD.tolist(), "train_folds": TRAIN, "test_fold": TEST}


def python2(matrix: np.ndarray) -> bytes:
    """A pickle as NumPy under Python 2 writes it, by hand: its bytes are a string of that Python."""
    shape, content = matrix.shape, matrix.astype("<f8").tobytes().decode("latin1").encode("unicode_escape")
    text = content.replace(b"'", b"\\'")
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I%d\nI%d\ntcnumpy\ndtype\n"
        b"(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'%b'\ntb." % (*shape, text)
    )


def write(folder: Path, matrix: bytes, **changes: Any) -> Path:
    """The layout of DeepDTA; `changes` replace the content of single files."""
    (folder / "folds").mkdir(parents=True)
    content = {"ligands_can.txt": LIGANDS, "proteins.txt": PROTEINS}
    content |= {"folds/train_fold_setting1.txt": TRAIN, "folds/test_fold_setting1.txt": TEST}
    for name, value in (content | changes).items():
        (folder / name).write_text(json.dumps(value))
    (folder / "Y").write_bytes(matrix)
    return folder


@pytest.fixture(autouse=True)
def _as_small_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    for source in (Davis, Kiba):
        monkeypatch.setattr(source, "sizes", {"train": 3, "test": 2})


def by_pair(inputs: np.ndarray, targets: np.ndarray) -> dict[bytes, float]:
    return {row.tobytes(): float(target) for row, target in zip(inputs, targets, strict=True)}


def tokens(text: str, alphabet: str, length: int) -> list[int]:
    return [alphabet.index(letter) + 1 for letter in text[:length]] + [0] * (length - len(text))


@pytest.mark.parametrize("source", [Davis, Kiba])
@pytest.mark.parametrize("protocol", [None, 0, 2, 5])
def test_the_raw_layout_becomes_tokens_and_affinities(
    source: type[Affinity], protocol: int | None, tmp_path: Path
) -> None:
    matrix = python2(KD) if protocol is None else pickle.dumps(KD, protocol)
    raw = write(tmp_path / "raw" / source().name, matrix)
    folder = prepared.write(source(), raw.parent, tmp_path)
    read = prepared.read(source(), folder)
    measured = [(i, j) for i in range(3) for j in range(2) if not np.isnan(KD[i, j])]
    for split, places in (("train", [3, 0, 4]), ("test", [1, 2])):
        inputs, targets = read[split]
        assert inputs.dtype == np.uint8 and targets.dtype == np.float32
        wanted = {}
        for i, j in (measured[place] for place in places):
            ligand = tokens(list(LIGANDS.values())[i], SMILES, source.ligand_length)
            protein = tokens(list(PROTEINS.values())[j], PROTEIN, source.protein_length)
            kd = KD[i, j]
            wanted[bytes(ligand + protein)] = 9 - np.log10(kd) if source is Davis else kd
        assert by_pair(inputs, targets) == pytest.approx(wanted)


def test_davis_in_one_file_is_the_same(tmp_path: Path) -> None:
    write(tmp_path / "raw", pickle.dumps(KD))
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "davis.json").write_text(json.dumps(PARTS))
    one, other = (Davis().examples(tmp_path / folder) for folder in ("one", "raw"))
    assert one == other and len(one["train"]) == 3
    (tmp_path / "one" / "davis.json").write_text(json.dumps(PARTS | {"Y": [[1], [2, 3]]}))
    with pytest.raises(DataError, match=r"davis.json: Y is no matrix of numbers"):
        Davis().examples(tmp_path / "one")


def test_splits_have_tokens_as_stored_and_a_random_part_held_out(tmp_path: Path) -> None:
    prepared.write(Davis(), write(tmp_path / "raw", pickle.dumps(KD)), tmp_path)
    cut = splits(DataConfig(name="davis", validation=1), 0, tmp_path)
    [(inputs, targets)] = list(cut.data.train(0, 0, 2))
    assert inputs.dtype == np.uint8 and inputs.shape == (2, 1285) and targets.dtype == np.float32
    assert isinstance(cut.data.task, Regression) and cut.scaling is None
    [(held, _)] = list(cut.data.validation(10))
    stored = {row.tobytes() for row in load("davis", tmp_path).train[0]}
    assert {row.tobytes() for row in (*inputs, *held)} == stored
    with pytest.raises(DataError, match="its inputs are tokens, which `scale` can't change"):
        splits(DataConfig(name="davis", validation=1, scale="standard"), 0, tmp_path)


class _Runs:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return print, ("this must not run",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps(_Runs()), "names builtins.print"),
        (b"cos\nsystem\n(S'true'\ntR.", "names os.system"),
        (b"", "is no pickle of a NumPy array"),
        (pickle.dumps(KD)[:-40], "is no pickle of a NumPy array"),
        (pickle.dumps([1, "a"]), "is no pickle of a NumPy array of numbers"),
        (pickle.dumps(KD[0]), r"holds an array of shape \(2,\) where a matrix is expected"),
    ],
)
def test_nothing_but_a_matrix_is_unpickled(
    content: bytes, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Y").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_matrix(tmp_path / "Y")
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("matrix", "changes", "reason"),
    [
        (KD, {"ligands_can.txt": {"a": "C"}}, r"Y is \(3, 2\) for 1 ligands and 2 proteins of davis"),
        (KD, {"ligands_can.txt": ["C"]}, "ligands_can.txt: holds a list where a dict is expected"),
        (KD, {"proteins.txt": {"x": "MKJ", "y": "A"}}, "'MKJ' holds 'J', none of ABC"),
        (KD, {"proteins.txt": {"x": "MK", "y": ""}}, "a sequence is empty"),
        (KD, {"folds/test_fold_setting1.txt": [1, 3]}, "the folds do not hold each of 5 measured pairs once"),
        (
            KD,
            {"folds/test_fold_setting1.txt": [1, "2"]},
            r"raw: test_fold\.1 of davis: Input should be a valid integer",
        ),
        (
            KD,
            {"folds/test_fold_setting1.txt": [1], "folds/train_fold_setting1.txt": [[0, 2, 3, 4]]},
            "train of davis has 4",
        ),
        (KD - 1, {}, "a Kd of 0.0 nM; each must be above zero"),
        (KD * np.inf, {}, "holds a value that is no affinity"),
    ],
)
def test_what_does_not_fit_is_told(matrix: np.ndarray, changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=reason):
        Davis().examples(write(tmp_path / "raw", pickle.dumps(matrix), **changes))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"kiba: no file Y in .*ligands_can.txt, proteins.txt, Y and folds"):
        Kiba().examples(tmp_path)
    (write(tmp_path / "raw", pickle.dumps(KD)) / "proteins.txt").unlink()
    with pytest.raises(DataError, match=r"no file .*proteins.txt"):
        Kiba().examples(tmp_path / "raw")


DAMAGES: list[tuple[str, Any, str]] = [
    *(
        (name, wrong, rf"{name} of davis: Input should be a valid")
        for name in PARTS
        if name != "Y"
        for wrong in (None, 5)
    ),
    ("ligands", LIGANDS | {"b": 7}, r"ligands\.b of davis: Input should be a valid string"),
    ("proteins", list(PROTEINS.values()), "proteins of davis: Input should be a valid dict"),
    ("train_folds", [i for fold in TRAIN for i in fold], r"train_folds\.0 of davis: Input should be a valid list"),
    ("train_folds", [*TRAIN[:-1], "12"], r"train_folds\.4 of davis: Input should be a valid list"),
    ("test_fold", [True, 2], r"test_fold\.0 of davis: Input should be a valid integer"),
    ("test_fold", [1.0, 2], r"test_fold\.0 of davis: Input should be a valid integer"),
    ("Y", None, r"Y is \(\) for 3 ligands"),
    ("Y", [[10**400]], "davis.json: Y is no matrix of numbers"),
    ("Y", {"a": 1}, "davis.json: Y is no matrix of numbers"),
]


@pytest.mark.parametrize(("name", "value", "reason"), DAMAGES)
def test_a_part_of_another_type_is_told(name: str, value: Any, reason: str, tmp_path: Path) -> None:
    (tmp_path / "davis.json").write_text(json.dumps(PARTS | {name: value}))
    with pytest.raises(DataError, match=reason):
        Davis().examples(tmp_path)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_is_missing_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / "davis.json").write_text(json.dumps({key: part for key, part in PARTS.items() if key != name}))
    with pytest.raises(DataError, match=f"{name} of davis: Field required"):
        Davis().examples(tmp_path)


@pytest.mark.parametrize("source", [Davis, Kiba])
@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("ligands_can.txt", LIGANDS | {"b": 7}, r"ligands\.b of {}: Input should be a valid string"),
        ("proteins.txt", {"x": "MKK", "y": None}, r"proteins\.y of {}: Input should be a valid string"),
        ("folds/train_fold_setting1.txt", [3, 0, 4], r"train_folds\.0 of {}: Input should be a valid list"),
    ],
)
def test_so_is_one_in_the_raw_layout(
    source: type[Affinity], file: str, content: Any, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=reason.format(source().name)):
        source().examples(write(tmp_path / "raw", pickle.dumps(KD), **{file: content}))


@pytest.mark.parametrize("content", ["[" * 100_000, "\ud800", '{"ligands": {"\\ud800": "\\ud800"}}'])
def test_json_that_python_can_not_hold_is_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "davis.json").write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(DataError, match=r"davis") as told:
        Davis().examples(tmp_path)
    assert str(told.value).encode()


@pytest.mark.slow
def test_the_real_davis_is_whole(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    content = lzma.decompress((shared_data / "davis" / "davis.json.xz").read_bytes())
    (tmp_path / "davis.json").write_bytes(content)
    parts, examples = json.loads(content), Davis().examples(tmp_path)
    pairs = [(example["ligand"], example["protein"]) for split in examples.values() for example in split]
    assert len(pairs) == len(set(parts["ligands"].values())) * len(parts["proteins"]) == 30_056
    test = Davis().arrays([{**each, **_encoded(each)} for each in examples["test"]])
    assert test[0].shape == (5010, 1285) and test[1].min() == 5.0
    kd = np.array(parts["Y"]).reshape(-1)[parts["test_fold"]]
    np.testing.assert_allclose(test[1], 9 - np.log10(kd), rtol=1e-6)


def _encoded(example: Any) -> dict[str, bytes]:
    return {name: example[name].encode() for name in ("ligand", "protein")}
