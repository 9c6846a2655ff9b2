"""torchrun starts a run again whose process was killed: it ends as if nothing had happened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY
from test_trainer import assert_same, metrics, without_speed

from reco.runs.checkpoint import load_checkpoint

ROOT = Path(__file__).parent.parent
# `kills` says which rank dies in which attempt, and at which iteration: after its forward pass.
SCRIPT = """
import os, signal, sys
import torch
from reco import cli
from reco.data import synthetic
from reco.training.trainer import Trainer

synthetic.SCENES = {"train": 12, "val": 2, "test": 2}
kills = {KILLS}
attempt, losses = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), Trainer.losses

def losses_or_death(self, *batches):
    result = losses(self, *batches)
    if kills.get(attempt) == (int(os.environ["RANK"]), self.iteration):
        os.kill(os.getpid(), signal.SIGKILL)
    return result

Trainer.losses = losses_or_death
sys.exit(cli.main(["train", *sys.argv[1:]]))
"""


def torchrun(folder: Path, kills: dict[int, tuple[int, int]]) -> Path:
    """Train on two processes, of which ``kills`` die; the run's folder."""
    folder.mkdir()
    script = folder / "train.py"
    script.write_text(SCRIPT.replace("{KILLS}", repr(kills)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node=2", "--max-restarts=3", "--monitor-interval=0.1", str(script)]
    command += ["--config", "demo.yaml", "--resume", "--set", *TINY]
    command += ["train.unlabelled_batch_size=4", "train.iterations=7", "train.validate_every=7"]
    command += ["train.checkpoint_every=2", "train.device=cpu", f"output_dir={folder}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr[-5000:]
    assert ended.stderr.count("exitcode: -9") == len(kills)
    assert ended.stdout.count("Report last.pt") == 1  # the first process tells
    (path,) = folder.glob("demo/*/config.yaml")
    return path.parent


@pytest.mark.slow
def test_killed_processes_end_where_undisturbed_ones_do(tmp_path):
    undisturbed = torchrun(tmp_path / "undisturbed", {})
    # Once before the first checkpoint, once the process that writes them.
    killed = torchrun(tmp_path / "killed", {0: (1, 1), 1: (1, 3), 2: (0, 5)})
    first, second = (load_checkpoint(folder / "last.pt") for folder in (undisturbed, killed))
    first["config"].pop("output_dir"), second["config"].pop("output_dir")
    assert_same(first, second)
    assert without_speed(metrics(undisturbed)) == without_speed(metrics(killed))
    names = {path.name for path in undisturbed.iterdir()}
    assert {path.name for path in killed.iterdir()} == names
