"""Runs under torchrun: on two nodes, and started again where processes were killed."""

from __future__ import annotations

import os
import socket
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
import os, runpy, signal
from reco.data.datasets import synthetic
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
runpy.run_path("{TRAIN}", run_name="__main__")
"""


def torchrun(
    folder: Path, options: list[str], *, nodes: int = 1, kills: dict[int, tuple[int, int]]
) -> Path:
    """Train on two processes, of which ``kills`` die; the run's folder."""
    folder.mkdir()
    script = folder / "train.py"
    train = ROOT / "scripts" / "train.py"
    script.write_text(SCRIPT.replace("{KILLS}", repr(kills)).replace("{TRAIN}", str(train)))
    command = [sys.executable, "-m", "torch.distributed.run", *options, str(script)]
    command += ["--config", "demo.yaml", "--resume", "--set", *TINY]
    command += ["train.unlabelled_batch_size=4", "train.iterations=7", "train.validate_every=7"]
    command += ["train.checkpoint_every=2", "train.device=cpu", f"output_dir={folder}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(nodes)
    ]
    printed = [agent.communicate(timeout=500)[0] for agent in started]
    assert [agent.returncode for agent in started] == [0] * nodes, printed
    text = "".join(printed)
    assert text.count("exitcode: -9") == len(kills)
    assert text.count("Report last.pt") == 1  # the first process tells
    (path,) = folder.glob("demo/*/config.yaml")
    return path.parent


@pytest.mark.slow
def test_killed_processes_end_where_two_nodes_do(tmp_path):
    """Two of torchrun's agents on one machine find each other and train one run; one agent starts a
    run again whose processes die, and it ends as if nothing had happened."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", "--rdzv-id=reco"]
    undisturbed = torchrun(
        tmp_path / "nodes", ["--nnodes=2", "--nproc_per_node=1", *meeting], nodes=2, kills={}
    )
    again = ["--standalone", "--nproc_per_node=2", "--max-restarts=3", "--monitor-interval=0.1"]
    # Once before the first checkpoint, once the process that writes them.
    killed = torchrun(tmp_path / "killed", again, kills={0: (1, 1), 1: (0, 5)})
    first, second = (load_checkpoint(folder / "last.pt") for folder in (undisturbed, killed))
    assert first["iteration"] == 7
    first["config"].pop("output_dir"), second["config"].pop("output_dir")
    assert_same(first, second)
    assert without_speed(metrics(undisturbed)) == without_speed(metrics(killed))
    names = {path.name for path in undisturbed.iterdir()}
    assert {path.name for path in killed.iterdir()} == names
