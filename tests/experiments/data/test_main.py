import os
import subprocess
import sys

from experiments.data.__main__ import main

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_list_tells_what_is_prepared_where(digits_dir, capsys):
    assert main(["list", "--data-dir", str(digits_dir)]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"in {digits_dir}:"
    shown = {line.split()[0]: line for line in lines}
    assert "prepared (array_record)" in shown["digits"]
    assert "not prepared" in shown["mnist"] and "3.0.1" in shown["mnist"] and "60000 train" in shown["mnist"]
    assert "fashion_mnist" in shown


def test_a_reader_that_has_seen_enough_ends_the_list_in_silence():
    command = [sys.executable, "-m", "experiments.data", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as listing:
        assert listing.stdout is not None and listing.stderr is not None
        listing.stdout.close()  # before anything is written
        assert listing.stderr.read() == b""
    assert listing.returncode == 0


def test_prepare_works_from_the_raw_files_and_only_once(small_mnist, small_raw, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert main(["prepare", "mnist", "--from", str(small_raw)]) == 0
    assert capsys.readouterr().out == f"mnist 3.0.1: 300 train, 100 test, in {tmp_path / 'mnist' / '3.0.1'}\n"
    assert main(["prepare", "mnist", "--from", str(small_raw)]) == 0
    assert "prepared already; to prepare it anew, delete" in capsys.readouterr().out


def test_errors_are_one_message_and_an_exit_status(tmp_path, capsys):
    for arguments, message in (
        (["prepare", "mnits"], "error: no dataset is called 'mnits'; did you mean 'mnist'?"),
        (["prepare", "mnist"], "error: mnist is made from raw files: add --from RAW_DIR"),
        (["prepare", "mnist", "--from", str(tmp_path)], "error: mnist: no file train-images-idx3-ubyte.gz"),
    ):
        assert main([*arguments, "--data-dir", str(tmp_path)]) == 1
        told = capsys.readouterr()
        assert told.err.startswith(message) and told.out == ""
