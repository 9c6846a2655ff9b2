"""Several nodes: two of torchrun's agents on one machine find each other and train one run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY

from reco.runs.checkpoint import TrainedRun

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_two_nodes_train_one_run(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    overrides = [
        *TINY,
        f"output_dir={tmp_path}",
        "train.device=cpu",
        "train.labelled_batch_size=2",
        "train.unlabelled_batch_size=4",
        "train.iterations=2",
        "train.validate_every=2",
    ]
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    agent += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=reco"]
    command = [*agent, str(ROOT / "scripts" / "train.py"), "--config", "demo.yaml", "--set"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    nodes = [
        subprocess.Popen(
            [*command, *overrides],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    printed = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], printed
    assert sum("mIoU on val" in text for text in printed) == 1  # the first rank tells
    (last,) = tmp_path.glob("demo/*/last.pt")
    assert TrainedRun.read(last).iteration == 2
