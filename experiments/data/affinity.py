"""How strongly molecules bind to proteins: data sets in the layout that came with DeepDTA (Ozturk et al. 2018)."""

import io
import json
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pydantic

from experiments.data.source import Example, Source, Split
from quantree.errors import DataError
from quantree.task import Regression, Task

# A token is a letter's place in its alphabet, from 1; 0 fills up.
PROTEIN = "ABCDEFGHIKLMNOPQRSTUVWXYZ"
SMILES = r"#%()+-./0123456789=@ABCDEFGHIKLMNOPRSTUVWYZ[\]abcdefghilmnorstuy"
CONTENTS = "ligands_can.txt, proteins.txt, Y and folds/{train,test}_fold_setting1.txt"


class Affinity(Source):
    """Pairs of a ligand and a protein: features `ligand` (SMILES), `protein` (amino acids) and `affinity`.

    Inputs uint8 [n, ligand_length + protein_length], the tokens of both, each cut off or filled up to its length;
    targets float32 [n].
    """

    highest = None
    classes = ("affinity",)
    task: ClassVar[Task] = Regression()
    raw = CONTENTS

    ligand_length: ClassVar[int]
    protein_length: ClassVar[int]

    def affinities(self, stored: np.ndarray) -> np.ndarray:
        """What is predicted, from what the raw files hold: float64 of any shape -> the same shape."""
        return stored

    def parts(self, raw: Path) -> dict[str, Any]:
        """Content of the raw files: `ligands` and `proteins` (name -> sequence), `Y` (float64 [ligands, proteins], NaN
        where nothing was measured), `train_folds` (lists of places) and `test_fold` (a list of places).

        Places count what was measured, ligand by ligand. `DataError` names a file that is missing or damaged; whether
        what it holds has these types, `examples` checks.
        """
        folder = next((each for each in (raw, raw / self.name) if (each / "Y").is_file()), None)
        if folder is None:
            raise DataError(f"{self.name}: no file Y in {raw} or {raw / self.name}; {self.raw} are needed")
        return {
            "ligands": read_json(folder / "ligands_can.txt", dict),
            "proteins": read_json(folder / "proteins.txt", dict),
            "Y": read_matrix(folder / "Y"),
            "train_folds": read_json(folder / "folds" / "train_fold_setting1.txt", list),
            "test_fold": read_json(folder / "folds" / "test_fold_setting1.txt", list),
        }

    def builder(self) -> type[Any]:
        """See `Source.builder`."""
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.registered import skip_registration

        text, number = tfds.features.Text(), tfds.features.Scalar(dtype=np.float32)
        description = f"{self.title[0].upper()}{self.title[1:]}, split as for DeepDTA (Ozturk et al. 2018)."
        version = self.version

        with skip_registration():

            class Builder(tfds.core.GeneratorBasedBuilder):
                VERSION = tfds.core.Version(version)

                def _info(self) -> tfds.core.DatasetInfo:
                    return tfds.core.DatasetInfo(
                        builder=self,
                        description=description,
                        features=tfds.features.FeaturesDict({"ligand": text, "protein": text, "affinity": number}),
                        homepage="https://github.com/hkmztrk/DeepDTA",
                    )

        return Builder

    def examples(self, raw: Path | None) -> dict[str, Sequence[Example]]:
        """See `Source.examples`."""
        assert raw is not None
        try:
            parts = _Parts.model_validate(self.parts(raw))
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise DataError(f"{raw}: {place} of {self.name}: {first['msg']}") from None
        ligands, proteins, stored = list(parts.ligands.values()), list(parts.proteins.values()), parts.Y
        if stored.shape != (len(ligands), len(proteins)):
            raise DataError(
                f"{raw}: Y is {stored.shape} for {len(ligands)} ligands and {len(proteins)} proteins of {self.name}"
            )
        for sequences, alphabet in ((ligands, SMILES), (proteins, PROTEIN)):
            for sequence in sequences:
                _tokens(sequence, alphabet, 1)
        rows, columns = np.nonzero(~np.isnan(stored))
        values = self.affinities(stored[rows, columns])
        if not np.isfinite(values).all():
            raise DataError(f"{raw}: Y of {self.name} holds a value that is no affinity: {stored[rows, columns].min()}")
        places = _splits(parts, len(rows), raw)
        for split, size in self.sizes.items():
            if len(places[split]) != size:
                raise DataError(f"{raw}: {split} of {self.name} has {len(places[split]):,} pairs where {size:,} belong")
        return {
            split: [
                {"ligand": ligands[rows[i]], "protein": proteins[columns[i]], "affinity": np.float32(values[i])}
                for i in chosen
            ]
            for split, chosen in places.items()
        }

    def arrays(self, examples: Iterable[Example]) -> Split:
        """See `Source.arrays`."""
        known: dict[tuple[bytes, str, int], np.ndarray] = {}

        def tokens(text: bytes, alphabet: str, length: int) -> np.ndarray:
            key = (text, alphabet, length)
            if key not in known:
                known[key] = _tokens(text.decode(), alphabet, length)
            return known[key]

        inputs, targets = [], []
        for example in examples:
            ligand = tokens(example["ligand"], SMILES, self.ligand_length)
            inputs.append(np.concatenate([ligand, tokens(example["protein"], PROTEIN, self.protein_length)]))
            targets.append(example["affinity"])
        return np.stack(inputs), np.array(targets, np.float32)


class _Parts(pydantic.BaseModel, strict=True, arbitrary_types_allowed=True):
    """What `Affinity.parts` gives; whatever else a file holds does not matter."""

    ligands: dict[str, str]
    proteins: dict[str, str]
    Y: np.ndarray
    train_folds: list[list[int]]
    test_fold: list[int]


def _tokens(text: str, alphabet: str, length: int) -> np.ndarray:
    """Tokens uint8 [length] of a sequence, cut off or filled up with 0. `DataError` names a letter that is unknown."""
    unknown = sorted(set(text) - set(alphabet))
    if unknown or not text:
        raise DataError(f"{text[:40]!r} holds {unknown[0]!r}, none of {alphabet}" if unknown else "a sequence is empty")
    places = [alphabet.index(letter) + 1 for letter in text[:length]]
    return np.pad(np.array(places, np.uint8), (0, length - len(places)))


def _splits(parts: _Parts, measured: int, raw: Path) -> dict[str, list[int]]:
    """Split -> places among what was measured. `DataError` if they are not all of them, once each."""
    places = {"train": [i for fold in parts.train_folds for i in fold], "test": parts.test_fold}
    if sorted(i for chosen in places.values() for i in chosen) != list(range(measured)):
        raise DataError(f"{raw}: the folds do not hold each of {measured:,} measured pairs once")
    return places


def read_json(path: Path, kind: type[Any]) -> Any:
    """The dict or list in a JSON file; `DataError` if it is missing or holds something else."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"no file {path}; {CONTENTS} are needed") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: can't be read: {error}") from None
    if not isinstance(content, kind):
        raise DataError(f"{path}: holds a {type(content).__name__} where a {kind.__name__} is expected")
    return content


def read_matrix(path: Path) -> np.ndarray:
    """The matrix of numbers, float64 [n, m], in a pickle of one NumPy array, of Python 2 or 3.

    Nothing but a NumPy array is unpickled, so a file from anyone may be opened. `DataError` if it is anything else.
    """
    try:
        found = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        matrix = np.asarray(found, np.float64)
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"{path}: is no pickle of a NumPy array of numbers: {error}") from None
    if matrix.ndim != 2:
        raise DataError(f"{path}: holds an array of shape {matrix.shape} where a matrix is expected")
    return matrix


class _ArraysOnly(pickle.Unpickler):
    _reconstruct = np.zeros(0).__reduce__()[0]

    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{module_name}.{global_name}".replace("numpy._core.", "numpy.core.")  # its new name in NumPy 2
        known = {
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "numpy.core.multiarray._reconstruct": type(self)._reconstruct,
            "numpy.core.numeric._frombuffer": _array_of,
            "_codecs.encode": _bytes_of,
        }
        if name not in known:
            raise pickle.UnpicklingError(f"it names {name}")
        return known[name]


def _array_of(buffer: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> np.ndarray:
    """How NumPy names an array that is contiguous, from protocol 5 on."""
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _bytes_of(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into a pickle that Python 2 can read."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it names the encoding {encoding!r}")
    return text.encode("latin1")
