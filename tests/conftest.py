"""Small runs that the tests share."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from reco.config import Config, load_config
from reco.data.datasets import synthetic
from reco.models.network import SegmentationOutput

# One thread is faster for networks of a few channels, in the processes that tests start too, and
# makes the order of sums deterministic.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

needs_new_torch = pytest.mark.skipif(
    torch.__version__ < "2.7", reason="a count or a fake GPU of newer versions of torch"
)

TINY = (
    "dataset.crop_size=[32, 32]",
    "dataset.labelled_images=3",
    "model.backbone=timm/test_byobnet",  # a step of it costs a third of mobilenet_v3_large's
    "model.channels=8",
    "model.representation_dim=8",
    "reco.num_queries=8",
    "reco.num_negatives=8",
    "method.unsupervised_threshold=0.05",
    "reco.weak_threshold=0.1",
    "train.labelled_batch_size=2",
    "train.unlabelled_batch_size=2",
    "train.iterations=4",
    "train.log_every=1",
    "train.validate_every=4",
    "train.checkpoint_every=2",
    "train.panel_images=1",
    "train.workers=0",
)


def pytest_configure() -> None:
    # Where a system has it, processes start as copies of one that has imported what they need.
    if "forkserver" in multiprocessing.get_all_start_methods():
        modules = ["timm", "reco.cli", "reco.training.trainer", "test_trainer"]
        multiprocessing.get_context("forkserver").set_forkserver_preload(modules)
    # pytest captures debug logs, for which torch would describe all that it compiles: slow.
    logging.disable(logging.DEBUG)
    # Runs under test must hear Ctrl-C: shells start jobs in the background that ignore it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """A configuration of a few quick steps on a few synthetic scenes, with overrides on top."""
    monkeypatch.setattr(synthetic, "SCENES", {"train": 12, "val": 2, "test": 2})

    def make(*overrides: str) -> Config:
        return load_config("demo.yaml", [*TINY, f"output_dir={tmp_path}/runs", *overrides])

    return make


class Network(nn.Module):
    """Logits and representations at a quarter of the size: two convolutions."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.classifier = nn.Conv2d(3, num_classes, 4, 4)
        self.representation = nn.Conv2d(3, 6, 4, 4)

    def forward(self, images):
        images = (images - 0.45) / 0.225
        logits = 4 * self.classifier(images)
        return SegmentationOutput(logits, self.representation(images) if self.training else None)


def losses_of(objective, views, student, teacher, labelled, unlabelled=None):
    """Losses and statistics of a batch as the loaders give it: its views, and Eq. 5 on them."""
    labelled = views.labelled(*labelled)
    view = None if teacher is None else views.unlabelled(teacher, *unlabelled)
    return objective(student, labelled, view)
