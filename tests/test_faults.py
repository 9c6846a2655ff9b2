"""Faults of a run: it or its loaders are killed, images are broken, memory runs out."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY
from make_data import make_camvid
from test_trainer import assert_same

from reco import cli
from reco.config import Config, load_config
from reco.data import open_dataset
from reco.data.datasets import synthetic
from reco.data.loading import TrainStream
from reco.data.splits import make_split
from reco.runs.checkpoint import load_checkpoint
from reco.runs.results import read_metrics
from reco.training.build import build_run
from reco.training.trainer import Trainer, train

OVERRIDES = (
    *TINY,
    "train.iterations=40",
    "train.checkpoint_every=2",
    "train.validate_every=20",
    "train.panel_images=0",
)


def run(folder: Path) -> None:
    synthetic.SCENES = {"train": 12, "val": 2, "test": 2}
    train(load_config("demo.yaml", OVERRIDES), folder, resume=folder.exists())


def iterations_logged(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return metrics.read_text().count('"total"') if metrics.exists() else 0


@pytest.mark.slow
def test_killed_ten_times_a_run_ends_as_if_undisturbed(tmp_path):
    context = multiprocessing.get_context("forkserver")

    def start(folder: Path):
        process = context.Process(target=run, args=(folder,))
        process.start()
        return process

    undisturbed = start(tmp_path / "whole")
    undisturbed.join()
    assert undisturbed.exitcode == 0

    folder, chance = tmp_path / "killed", random.Random(0)
    for _ in range(10):
        process, before = start(folder), iterations_logged(folder)
        while process.is_alive() and not before < iterations_logged(folder) < 40:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.1))  # somewhere in a step, or in writing a checkpoint
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    last = start(folder)
    last.join()
    assert last.exitcode == 0
    first, second = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "killed"))
    assert_same(first, second)


def test_killed_before_the_first_checkpoint_starts_anew(tiny, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("half a fi")
    (folder / "metrics.jsonl").write_text('{"iteration": 1}\n{"itera')
    assert train(tiny("train.iterations=2"), folder, resume=True).finished
    assert (folder / "metrics.jsonl").read_text().count('"total"') == 2


@pytest.fixture
def photographs(tmp_path) -> Config:
    """A short run on image files, that logs, validates and saves seldom."""
    return load_config(
        "camvid_5shot.yaml",
        [
            *TINY,
            f"dataset.root={make_camvid(tmp_path / 'camvid')}",
            "dataset.image_size=null",
            "model.weights=none",
            "train.log_every=3",
            "train.validate_every=3",
            "train.checkpoint_every=100",
            "train.workers=1",
        ],
    )


def assert_nothing_lost(config: Config, image: Path, folder: Path, iteration: int) -> None:
    """A run that fails at a broken ``image`` keeps its iterations and resumes once repaired."""
    assert train(config, folder / "whole").finished
    content = image.read_bytes()
    image.write_bytes(content[:300])
    with pytest.raises(ValueError, match=f"{image.name}: cannot be read"):
        train(config, folder / "broken")
    assert load_checkpoint(folder / "broken" / "last.pt")["iteration"] == iteration
    assert read_metrics(folder / "broken")[-1]["iteration"] == iteration
    image.write_bytes(content)
    assert train(config, folder / "broken", resume=True).finished
    first, second = (load_checkpoint(folder / name / "last.pt") for name in ("whole", "broken"))
    assert_same({**first, "best": 0}, {**second, "best": 0})


def test_a_broken_training_image_costs_no_iterations(photographs, tmp_path):
    dataset = photographs.dataset
    reader = open_dataset(dataset)
    unlabelled = make_split(reader, dataset).unlabelled
    assert len(unlabelled) == 5
    stream = TrainStream(reader, unlabelled, dataset, stream="unlabelled", seed=0)
    last_of_epoch = stream._epoch_order(0)[-1]  # the fifth, which the third batch of two holds
    (image,) = (tmp_path / "camvid").glob(f"train/{Path(last_of_epoch).name}.png")
    assert_nothing_lost(photographs, image, tmp_path, 2)


def test_a_broken_validation_image_costs_no_iterations(photographs, tmp_path):
    image = sorted((tmp_path / "camvid" / "val").glob("*.png"))[-1]
    assert_nothing_lost(photographs, image, tmp_path, 3)


def test_at_the_end_a_broken_validation_image_leaves_the_validation_to_do(photographs, tmp_path):
    """The checkpoint of the last iteration comes before its validation, and is enough for it."""
    config = replace(photographs, train=replace(photographs.train, validate_every=100))
    train(config, tmp_path / "whole")
    image = sorted((tmp_path / "camvid" / "val").glob("*.png"))[-1]
    content = image.read_bytes()
    image.write_bytes(content[:300])
    with pytest.raises(ValueError, match="cannot be read"):
        train(config, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "last.pt")["iteration"] == 4
    image.write_bytes(content)
    assert "mIoU" in train(config, tmp_path / "run", resume=True).table
    assert not train(config, tmp_path / "run", resume=True).table  # it is made once
    validations = [
        [r for r in read_metrics(tmp_path / name) if "validation" in r] for name in ("whole", "run")
    ]
    assert validations[0] == validations[1]
    assert_same(*(load_checkpoint(tmp_path / name / "best.pt") for name in ("whole", "run")))


@pytest.mark.parametrize("where", ["train", "val", "step"])
def test_no_process_outlives_an_error(photographs, tmp_path, where):
    """Else the command would go on for 20 s, the time that its loaders live after SIGTERM."""
    trainer = Trainer(build_run(photographs), tmp_path / "run")
    if where == "step":
        at_step(trainer, 1, raising(ValueError("cannot be read")))
    else:
        for image in (tmp_path / "camvid" / where).glob("*.png"):
            image.write_bytes(image.read_bytes()[:300])
    before = multiprocessing.active_children()
    with pytest.raises(ValueError, match="cannot be read") as error:
        trainer.run()
    assert multiprocessing.active_children() == before
    assert error.tb is not None  # the traceback holds the frames that started the processes


def test_a_validation_mask_that_cannot_be_used_is_found_before_training(photographs, tmp_path):
    mask = sorted((tmp_path / "camvid" / "valannot").glob("*.png"))[-1]
    mask.write_bytes(mask.read_bytes()[:30])
    with pytest.raises(ValueError, match=f"{mask.name}: cannot be read as a mask"):
        train(photographs, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_best_figure_outlives_a_run_that_ends_after_a_validation(tiny, tmp_path):
    config = tiny("train.validate_every=2")
    folder = tmp_path / "run"
    trainer = Trainer(build_run(config), folder)
    at_step(trainer, 3, raising(MemoryError()))
    with pytest.raises(MemoryError):
        trainer.run()
    shutil.copy(folder / "previous.pt", folder / "last.pt")  # as if killed: written before it
    assert load_checkpoint(folder / "last.pt")["best"] == -1
    resumed = Trainer(build_run(config), folder, resume=True)
    assert resumed.best == load_checkpoint(folder / "best.pt")["best"] > 0


def at_step(trainer: Trainer, iteration: int, happen, *, where: str = "forward") -> None:
    """Call ``happen`` in the step after ``iteration`` steps, once the student has run."""
    target, name = {
        "forward": (trainer.parts.objective, "forward"),
        "update": (trainer.teacher, "update"),
    }[where]
    method = getattr(target, name)

    def interrupted(*arguments):
        result = method(*arguments)
        if trainer.iteration == iteration:
            happen()
        return result

    setattr(target, name, interrupted)


def assert_resumes(config: Config, folder: Path, iteration: int) -> None:
    """``folder`` holds a checkpoint of ``iteration``; resumed, it ends as an undisturbed run."""
    assert load_checkpoint(folder / "last.pt")["iteration"] == iteration
    assert train(config, folder, resume=True).finished
    whole = folder.with_name("whole")
    train(config, whole)
    for name in ("last", "best"):
        assert_same(*(load_checkpoint(place / f"{name}.pt") for place in (whole, folder)))


def raising(error: BaseException):
    def happen() -> None:
        raise error

    return happen


def twice_stopped() -> None:
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("happen", "error"),
    [
        (raising(MemoryError("no room")), MemoryError),
        (raising(RuntimeError("CUDA out of memory")), RuntimeError),
        (twice_stopped, KeyboardInterrupt),
    ],
)
def test_whatever_ends_a_run_its_steps_are_kept(tiny, tmp_path, happen, error):
    """The step that failed has left no trace, not in batch norm's running statistics either."""
    config = tiny("train.checkpoint_every=100")
    trainer = Trainer(build_run(config), tmp_path / "run")
    at_step(trainer, 3, happen)
    with pytest.raises(error):
        trainer.run()
    assert_resumes(config, tmp_path / "run", 3)


def test_half_an_update_is_not_kept(tiny, tmp_path, capsys):
    config = tiny()
    trainer = Trainer(build_run(config), tmp_path / "run")
    at_step(trainer, 3, raising(MemoryError("no room")), where="update")
    with pytest.raises(MemoryError, match="no room"):
        trainer.run()
    assert "checkpoint of iteration 2: the run ended in the middle" in capsys.readouterr().err
    assert_resumes(config, tmp_path / "run", 2)


def test_a_closed_terminal_stops_a_run_with_a_checkpoint(tiny, tmp_path):
    config = tiny("train.checkpoint_every=100")
    trainer = Trainer(build_run(config), tmp_path / "run")
    at_step(trainer, 1, lambda: os.kill(os.getpid(), signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        assert not trainer.run().finished
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        resumed = Trainer(build_run(config), tmp_path / "run", resume=True)
        at_step(resumed, 2, lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert resumed.run().finished
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_stops_a_run_with_a_checkpoint(tiny, tmp_path, number):
    """As a scheduler, ``timeout`` and a terminal send it."""

    def signal_all() -> None:
        for process in multiprocessing.active_children():
            os.kill(process.pid, number)
        os.kill(os.getpid(), number)
        time.sleep(0.2)

    config = tiny("train.workers=1", "train.checkpoint_every=100")
    trainer = Trainer(build_run(config), tmp_path / "run")
    at_step(trainer, 1, signal_all)
    assert not trainer.run().finished
    assert_resumes(config, tmp_path / "run", 2)


def test_a_stopped_training_has_another_exit_code_than_a_finished_one(tmp_path, monkeypatch):
    """``reco train … && reco eval …`` of a study's commands ends with it."""
    real = Trainer.train_step

    def stopping(trainer, *batch):
        if trainer.iteration == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(trainer, *batch)

    words = ["train", "--config", "demo.yaml", "--resume", "--set", *OVERRIDES]
    words += [f"output_dir={tmp_path}", "train.iterations=3"]
    with monkeypatch.context() as changed:
        changed.setattr(Trainer, "train_step", stopping)
        changed.setattr(synthetic, "SCENES", {"train": 12, "val": 2, "test": 2})
        assert cli.main([*words, "train.checkpoint_every=100"]) == 130
        changed.setattr(Trainer, "train_step", real)
        assert cli.main(words) == 0


def kill_loaders() -> None:
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGKILL)
    time.sleep(0.2)  # the signal that they died arrives in the middle of the step


def test_a_killed_loader_costs_no_iterations(tiny, tmp_path):
    config = tiny("train.workers=1", "train.checkpoint_every=100")
    trainer = Trainer(build_run(config), tmp_path / "run")
    at_step(trainer, 2, kill_loaders, where="update")
    with pytest.raises(ChildProcessError, match=r"images ha.*train\.workers=0, instead of 1"):
        trainer.run()
    assert load_checkpoint(tmp_path / "run" / "last.pt")["iteration"] >= 3
    assert_resumes(config, tmp_path / "run", 3)


def one_of_two(rank: int, folder: Path, port: int) -> None:
    """Train together with another process; the second one fails in the step after the third."""
    synthetic.SCENES = {"train": 12, "val": 2, "test": 2}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    shares = ["train.labelled_batch_size=4", "train.unlabelled_batch_size=4"]
    config = load_config("demo.yaml", [*OVERRIDES, *shares, "train.checkpoint_every=100"])
    trainer = Trainer(build_run(config), folder)
    if rank == 1:
        at_step(trainer, 3, raising(ValueError("a.png: cannot be read")))
    trainer.run()


def test_of_two_processes_the_first_keeps_the_steps(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    processes = [
        context.Process(target=one_of_two, args=(rank, tmp_path / "run", port)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 1
    checkpoint = load_checkpoint(tmp_path / "run" / "last.pt")
    assert checkpoint["iteration"] == 3
    teacher = checkpoint["teacher"]
    assert all(torch.isfinite(v).all() for v in teacher.values() if isinstance(v, torch.Tensor))


def test_any_error_of_a_reader_names_the_image(photographs, tmp_path):
    trainer = Trainer(build_run(photographs), tmp_path / "run")
    read = trainer.parts.reader.image

    def image(id: str):
        if id == trainer.parts.split.unlabelled[-1]:
            raise KeyError("a table of the reader")
        return read(id)

    trainer.parts.reader.image = image
    with pytest.raises(
        ValueError, match=f"{trainer.parts.split.unlabelled[-1]}: .*KeyError: 'a table"
    ):
        trainer.run()


def test_training_in_a_thread_needs_no_signals(tiny, tmp_path):
    config, outcomes = tiny("train.workers=1", "train.iterations=2"), []
    thread = threading.Thread(target=lambda: outcomes.append(train(config, tmp_path / "run")))
    thread.start()
    thread.join()
    assert outcomes[0].finished


COMMAND = [sys.executable, "-m", "reco.cli", "train", "--config", "demo.yaml", "--set", *TINY]


def test_without_shared_memory_the_command_says_what_helps(tmp_path):
    """In a new mount namespace, whose /dev/shm is too small for a batch."""
    in_namespace = ["unshare", "--mount", "--propagation", "private"]
    mount = "mount -t tmpfs -o size=8k tmpfs /dev/shm"
    try:
        subprocess.run([*in_namespace, "sh", "-c", mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small /dev/shm takes root")
    command = [*COMMAND, f"output_dir={tmp_path}", "train.workers=1", "train.iterations=2"]
    run = subprocess.run(
        [*in_namespace, "sh", "-c", f'{mount} && exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert "/dev/shm is full" in line
    assert "train.workers=0" in line
    assert "Traceback" not in run.stderr.split(line)[0]
