"""Untrained checkpoints of a tiny network."""

from __future__ import annotations

from pathlib import Path

import torch
from conftest import TINY

from reco.config import load_config
from reco.data.datasets.synthetic import SyntheticReader
from reco.runs.build_networks import build_network, build_teacher
from reco.runs.checkpoint import save_checkpoint


def write_checkpoint(path: Path, *overrides: str) -> Path:
    """A checkpoint of the demo on ``TINY``'s network, whose teacher differs from its student.

    Weights are random, and so are the running statistics of batch norm.
    """
    torch.manual_seed(0)
    config = load_config("demo.yaml", [*TINY, *overrides])
    spec = SyntheticReader().spec
    student = build_network(config, spec.num_classes, pretrained=False)
    other = build_network(config, spec.num_classes, pretrained=False)
    for network in (student, other):
        for name, buffer in network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.uniform_(0.5, 1.5) if name.endswith("var") else buffer.normal_(0, 0.1)
    teacher = build_teacher(config, other)
    state = {
        "config": config.to_dict(),
        "dataset": {
            "name": spec.name,
            "class_names": list(spec.class_names),
            "palette": [list(colour) for colour in spec.palette],
        },
        "split": {"hash": "0", "labelled": [], "unlabelled": []},
        "iteration": 0,
        "best": 0.0,
        "student": student.state_dict(),
        "teacher": None if teacher is None else teacher.state_dict(),
        "optimizer": {},
        "scaler": {},
    }
    save_checkpoint(state, path)
    return path
