"""What a machine may do to a run: kill it at any moment."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY
from test_trainer import assert_same

from reco.checkpoint import load_checkpoint
from reco.config import load_config
from reco.data import synthetic
from reco.trainer import train

OVERRIDES = (
    *TINY,
    "train.iterations=40",
    "train.checkpoint_every=2",
    "train.validate_every=20",
    "train.panel_images=0",
)


def run(folder: Path) -> None:
    torch.set_num_threads(1)
    synthetic.SCENES = {"train": 12, "val": 2, "test": 2}
    train(load_config("demo.yaml", OVERRIDES), folder, resume=folder.exists())


def iterations_logged(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return metrics.read_text().count('"total"') if metrics.exists() else 0


@pytest.mark.slow
def test_killed_ten_times_a_run_ends_as_if_undisturbed(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["reco.trainer", "test_trainer"])

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
