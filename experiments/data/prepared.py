"""Prepared data sets: the directories of array_record files that tensorflow-datasets reads and writes.

TensorFlow is not needed. Neither is TFDS once a set is cached (see `dataset.py`): its import waits inside functions.
"""

import contextlib
import importlib.util
import io
import json
import logging
import os
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.data.source import Example, Source, Split
from quantree.errors import DataError
from quantree.progress import track

INFO = "dataset_info.json"
FORMAT = "array_record"
CHUNK = 500  # examples between two reports of progress; also read at once


def data_root(data_dir: str | Path | None = None) -> Path:
    """The directory that holds all data sets: `data_dir`, else the environment's TFDS_DATA_DIR, else TFDS's default.

    It need not exist yet. `DataError` if there is something else at its place.
    """
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    root = Path(chosen).expanduser().absolute()
    if root.exists() and not root.is_dir():
        raise DataError(f"{root} is a file; give a folder of data sets as --data-dir or TFDS_DATA_DIR")
    return root


def folder_of(source: Source, root: Path) -> Path:
    """Where TFDS keeps a data set: `root/name/version`."""
    return root / source.name / source.version


def formats(folder: Path) -> set[str]:
    """The file formats in which a directory holds its data set; none if nothing is prepared there."""
    try:
        info = json.loads((folder / INFO).read_text())
    except FileNotFoundError:
        return set()
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / INFO}: can't be read: {error}; delete the folder and prepare it again") from None
    return {info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", ())}


def find(source: Source, root: Path) -> Path:
    """The prepared directory of a data set, made on the spot if that needs no files of the user's.

    `DataError` with the command to type if it is missing, or prepared in another format than array_record.
    """
    folder = folder_of(source, root)
    if not is_prepared(source, root):
        if not source.raw:
            write(source, None, root)
        elif source.official and importlib.util.find_spec("tensorflow"):
            _download(source, root)
        else:
            raise DataError(f"{source.name} is not prepared in {root}. {_how_to_prepare(source, root)}")
    return folder


def is_prepared(source: Source, root: Path) -> bool:
    """Whether a data set can be read from `root`. `DataError` if it is there in another format than array_record."""
    folder = folder_of(source, root)
    found = formats(folder)
    if found and FORMAT not in found:
        raise DataError(
            f"{folder} is prepared as {', '.join(sorted(found))}, and {FORMAT} is needed. To convert it, where "
            f"TensorFlow and Apache Beam are installed, type\n  python -m tensorflow_datasets.scripts.convert_format "
            f"--dataset_version_dir={shlex.quote(str(folder))} --out_file_format={FORMAT}"
        )
    return bool(found)


def write(source: Source, raw: Path | None, root: Path) -> Path:
    """Writes a data set from its raw files and returns its directory, which appears at once, whole, or not at all.

    `DataError` names the raw file that is missing or wrong.
    """
    folder = folder_of(source, root)
    examples = source.examples(raw)
    base = source.builder()
    from tensorflow_datasets.core.registered import skip_registration

    with skip_registration():

        class Builder(base):
            name = source.name
            code_path = None  # no checksums of downloads to look up
            __module__ = base.__module__  # stands in the directory's metadata

            def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Example]]]:
                return {split: _numbered(f"{source.name}: write {split}", part) for split, part in examples.items()}

            def _generate_examples(self, **kwargs: Any) -> Iterator[tuple[int, Example]]:
                raise AssertionError("the splits bring their own generators")

    with _quiet(), tempfile.TemporaryDirectory() as downloads:  # TFDS makes the folder, and nothing goes there
        builder = Builder(data_dir=root, file_format=FORMAT)
        try:
            builder.download_and_prepare(download_dir=downloads)
        except OSError as error:
            # Two processes may prepare the same set: the second finds the directory in place.
            if not (folder / INFO).is_file():
                raise DataError(f"{folder}: can't be written: {error}") from error
    if not (folder / INFO).is_file():
        raise DataError(f"{folder} exists without {INFO}, so it is not whole: delete it and prepare it again")
    return folder


def read(source: Source, folder: Path) -> dict[str, Split]:
    """Decodes a prepared directory: split -> (inputs, targets). `DataError` if it does not hold what it should."""
    import tensorflow_datasets as tfds

    splits = {}
    for split, size in source.sizes.items():
        try:
            with _quiet():
                builder: Any = tfds.builder_from_directory(folder)
                records = builder.as_data_source(split, file_format=FORMAT)
                examples = list(_chunked(f"{source.name}: decode {split}", records))
            inputs, targets = source.arrays(examples)
        except Exception as error:  # of TFDS, array_record, protobuf or Pillow: any may trip over a damaged file
            raise DataError(f"{folder}: split {split!r} can't be read: {error}; {_AGAIN}") from error
        if inputs.shape != (size, *source.shape) or len(targets) != size:
            raise DataError(
                f"{folder}: split {split!r} is {inputs.shape} where {(size, *source.shape)} is expected; {_AGAIN}"
            )
        splits[split] = inputs, targets
    return splits


_AGAIN = "delete the folder and prepare it again"


def _download(source: Source, root: Path) -> None:
    import tensorflow_datasets as tfds

    try:
        tfds.builder(source.name, data_dir=root, file_format=FORMAT).download_and_prepare()
    except Exception as error:  # of the network, the disk, or a package that TFDS wants
        raise DataError(
            f"{source.name} is not prepared in {root}, and TFDS could not download it: {error}. "
            f"{_how_to_prepare(source, root)}"
        ) from error


def _how_to_prepare(source: Source, root: Path) -> str:
    where = "" if root == data_root() else f" --data-dir {shlex.quote(str(root))}"
    command = f"python -m experiments.data prepare {source.name} --from RAW_DIR{where}"
    return f"With {source.raw} in a folder RAW_DIR, type\n  {command}"


def _numbered(label: str, examples: Sequence[Example]) -> Iterator[tuple[int, Example]]:
    with track(label, len(examples)) as job:
        for index in range(len(examples)):
            yield index, examples[index]
            if (index + 1) % CHUNK == 0:
                job.advance(CHUNK)


def _chunked(label: str, records: Any) -> Iterator[Example]:
    # Read one at a time, array_record takes four times as long.
    with track(label, len(records)) as job:
        for start in range(0, len(records), CHUNK):
            indices = list(range(start, min(start + CHUNK, len(records))))
            yield from records.__getitems__(indices)
            job.advance(len(indices))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TFDS keeps its own bars, its advice, and its word of a download that does not take place, to itself."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
