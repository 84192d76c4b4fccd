"""What a file is worth: the metric of a compressed file, or of a checkpoint, on the data of a config.

    python -m experiments.evaluate FILE CONFIG.yaml [dotted.key=value ...] [--data-dir DIR]

FILE: a `.qtree` file, a safetensors file or an Orbax directory, of the network that the config names. Of the config
only `data`, `model`, `plugins` and the first seed count. Exit status: 0, or 2 after one line on standard error.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.baseline import cut, on_test
from experiments.config import load_experiment
from experiments.imported import Checkpoint, Imported, put_into
from quantree import storage
from quantree.encodings import Compressed
from quantree.errors import QuantreeError
from quantree.model import Model, unflatten
from quantree.recovery import evaluate


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints one line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.evaluate", description="Measures a compressed file or a checkpoint."
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="a .qtree file, a safetensors file, an Orbax directory")
    parser.add_argument("config", metavar="CONFIG.yaml", type=Path, help="says network and data set; see configs/")
    parser.add_argument("overrides", metavar="dotted.key=value", nargs="*", help="replaces a value of the config")
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="where data sets are; default: TFDS's")
    chosen = parser.parse_intermixed_args(arguments)
    try:
        print(_measured(chosen.file, chosen.config, chosen.overrides, chosen.data_dir))
    except (QuantreeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _measured(file: Path, config: Path, overrides: Sequence[str], data_dir: Path | None) -> str:
    loaded = load_experiment(config, overrides)
    experiment, seed = loaded.points[0].experiment, loaded.seeds[0]
    data = cut(experiment.data, seed, data_dir)  # pyright: ignore[reportArgumentType]  frozen, so hashable
    fresh = experiment.model.model(seed, data.dataset.shape, len(data.dataset.classes))
    if file.suffix == ".qtree":
        compressed = storage.load(file)
        model = Model(compressed.decode(), unflatten(compressed.state))
        size, narrower = file.stat().st_size, compressed.narrower and compressed.dense_bytes == fresh.dense_bytes
    else:
        found = Imported.at(Path(), Checkpoint(file=str(file)))
        size, narrower, model = None, False, found.read()
    model = put_into(fresh, model, str(file), narrower)
    score = evaluate(Compressed.from_model(model), model, on_test(data))
    name = data.data.task.metric_name
    told = f"{file}: {name} {score.metric:.4f}, loss {score.loss:.4f} on the test split of {experiment.data.name}"
    if size is not None:
        told += f"; {size:,} bytes, {fresh.dense_bytes / size:.2f} times smaller than {fresh.dense_bytes:,}"
    return told


if __name__ == "__main__":
    sys.exit(main())
