import re
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quantree import checkpoints, cli, storage
from quantree.checkpoints import LAYOUTS
from quantree.model import flatten
from tests.storage.test_hostile import forged

PROGRESS = re.compile(r"budget: \d+/\d+, .* \(\d+ s\)")  # what a long job tells, where the machine is slow
RECIPES = sorted(path.stem for path in cli.RECIPES.glob("*.yaml"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a small checkpoint of PyTorch's, `in.safetensors`."""
    rng = np.random.default_rng(0)
    arrays = {
        "conv.weight": rng.normal(size=(8, 4, 3, 3)).astype(np.float32),
        "bn.weight": np.ones(8, np.float32),
        "bn.running_var": rng.random(8).astype(np.float32),
        "head.weight": rng.normal(size=(10, 80)).astype(ml_dtypes.bfloat16),
    }
    save_file({**arrays, "bn.num_batches_tracked": np.asarray(7)}, tmp_path / "in.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> int:
    return cli.main(words)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_takes_a_checkpoint_there_and_back(
    folder: Path, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("compress", "in.safetensors", "--recipe", recipe, "--out", "net.qtree") == 0
    told = capsys.readouterr().out
    assert "layout torch" in told and "left out" in told and "bn.num_batches_tracked" in told
    assert run("inspect", "net.qtree", "--against", "in.safetensors") == 0
    assert run("decompress", "net.qtree", "--out", "out.safetensors") == 0
    before, after = load_file("in.safetensors"), load_file("out.safetensors")
    assert after.keys() == before.keys() - {"bn.num_batches_tracked"}
    for name, array in after.items():
        assert (array.shape, array.dtype) == (before[name].shape, before[name].dtype)
    np.testing.assert_array_equal(after["bn.running_var"], before["bn.running_var"])
    wrong = after["conv.weight"] - before["conv.weight"]
    assert 0 < np.square(wrong).mean() < (0.2 if recipe in ("prune_kmeans", "kmeans4") else 0.02)


def test_tables_tell_who_took_a_leaf_and_what_it_lost(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rows() -> dict[str, list[str]]:
        cells = [[cell.strip() for cell in row.split("│")[1:-1]] for row in capsys.readouterr().out.splitlines()]
        return {row[1]: row for row in cells if row and row[0] == "leaf"}

    Path("r.yaml").write_text("state: ['*running_var']\nstages:\n  - {kind: kmeans, k: 4, match: conv/*}\n")
    assert run("compress", "in.safetensors", "--recipe", "r.yaml", "--out", "net.qtree") == 0
    told = rows()
    assert told["conv/kernel"][3] == "quantize" and told["head/kernel"][3] == "nothing"
    assert run("inspect", "net.qtree", "--against", "in.safetensors") == 0
    seen = rows()
    assert seen["conv/kernel"][3::2][:2] == ["coded", "4"] and seen["head/kernel"][3] == "raw"
    weights = load_file("in.safetensors")["conv.weight"].astype(np.float64)
    kernel = np.asarray(storage.load("net.qtree").decode()["conv"]["kernel"])
    noise = np.square(weights - kernel.transpose(3, 2, 0, 1)).sum()
    expected = 10 * np.log10(np.square(weights).sum() / noise)
    for table in (told, seen):
        assert float(table["conv/kernel"][-1]) == pytest.approx(expected, abs=0.051)
        assert table["head/kernel"][-1] == "exact"


def test_a_folder_of_orbax_goes_the_same_way(folder: Path) -> None:
    assert run("compress", "in.safetensors", "--recipe", "half", "--out", "a.qtree") == 0
    assert run("decompress", "a.qtree", "--out", "orbax") == 0
    assert run("compress", "orbax", "--recipe", "half", "--layout", "torch", "--out", "b.qtree") == 0
    assert Path("a.qtree").read_bytes() == Path("b.qtree").read_bytes()


@pytest.mark.parametrize("given", ["linen", "linen.safetensors"])
def test_variables_of_linen_are_folded_and_come_back_as_they_were(folder: Path, given: str) -> None:
    rng = np.random.default_rng(0)
    params = {"bn": {name: rng.random(8, np.float32) for name in ("scale", "bias")}, "k": np.ones((9, 8), np.float32)}
    tree = {"params": params, "batch_stats": {"bn": {name: rng.random(8, np.float32) for name in ("mean", "var")}}}
    checkpoints.write(folder / given, tree, {}, "flax")
    Path("fold.yaml").write_text("stages:\n  - fold_statistics\n")
    assert run("compress", given, "--recipe", "fold.yaml", "--out", "net.qtree") == 0
    variables = storage.load("net.qtree").to_linen()
    assert variables.keys() == tree.keys() and not variables["batch_stats"]["bn"]["mean"].any()
    assert run("decompress", "net.qtree", "--out", f"out-{given}") == 0
    again = checkpoints.read(folder / f"out-{given}", "flax").model
    before, after = flatten(tree), flatten(again.params) | flatten(again.state)
    assert {name: leaf.shape for name, leaf in after.items()} == {name: leaf.shape for name, leaf in before.items()}
    np.testing.assert_array_equal(after["params/k"], params["k"])


def test_same_seed_same_bytes(folder: Path) -> None:
    for name in ("a", "b"):
        assert run("compress", "in.safetensors", "--recipe", "kmeans4", "--seed", "3", "--out", f"{name}.qtree") == 0
    assert Path("a.qtree").read_bytes() == Path("b.qtree").read_bytes()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("compress gone.safetensors --recipe half --out x.qtree", "gone.safetensors: can't be read: No such file"),
        ("compress in.safetensors --recipe halff --out x.qtree", "did you mean 'half'"),
        ("compress in.safetensors --recipe gone.yaml --out x.qtree", "gone.yaml: can't read the config"),
        ("compress in.safetensors --recipe bad.yaml --out x.qtree", "bad.yaml:2: stages[0].kind: no stage is called"),
        ("compress in.safetensors --recipe match.yaml --out x.qtree", "match.yaml:2: stages[0].match"),
        ("compress in.safetensors --recipe empty.yaml --out x.qtree", "empty.yaml:1: stages: needs at least one stage"),
        ("compress gone.safetensors --recipe train.yaml --out x.qtree", "train.yaml:2: stages[0]: stage 'finetune' ne"),
        ("compress in.safetensors --recipe half --out no/x.qtree", "no/x.qtree: there is no folder no"),
        ("compress gone.safetensors --recipe half --out .", "is a folder; name a file"),
        ("decompress gone.qtree --out no/x.safetensors", "there is no folder no"),
        (
            "compress flat.safetensors --recipe kmeans16 --out x.qtree",
            "flat.safetensors: holds no float array with two",
        ),
        ("compress flat.safetensors --target-ratio 2 --out x.qtree", "`--recipe half` takes any"),
        ("compress in.safetensors --recipe kmeans16 --target-ratio 8 --out x.qtree", "either says how finely to quant"),
        ("compress in.safetensors --out x.qtree", "nothing says how: give --recipe"),
        ("compress in.safetensors --target-ratio 500 --out x.qtree", "can't be reached: the smallest file has"),
        ("compress in.safetensors --target-ratio -1 --out x.qtree", "ratio: input should be greater than 0"),
        ("inspect in.safetensors", "not a .qtree file"),
        ("compress in.safetensors --recipe half --out ./in.safetensors", "would be written over what is read"),
        ("compress clash.safetensors --recipe half --out x.qtree", "clash.safetensors: e and e/kernel: one lies"),
        ("decompress in.safetensors --out out.safetensors", "not a .qtree file"),
    ],
)
def test_errors_are_one_line(folder: Path, command: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yaml").write_text("stages:\n  - {kind: kmeens, k: 4}\n")
    Path("match.yaml").write_text("stages:\n  - {kind: kmeans, k: 4, match: [cnv/*]}\n")
    Path("empty.yaml").write_text("stages: []\n")
    Path("train.yaml").write_text("stages:\n  - {kind: finetune, epochs: 1}\n")
    save_file({"b.weight": np.ones(5, np.float32)}, "flat.safetensors")
    save_file({"e.weight": np.ones((8, 8), np.float32), "e": np.ones(4, np.float16)}, "clash.safetensors")
    before = {path.name for path in folder.iterdir()}
    assert run(*command.split()) == 1
    *before_it, told = capsys.readouterr().err.splitlines()
    assert told.startswith("error: ") and reason in told
    assert not [line for line in before_it if not PROGRESS.fullmatch(line)]
    assert {path.name for path in folder.iterdir()} == before


def test_a_folder_of_other_things_is_never_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compress", "in.safetensors", "--recipe", "half", "--out", "net.qtree") == 0
    for name in ("letters", "letters.safetensors"):
        (folder / name).mkdir()
        (folder / name / "dear.txt").write_text("kept")
        assert run("decompress", "net.qtree", "--out", name) == 1
        assert "no checkpoint; it is left as it is" in capsys.readouterr().err
        assert [path.name for path in (folder / name).iterdir()] == ["dear.txt"]


def test_another_checkpoint_is_not_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compress", "in.safetensors", "--recipe", "half", "--out", "net.qtree") == 0
    save_file({"conv.weight": np.ones((8, 4, 3, 3), np.float32)}, "other.safetensors")
    assert run("inspect", "net.qtree", "--against", "other.safetensors") == 1
    assert "not the same in the file and in the checkpoint" in capsys.readouterr().err


def test_a_header_that_lies_is_shown_all_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = ["b", "table", [], "float32", [], "centroids"]
    rows = [["w", "coded", [0], "float32", [["b"]]], ["v", "coded", [0], "float32", ["b", 1]]]
    Path("net.qtree").write_bytes(forged([None, sorted(rows), [book], []], bytes(4)))
    assert run("inspect", "net.qtree") == 0
    assert "codebook" in capsys.readouterr().out


def test_wrong_usage_exits_with_two() -> None:
    with pytest.raises(SystemExit) as stopped:
        run("compress")
    assert stopped.value.code == 2
    with pytest.raises(SystemExit) as stopped:
        run("compress", "in.safetensors", "--recipe", "half", "--out", "x.qtree", "--seed", str(1 << 70))
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("layout", "step"),
    [("torch", 240), *(pytest.param(layout, 60, marks=pytest.mark.slow) for layout in ("torch", "keras", "flax"))],
)
def test_a_size_is_the_most_even_of_a_very_small_file(folder: Path, layout: str, step: int) -> None:
    rng = np.random.default_rng(0)
    shapes = {"fc1.kernel": (64, 32), "fc1.bias": (32,), "fc2.kernel": (32, 10), "fc2.bias": (10,)}
    save_file({name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}, "small.safetensors")
    for size in range(500, 1000, step):
        assert run("compress", "small.safetensors", "--target-bytes", str(size), "--layout", layout, "--out", "s") == 0
        assert Path("s").stat().st_size <= size


def test_values_that_sixteen_bits_cannot_hold_are_no_obstacle(folder: Path) -> None:
    rng = np.random.default_rng(0)
    scales = {"tiny.weight": 1e-8, "fine.weight": 1.0, "huge.weight": 1e6}
    arrays = {name: (scale * rng.normal(size=(64, 32))).astype(np.float32) for name, scale in scales.items()}
    save_file({**arrays, "empty.weight": np.zeros((0, 4), np.float32)}, "wide.safetensors")
    for how in (("--target-ratio", "2.5"), ("--recipe", "kmeans16")):
        assert run("compress", "wide.safetensors", *how, "--out", "w.qtree") == 0
        assert run("decompress", "w.qtree", "--out", "w.safetensors") == 0
        back = load_file("w.safetensors")
        for name, array in arrays.items():
            assert np.square(back[name] - array).sum() < 0.02 * np.square(array).sum()
        assert back["empty.weight"].shape == (0, 4)


def test_the_file_is_written_though_nobody_reads_the_table(folder: Path) -> None:
    words = [sys.executable, cli.__file__, "compress", "in.safetensors", "--target-ratio", "4", "--out", "n.qtree"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None and program.stderr is not None
        program.stdout.close()
        told = program.stderr.read().decode()
    assert program.returncode == 0 and "error" not in told and "Traceback" not in told
    assert storage.load("n.qtree").layout == "torch"


def test_64_bits_come_back_if_the_environment_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = {"a.weight": np.ones((4, 8), np.float32), "a.position_ids": np.arange(8), "a.scales": np.full(4, 0.1)}
    save_file(arrays, "wide.safetensors")
    compress = ("compress", "wide.safetensors", "--recipe", "wide.yaml", "--out", "wide.qtree")
    Path("wide.yaml").write_text("stages:\n  - {kind: cast, match: '*kernel*'}\n")
    assert run(*compress) == 1
    assert "a/position_ids: JAX holds int64" in (told := capsys.readouterr().err) and "JAX_ENABLE_X64=1" in told
    with jax.enable_x64(True):  # what the variable does when the program starts
        assert run(*compress) == 0
    assert run("decompress", "wide.qtree", "--out", "again.safetensors") == 1
    assert "JAX_ENABLE_X64=1" in capsys.readouterr().err
    with jax.enable_x64(True):
        assert run("decompress", "wide.qtree", "--out", "again.safetensors") == 0
    again = load_file("again.safetensors")
    assert {name: array.dtype for name, array in again.items()} == {name: each.dtype for name, each in arrays.items()}
    assert all(np.array_equal(again[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize("target", [("--target-ratio", "5"), ("--target-bytes", "1100")])
def test_a_target_is_kept_and_comes_after_the_recipe(folder: Path, target: tuple[str, str]) -> None:
    dense = sum(array.nbytes for name, array in load_file("in.safetensors").items() if "tracked" not in name)
    limit = int(target[1]) if target[0] == "--target-bytes" else dense // int(target[1])
    for recipe in ((), ("--recipe", "half")):
        assert run("compress", "in.safetensors", *recipe, *target, "--out", "net.qtree") == 0
        assert 0.9 * limit < Path("net.qtree").stat().st_size <= limit


def test_recipes_are_listed_with_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recipes") == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == RECIPES and all(len(row.split()) > 5 for row in rows)


def test_layouts_are_those_of_checkpoints() -> None:
    assert cli.LAYOUTS == LAYOUTS


def test_as_a_program() -> None:
    done = subprocess.run([sys.executable, cli.__file__, "recipes"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "kmeans16" in done.stdout


def test_a_published_checkpoint(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = shared_data / "checkpoints" / "cifar10_resnet8.safetensors"
    assert run("compress", str(file), "--recipe", "kmeans16", "--out", "net.qtree") == 0
    assert Path("net.qtree").stat().st_size * 7 < file.stat().st_size
    assert run("decompress", "net.qtree", "--out", "out.safetensors") == 0
    before, after = load_file(file), load_file("out.safetensors")
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert (array.shape, array.dtype) == (after[name].shape, after[name].dtype)
        assert np.square(array - after[name]).sum() <= 0.03 * np.square(array).sum()
