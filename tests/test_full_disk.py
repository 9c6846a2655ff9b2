"""A disk that is full or read-only: a real one, a few megabytes of memory that a test mounts."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from make_checkpoint import write_checkpoint
from PIL import Image
from test_trainer import assert_same

from reco.cli import main
from reco.data.datasets import synthetic
from reco.inference import export
from reco.inference.evaluate_checkpoints import evaluate_checkpoints
from reco.inference.predict_files import predict_files
from reco.inference.predictor import load
from reco.runs.checkpoint import CheckpointError, load_checkpoint
from reco.runs.folder import RunFolder
from reco.training.build import build_run
from reco.training.trainer import Trainer, train
from reco.writing import WriteError, write_binary_whole, write_table, write_text_whole, write_whole

SIZE = 2**22


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A file system of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small file system takes root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, *, leaving: int) -> Path:
    """Fill the disk but for ``leaving`` bytes; the file that does it."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    filling = disk / "filling"
    filling.write_bytes(bytes(max(0, free - leaving)))
    return filling


def set_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def save_figure(path: Path) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure((8, 8))
    figure.subplots().imshow(np.random.default_rng(0).random((300, 300)))
    write_whole(path, figure.savefig)


NOISE = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
WRITERS = {
    "text.html": lambda path: write_text_whole(path, "x" * 100_000),
    "table.csv": lambda path: write_table(path, ["number"], [[i] for i in range(30_000)]),
    "image.png": lambda path: write_whole(path, Image.fromarray(NOISE).save),
    "figure.png": save_figure,
    "weights.pt": lambda path: write_binary_whole(
        path, lambda file: torch.save([torch.ones(30_000), torch.ones(1)], file)
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_named_and_the_old_file_stands(disk, name):
    path = disk / "folder" / name
    WRITERS[name](path)
    whole = path.read_bytes()
    filling = fill(disk, leaving=50_000)
    with pytest.raises(WriteError) as caught:
        WRITERS[name](path)
    assert str(caught.value) == f"{path}: cannot be written: No space left on device"
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == whole
    assert os.listdir(path.parent) == [name]
    filling.unlink()
    WRITERS[name](path)
    set_read_only(disk)
    with pytest.raises(WriteError) as caught:
        WRITERS[name](path)
    assert str(caught.value) == f"{path}: cannot be written: Read-only file system"


def test_metrics_and_a_new_run_name_the_file(disk):
    folder = RunFolder(disk)
    filling = fill(disk, leaving=0)
    with pytest.raises(WriteError, match=r"metrics\.jsonl: cannot be written: No space left"):
        folder.log({"iteration": 1})
    filling.unlink()
    folder.log({"iteration": 1})


def test_an_export_names_the_file(disk, tmp_path):
    """Of a .pt2 that could not be written torch used to end the whole process."""
    fill(disk, leaving=10_000)
    program = torch.export.export(torch.nn.Linear(99, 99), (torch.zeros(1, 99),))
    with pytest.raises(WriteError, match=r"a\.pt2: cannot be written: No space left on device"):
        export._write_pt2(program, disk / "exported" / "a.pt2", {})
    checkpoint = write_checkpoint(tmp_path / "last.pt")
    with pytest.raises(WriteError, match=r"last-state\.pt: cannot be written: No space left"):
        export.export_checkpoint(checkpoint, disk / "exported", formats=["state_dict"])
    assert not os.listdir(disk / "exported")


def test_a_run_on_a_full_disk_keeps_its_last_checkpoint(disk, tiny, tmp_path):
    """The disk fills up in the step before a checkpoint; emptied, the run ends as undisturbed."""
    subprocess.run(["mount", "-o", "remount,size=128m", str(disk)], check=True)
    config, folder = tiny("train.checkpoint_every=1"), disk / "run"
    trainer = Trainer(build_run(config), folder)
    step, filling = trainer.train_step, disk / "filling"

    def step_and_fill(*batch):
        if trainer.iteration == 2:
            fill(disk, leaving=2**20)
        return step(*batch)

    trainer.train_step = step_and_fill
    with pytest.raises(WriteError, match=r"new\.pt: cannot be written: No space left on device"):
        trainer.run()
    assert load_checkpoint(folder / "last.pt")["iteration"] == 2
    filling.unlink()
    set_read_only(disk)
    with pytest.raises(OSError, match="Read-only file system"):
        train(config, folder, resume=True)
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert train(config, folder, resume=True).finished
    train(config, tmp_path / "whole")
    for name in ("last", "best"):
        assert_same(*(load_checkpoint(run / f"{name}.pt") for run in (tmp_path / "whole", folder)))


@pytest.mark.slow
def test_the_command_says_in_one_line_that_the_disk_is_full(disk):
    fill(disk, leaving=100_000)
    command = [sys.executable, "-m", "reco.cli", "train", "--config", "demo.yaml", "--set", *TINY]
    run = subprocess.run([*command, f"output_dir={disk}"], capture_output=True, text=True)
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith(f"error: {disk}")
    assert last.endswith(".pt: cannot be written: No space left on device")


def test_predict_stops_at_a_full_disk(disk, tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    predictor = load(write_checkpoint(tmp_path / "last.pt"), device="cpu")
    fill(disk, leaving=0)
    with pytest.raises(WriteError, match=r"a\.png: cannot be written: No space left on device"):
        predict_files(predictor, [tmp_path / "a.png"], disk / "out")


def test_a_device_is_not_replaced():
    write_text_whole(Path(os.devnull), "text")
    assert not Path(os.devnull).is_file()


def test_a_file_whose_name_is_as_long_as_may_be(tmp_path):
    name = "ü" * 124 + ".csv"  # 252 bytes
    write_table(tmp_path / name, ["number"], [[1]])
    assert os.listdir(tmp_path) == [name]


def test_eval_prints_its_table_where_it_cannot_write(disk, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(synthetic, "SCENES", {"train": 1, "val": 2, "test": 1})
    monkeypatch.setattr(warnings, "formatwarning", lambda message, *_: f"warning: {message}\n")
    subprocess.run(["mount", "-o", "remount,size=128m", str(disk)], check=True)
    (disk / "run").mkdir()
    checkpoint = write_checkpoint(disk / "run" / "last.pt")
    set_read_only(disk)
    words = ["eval", "--checkpoint", str(checkpoint), "--device", "cpu"]
    with pytest.warns(UserWarning, match=r"last-val\.json: cannot be written: .*--output FOLDER"):
        assert main(words) == 0
    table = capsys.readouterr().out
    assert "mIoU" in table
    assert "written" not in table
    output = tmp_path / "figures"
    assert main([*words, "--output", str(output)]) == 0
    files = [str(output / f"run-last-val.{ending}") for ending in ("json", "csv")]
    assert capsys.readouterr().out == f"{table}written: {', '.join(files)}\n"
    assert sorted(os.listdir(output)) == ["run-last-val.csv", "run-last-val.json"]
    assert main([*words, "--output", str(disk / "figures")]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("Read-only file system; choose another --output")


def test_eval_opens_all_checkpoints_before_it_evaluates_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "SCENES", {"train": 1, "val": 2, "test": 1})
    good = write_checkpoint(tmp_path / "a" / "last.pt")
    again = write_checkpoint(tmp_path / "b" / "a" / "last.pt")
    broken = tmp_path / "broken.pt"
    broken.write_bytes(good.read_bytes()[:1000])
    supervised = write_checkpoint(
        tmp_path / "c" / "last.pt", "method.unsupervised=false", "reco.enabled=false"
    )

    def never(*_: object, **__: object) -> None:
        raise AssertionError("evaluated")

    monkeypatch.setattr("reco.inference.evaluate_checkpoints.evaluate", never)
    with pytest.raises(CheckpointError, match=r"broken\.pt: not a readable checkpoint"):
        evaluate_checkpoints([good, broken], device="cpu")
    with pytest.raises(CheckpointError, match="network = 'teacher': this run has the student"):
        evaluate_checkpoints([good, supervised], which="teacher", device="cpu")
    with pytest.raises(ValueError, match=r"in .* would both be a-last"):
        evaluate_checkpoints([good, again], output=tmp_path / "out", device="cpu")
