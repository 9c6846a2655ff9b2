"""Environment variables, devices, terminals, and ways to start a program."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY
from make_checkpoint import write_checkpoint
from make_data import make_camvid, make_folder
from PIL import Image

import reco
from reco import cli, distributed, openmp
from reco.config import load_config
from reco.data import open_dataset
from reco.data.datasets import synthetic
from reco.data.loading import EvalDataset, TrainStream
from reco.inference.evaluate_checkpoints import evaluate_checkpoints
from reco.pictures import report
from reco.training.trainer import train


def test_ranks_without_a_rendezvous_stop_neither_predict_nor_eval(tmp_path, monkeypatch):
    """Schedulers set such variables for every program."""
    checkpoint = write_checkpoint(tmp_path / "last.pt")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setattr(synthetic, "SCENES", {"train": 1, "val": 2, "test": 1})
    reco.load(checkpoint, device="cpu")
    assert "mIoU" in evaluate_checkpoints([checkpoint], device="cpu")
    assert not torch.distributed.is_initialized()
    with pytest.raises(ValueError, match=r"RANK and WORLD_SIZE are set, but .*MASTER_ADDR"):
        distributed.set_up("cpu")


def test_training_leaves_the_group_that_a_program_had_joined(tiny, tmp_path):
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        train(tiny("train.iterations=1"), tmp_path / "run")
        assert torch.distributed.is_initialized()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/below"])
def test_an_output_that_cannot_be_made_is_named_with_the_option(tmp_path, capsys, place):
    """At once: reco predict labelled every image first, and failed to write each."""
    (tmp_path / "file").write_text("in the way")
    if place.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no /proc")
    output, checkpoint = tmp_path / place, write_checkpoint(tmp_path / "last.pt")
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    settings = ["--set", f"output_dir={output}", *TINY]
    for words, option in (
        (["train", "--config", "demo.yaml", *settings], "output_dir"),
        (["eval", "--checkpoint", checkpoint, "--output", output], "--output"),
        (["predict", "--checkpoint", checkpoint, tmp_path / "a.png", "--output", output], "--outp"),
    ):
        assert cli.main([*map(str, words)]) == 1
        last = capsys.readouterr().err.splitlines()[-1]
        expected = rf"error: {output}\S*: cannot be written: [A-Z][a-z ]+; choose another {option}"
        assert re.match(expected, last), last


@pytest.mark.parametrize("device", ["gpu", "mps", "xpu", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line(tmp_path, device):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("it is there")
    with pytest.raises(ValueError, match=f"^device = '{device}': [^\n]*$"):
        reco.load(write_checkpoint(tmp_path / "last.pt"), device=device)


def test_a_figure_is_saved_whatever_mplbackend_says(tmp_path):
    """matplotlib refuses to be imported where it does not know the backend."""
    pytest.importorskip("matplotlib")
    program = (
        "import os; from reco.pictures import plots; plots.new_figure(1, 1).savefig('a.png');"
        "assert os.environ['MPLBACKEND'] == 'nothing'; plots.new_figure(1, 1)"
    )
    environment = {**os.environ, "MPLBACKEND": "nothing", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize("make", [make_camvid, make_folder])
def test_what_loaders_send_to_spawned_processes_can_be_pickled(tmp_path, make):
    root = make(tmp_path / "data")
    name, classes = (
        ("camvid_5shot.yaml", ())
        if make is make_camvid
        else ("folder.yaml", ["dataset.class_names=[a, b, c]"])
    )
    config = load_config(name, [*TINY, f"dataset.root={root}", *classes]).dataset
    reader = open_dataset(config)
    ids = reader.ids("train")
    stream = TrainStream(reader, ids, config, stream="labelled", seed=0)
    for dataset in (stream, EvalDataset(reader, ids, config.image_size)):
        again = pickle.loads(pickle.dumps(dataset))
        assert all(torch.equal(a, b) for a, b in zip(dataset[1][:2], again[1][:2], strict=True))


def in_spawned(folder: Path) -> None:
    synthetic.SCENES = {"train": 12, "val": 2, "test": 2}
    supervised = ["method.unsupervised=false", "reco.enabled=false"]  # each loader is a process
    overrides = [*TINY, *supervised, "train.iterations=1", "train.workers=1"]
    train(load_config("demo.yaml", overrides), folder)


@pytest.mark.slow
def test_training_in_a_spawned_process(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=in_spawned, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert (tmp_path / "last.pt").is_file()


def test_training_without_standard_streams(tiny, tmp_path, monkeypatch):
    """As under pythonw, or in a service that closed them."""
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    assert train(tiny("train.iterations=1"), tmp_path / "run").finished
    assert sys.stderr is None


def test_a_daemonic_process_hears_that_it_may_have_no_loaders(tiny, tmp_path, monkeypatch):
    """Those of a multiprocessing pool are."""
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    with pytest.raises(ChildProcessError, match=r"daemonic.*train\.workers=0"):
        train(tiny("train.workers=1"), tmp_path / "run")


def test_a_pipe_that_nobody_reads_ends_a_command_in_silence():
    """As `reco … | head` does."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "reco.cli", "train", "--config", "demo.yaml", "--show"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BrokenPipeError(32, "Broken pipe"), 1, "error: [Errno 32] Broken pipe"),
        (MemoryError(), 1, "error: out of memory"),
        (RuntimeError("CUDA out of memory. Tried\nmore"), 1, "error: out of memory: CUDA out of"),
        (RuntimeError("[enforce fail] can't allocate memory"), 1, "error: out of memory: [enforce"),
        (ChildProcessError("a process has died"), 1, "error: a process has died"),
        (KeyboardInterrupt(), 130, "error: stopped by Ctrl-C"),
    ],
)
def test_what_ends_a_command_is_one_line(monkeypatch, capsys, error, code, line):
    def write_report(*_: object, **__: object) -> Path:
        raise error

    monkeypatch.setattr(report, "write_report", write_report)
    assert cli.main(["report", "run"]) == code
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.startswith(line)


def test_a_mistake_in_the_code_keeps_its_traceback(monkeypatch):
    def write_report(*_: object, **__: object) -> Path:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(report, "write_report", write_report)
    with pytest.raises(RuntimeError, match="mat1"):
        cli.main(["report", "run"])


@pytest.mark.parametrize(
    ("given", "share", "expected"),
    [
        ({}, 0.05, {}),
        ({}, 0.5, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, 0.5, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "9"}, 0.5, {"GOMP_SPINCOUNT": "9"}),
        ({"KMP_BLOCKTIME": "9"}, 0.5, {"KMP_BLOCKTIME": "9"}),
    ],
)
def test_threads_sleep_while_they_wait_on_a_busy_machine(given, share, expected, monkeypatch):
    environment = dict(given)
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(openmp, "busy_share", lambda: share)
    openmp.let_threads_sleep_if_busy()
    assert environment == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("100 0 50 800 50 0 0 0 7 0", "100 0 50 900 50 0 0 0 7 0", 0.0),
        ("100 0 50 800 50 0 0 0 7 0", "160 5 55 820 60 0 0 0 7 0", 0.7),  # of 100 ticks, 30 idle
    ],
)
def test_share_of_the_processors_time_that_is_used(before, after, expected, tmp_path, monkeypatch):
    statistics = tmp_path / "stat"
    statistics.write_text(f"cpu  {before}\ncpu0 1 2 3 4\n")
    monkeypatch.setattr(openmp, "_STATISTICS", statistics)
    monkeypatch.setattr(
        openmp.time, "sleep", lambda _: statistics.write_text(f"cpu  {after}\ncpu0 1 2 3 4\n")
    )
    assert openmp.busy_share() == pytest.approx(expected)
    monkeypatch.setattr(openmp, "_STATISTICS", tmp_path / "none")
    assert openmp.busy_share() == 0


def test_the_command_decides_how_threads_wait_before_torch_is_there():
    """OpenMP reads its variables when torch brings it in, and never again."""
    check = "import sys, reco.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
