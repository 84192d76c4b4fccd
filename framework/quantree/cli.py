"""`quantree`: compresses checkpoint files, shows what a compressed file holds, and writes checkpoints again.

Whatever needs JAX is imported when a command runs.
"""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantree.errors import ConfigError, DataError, QuantreeError, nearest

if TYPE_CHECKING:
    from rich.table import Table

    from quantree.checkpoints import Checkpoint
    from quantree.encodings import Compressed
    from quantree.schema import Document

RECIPES = Path(__file__).parent / "recipes"
LAYOUTS = ("torch", "keras", "flax", "linen")  # those of quantree.checkpoints, which needs JAX


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns 0, or 1 after one line on standard error; wrong usage exits with 2."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except BrokenPipeError:  # whoever read has gone away; a file that was asked for has been written before
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (QuantreeError, OSError) as error:
        line = " ".join(str(error).split())
        print(f"error: {line if line.isprintable() else ascii(line)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; nothing was written", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("quantree", description="Turns checkpoints into small files, and back.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    checkpoint = "a .safetensors file, or an Orbax directory"

    compress = commands.add_parser("compress", help="checkpoint -> .qtree file")
    compress.add_argument("checkpoint", type=Path, metavar="IN", help=checkpoint)
    compress.add_argument("--out", type=Path, required=True, metavar="OUT.qtree", help="file to write")
    compress.add_argument("--recipe", metavar="R", help="a .yaml file, or a name: see `recipes`")
    target = compress.add_mutually_exclusive_group()
    target.add_argument("--target-ratio", type=float, metavar="X", help="how many times smaller, at least")
    target.add_argument("--target-bytes", type=int, metavar="N", help="size of the file, at most")
    compress.add_argument("--layout", choices=LAYOUTS, help="names and axes; default: found out")
    compress.add_argument("--seed", type=_seed, default=0, help="of stages that draw numbers; default: 0")
    compress.set_defaults(run=_compress)

    inspect = commands.add_parser("inspect", help="what a .qtree file holds, leaf by leaf")
    inspect.add_argument("file", type=Path, metavar="FILE.qtree", help="file that compress wrote")
    inspect.add_argument(
        "--against", type=Path, metavar="IN", help="the original checkpoint, to show each leaf's error"
    )
    inspect.set_defaults(run=_inspect)

    decompress = commands.add_parser("decompress", help=".qtree file -> checkpoint, in the layout it had")
    decompress.add_argument("file", type=Path, metavar="FILE.qtree", help="file that compress wrote")
    decompress.add_argument("--out", type=Path, required=True, metavar="OUT", help=checkpoint)
    decompress.add_argument("--layout", choices=LAYOUTS, help="names and axes; default: as they were")
    decompress.set_defaults(run=_decompress)

    commands.add_parser("recipes", help="lists the recipes that have a name").set_defaults(run=_recipes)
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"a whole number from 0 to {(1 << 32) - 1:,}, not {text!r}")
    return int(text)


def _recipes(options: argparse.Namespace) -> None:
    del options
    for path in sorted(RECIPES.glob("*.yaml")):
        print(f"{path.stem:14}{path.read_text(encoding='utf-8').partition(chr(10))[0].removeprefix('# ')}")


def _compress(options: argparse.Namespace) -> None:
    import dataclasses
    import warnings

    import jax
    from pydantic import Field

    from quantree import checkpoints, storage
    from quantree.encodings import Compressed
    from quantree.model import Layout
    from quantree.recipe import Recipe
    from quantree.schema import validate
    from quantree.stage import Patterns, Stage, select

    class CheckpointRecipe(Recipe):
        layout: Layout | None = Field(default=None, description="names and axes of the checkpoint; null: found out")
        state: Patterns | None = Field(default=None, description="the checkpoint's own names of what is not trained")

    _check_out(options.checkpoint, options.out, folder=False)
    document = _document(options)
    recipe = validate(CheckpointRecipe, document)
    if not recipe.stages:
        raise document.error(("stages",), "needs at least one stage")
    for index, stage in enumerate(recipe.stages):
        if any(inner.trains or inner.chooses for inner in stage.expand()):
            error = document.error(("stages", index), f"stage {stage.name!r} needs data, and a checkpoint has none")
            raise DataError(str(error))
    found = checkpoints.read(options.checkpoint, options.layout or recipe.layout, recipe.state)
    model = dataclasses.replace(found.model, layout=found.layout)
    original = Compressed.from_model(model)
    if not _is_file(options.recipe) and options.recipe != "half":
        try:
            select(None, original.leaves)
        except ConfigError:
            reason = "holds no float array with two or more axes to quantize; `--recipe half` takes any"
            raise DataError(f"{options.checkpoint}: {reason}") from None
    recipe.check(model, document.at(("stages",)), ("stages",))

    takers: dict[str, list[str]] = {}

    def note(index: int, stage: Stage, before: Compressed, after: Compressed, seconds: float) -> None:
        del index, seconds
        for path in after.leaves:
            pairs = zip(_arrays(before, path), _arrays(after, path), strict=False)
            if len(_arrays(before, path)) != len(_arrays(after, path)) or any(old is not new for old, new in pairs):
                takers.setdefault(path, []).append(stage.name)

    # What there is to tell is shown once the file is safe: whoever reads it may go away.
    with contextlib.redirect_stdout(io.StringIO()) as told:
        _tell(options.checkpoint, found, original)
        compressed = recipe.run(model, key=jax.random.key(options.seed), on_stage=note)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the ratio below says the same in one line
        ledger = storage.save(options.out, compressed)
    print(told.getvalue(), end="")
    _print(_leaf_table(options.out, _snr(original, compressed), takers))
    larger = "; LARGER than the checkpoint's arrays" if ledger.ratio < 1 else ""
    print(f"{options.out}: {ledger.total:,} bytes, {ledger.ratio:.2f} times smaller{larger}")


def _document(options: argparse.Namespace) -> "Document":
    """The recipe that was asked for; a target adds a stage that plans for it, after all others."""
    from quantree.schema import Document, read_yaml

    target = {"ratio": options.target_ratio, "bytes": options.target_bytes}
    target = {key: value for key, value in target.items() if value is not None}
    if options.recipe is not None:
        document = read_yaml(_recipe_file(options.recipe))
    elif target:
        document = Document({"stages": ({"kind": "cast", "unfit": "keep"},)}, "--target")
    else:
        raise ConfigError("nothing says how: give --recipe (see `quantree recipes`), --target-ratio or --target-bytes")
    if not target or not isinstance(document.data, dict) or not isinstance(document.data.get("stages"), tuple):
        return document
    stages = (*document.data["stages"], {"kind": "budget", **target})
    return Document({**document.data, "stages": stages}, document.source, document.lines)


def _is_file(recipe: str | None) -> bool:
    return recipe is not None and (recipe.endswith((".yaml", ".yml")) or "/" in recipe)


def _recipe_file(given: str) -> Path:
    if _is_file(given):
        return Path(given)
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    if given not in names:
        raise ConfigError(f"no recipe is called {given!r}; {nearest(given, names)}. A file's name ends in .yaml")
    return RECIPES / f"{given}.yaml"


def _inspect(options: argparse.Namespace) -> None:
    from quantree import checkpoints, storage
    from quantree.encodings import Compressed

    ledger = storage.inspect(options.file)
    errors = None
    if options.against is not None:
        compressed = storage.load(options.file)
        found = checkpoints.read(options.against, compressed.layout)
        errors = _snr(Compressed.from_model(found.model), compressed)
    _print(_leaf_table(options.file, errors))
    rest = sum(entry.bytes for entry in ledger.entries if entry.section in ("header", "table", "checksum"))
    print(f"{options.file}: {ledger.total:,} bytes, of which {rest:,} are header, coding tables and checksum;")
    print(f"{ledger.ratio:.2f} times smaller than {ledger.dense_bytes:,}, {ledger.bits_per_weight:.3f} bits per weight")


def _decompress(options: argparse.Namespace) -> None:
    from quantree import checkpoints, storage
    from quantree.model import unflatten

    _check_out(options.file, options.out, folder=True)
    compressed = storage.load(options.file)
    layout = options.layout or compressed.layout or "flax"
    checkpoints.write(options.out, compressed.decode(), unflatten(compressed.state), layout)
    arrays = len(compressed.leaves) + len(compressed.state)
    print(f"{options.out}: {arrays} arrays, layout {layout}")


def _check_out(given: Path, out: Path, folder: bool) -> None:
    """`QuantreeError`, before any work, if `out` can't be written; folder: it may be one."""
    if not out.parent.is_dir():
        raise QuantreeError(f"{out}: there is no folder {out.parent}")
    if out.is_dir() and not folder:
        raise QuantreeError(f"{out}: is a folder; name a file")
    if given.exists() and out.exists() and given.samefile(out):
        raise QuantreeError(f"{out}: would be written over what is read; choose another name")


def _tell(path: Path, found: "Checkpoint", original: "Compressed") -> None:
    leaves, state = len(original.leaves), len(original.state)
    print(f"{path}: {leaves} leaves and {state} state arrays, {original.dense_bytes:,} bytes, layout {found.layout}")
    if found.left_out:
        print(f"left out, because PyTorch starts them at 0: {', '.join(found.left_out)}")


def _arrays(compressed: "Compressed", path: str) -> list[Any]:
    """Every array that the leaf decodes from."""
    import jax

    leaf = compressed.leaves[path]
    return jax.tree.leaves((leaf, [compressed.codebooks[name] for name in leaf.uses()]))


def _snr(original: "Compressed", compressed: "Compressed") -> dict[str, float]:
    """Path -> signal to noise in dB, infinite where nothing was lost. `QuantreeError` if the leaves differ."""
    import numpy as np

    names, others = original.leaves.keys(), compressed.leaves.keys()
    if names != others or any(original.leaves[path].shape != compressed.leaves[path].shape for path in names):
        wrong = sorted(names ^ others) or [p for p in names if original.leaves[p].shape != compressed.leaves[p].shape]
        raise QuantreeError(f"{wrong[0]}: not the same in the file and in the checkpoint")
    found = {}
    for path, leaf in original.leaves.items():
        before = np.asarray(leaf.decode({})).astype(np.float64)
        after = np.asarray(compressed.leaves[path].decode(compressed.codebooks)).astype(np.float64)
        signal, noise = float(np.sum(before**2)), float(np.sum((before - after) ** 2))
        exact = noise == 0 or np.array_equal(before, after, equal_nan=True)
        found[path] = np.inf if exact else 10 * float(np.log10(signal / noise)) if signal else -np.inf
    return found


def _leaf_table(path: Path, errors: dict[str, float] | None, takers: dict[str, list[str]] | None = None) -> "Table":
    """One row for each item of the file; coding tables count where they are stored."""
    import math

    from rich.table import Table
    from rich.text import Text

    from quantree.storage.layout import read

    layout, _ = read(path.read_bytes())
    # The header may say anything, and nothing here has been decoded.
    books = [item for item in layout.items if item.section == "codebook" and len(item.shape) == 3]
    sizes: dict[Any, int] = {item.path: item.shape[1] for item in books}
    middle = ("encoding", "coder", "k") if takers is None else ("taken by",)
    table = Table("", "path", "shape", *middle)
    for name in ("bytes", "bits per element", *(() if errors is None else ("SNR dB",))):
        table.add_column(name, justify="right")
    for item in layout.items:
        codebook = item.meta[0] if item.kind == "coded" and item.meta else None
        k = sizes.get(item.path if item.section == "codebook" else codebook)
        coders = ", ".join(dict.fromkeys(run.coder for run in item.runs if run.coder))
        words = [item.section, item.path, " x ".join(map(str, item.shape))]
        if takers is None:
            words += [item.kind, coders, "" if k is None else str(k)]
        else:
            words.append(" + ".join(takers.get(item.path, ["nothing"])) if item.section == "leaf" else "")
        size, elements = sum(run.size for run in item.runs), math.prod(item.shape)
        numbers = [f"{size:,}", f"{8 * size / elements:.3f}" if elements else ""]
        if errors is not None:
            error = errors.get(item.path) if item.section == "leaf" else None
            numbers.append("" if error is None else "exact" if error == math.inf else f"{error:.1f}")
        table.add_row(*map(Text, words), *numbers)
    return table


def _print(table: "Table") -> None:
    from rich.console import Console

    console = Console()
    # Where nobody looks at a terminal, nothing is cut off.
    Console(width=max(console.width, 200) if not console.is_terminal else None).print(table)


if __name__ == "__main__":
    sys.exit(main())
