"""Two processes on the CPU train as one does."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from conftest import TINY
from torch import nn

from reco.config import load_config
from reco.data.datasets import synthetic
from reco.method import views
from reco.training import trainer
from reco.training.build import build_run

ITERATIONS = 8


def run(rank: int, world: int, folder: str, exact: bool, overrides: tuple[str, ...]) -> None:
    """One process of a run; ``exact`` leaves out what cannot be divided among processes."""
    if world > 1:
        os.environ |= {
            "RANK": str(rank),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": Path(folder, "port").read_text(),
        }
    synthetic.SCENES = {"train": 12, "val": 3, "test": 2}
    if exact:
        # Augmentation samples random numbers image by image, and each process has fewer images.
        views.photometric_flip = lambda *planes, **_: planes
    config = load_config("demo.yaml", [*TINY, f"train.iterations={ITERATIONS}", *overrides])
    run_ = trainer.Trainer(build_run(config), Path(folder, f"{world}"))
    if exact:
        for module in run_.student.modules():
            if isinstance(module, nn.BatchNorm2d):  # frozen: its statistics are the batch's
                module.eval()
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if world == 1:
            # The order in which two processes hold the images, so that the same numbers are the
            # same pixels: labelled and unlabelled ones of the first, then those of the second.
            in_order, compute = [0, 1, 4, 5, 2, 3, 6, 7], run_.parts.objective.reco.with_statistics

            def with_statistics(*planes, **masks):
                masks = {name: mask[in_order] for name, mask in masks.items() if mask is not None}
                return compute(*(plane[in_order] for plane in planes), **masks)

            run_.parts.objective.reco.with_statistics = with_statistics
    seen = first_running_means(run_)
    try:
        run_.run()
    finally:
        trainer.distributed.tear_down()
    torch.save(seen, Path(folder, f"norm-{rank}-of-{world}.pt"))


def first_running_means(run_: trainer.Trainer) -> dict[str, list[torch.Tensor]]:
    """The first running mean of each network after each step, from this rank's batches."""
    seen: dict[str, list[torch.Tensor]] = {"student": [], "teacher": []}

    def watch(network: nn.Module, means: list[torch.Tensor]) -> None:
        def note(module: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
            if module.training:
                mean = inputs[0].detach().mean((0, 2, 3))
                before = means[-1] if means else torch.zeros_like(mean)
                means.append(before.lerp(mean, module.momentum))

        first = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
        first.register_forward_pre_hook(note)

    watch(run_.student, seen["student"])
    watch(run_.teacher, seen["teacher"])
    return seen


def records(folder: Path, world: int) -> list[dict]:
    lines = (folder / str(world) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def two_processes(folder: Path, exact: bool, *overrides: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (folder / "port").write_text(str(free.getsockname()[1]))
    mp.start_processes(
        run, (2, str(folder), exact, overrides), nprocs=2, start_method="forkserver", join=True
    )


@pytest.mark.slow
def test_two_processes_follow_the_losses_of_one(tmp_path):
    overrides = (
        "method.mix=none",
        "method.teacher_mode=eval",
        "dataset.scale_range=[1.0, 1.0]",
        "train.labelled_batch_size=4",
        "train.unlabelled_batch_size=4",
        f"train.validate_every={ITERATIONS}",
    )
    two_processes(tmp_path, True, *overrides)
    context = mp.get_context("forkserver")
    alone = context.Process(target=run, args=(0, 1, str(tmp_path), True, overrides))
    alone.start()
    alone.join()
    assert alone.exitcode == 0
    one, two = records(tmp_path, 1), records(tmp_path, 2)
    assert len(one) == len(two) == ITERATIONS + 1
    for first, second in zip(one[:-1], two[:-1], strict=True):
        for name in ("total", "supervised", "unsupervised", "reco"):
            assert second[name] == pytest.approx(first[name], rel=1e-4, abs=1e-6), first[
                "iteration"
            ]
    assert one[-2]["reco"] > 0
    assert one[-2]["unsupervised"] > 0
    # Every validation image counted once, by one rank or the other.
    pixels = [
        sum(map(sum, validation[-1]["validation"]["student"]["matrix"]))
        for validation in (one, two)
    ]
    assert pixels == [3 * 96 * 128] * 2


@pytest.mark.slow
def test_everything_on_and_a_rank_without_labels_does_not_hang(tmp_path):
    """Batch norm, mixing and augmentation as they are; partial labels of one pixel leave most
    crops of a rank without any label. Checkpoints hold the mean of the ranks' statistics."""
    two_processes(
        tmp_path,
        False,
        "dataset.labelled_images=all",
        "dataset.partial_labels=pixel",
        "dataset.crop_size=[16, 16]",
        "train.unlabelled_batch_size=4",
        f"train.validate_every={ITERATIONS}",
        f"train.checkpoint_every={ITERATIONS // 2}",
    )
    assert len(records(tmp_path, 2)) == ITERATIONS + 1
    assert all(r["total"] is not None for r in records(tmp_path, 2)[:-1])

    # The checkpoint half-way, without a validation before it.
    checkpoint = torch.load(tmp_path / "2" / "previous.pt", weights_only=True)
    ranks = [torch.load(tmp_path / f"norm-{rank}-of-2.pt", weights_only=True) for rank in (0, 1)]
    for network in ("student", "teacher"):
        name = next(name for name in checkpoint[network] if name.endswith("running_mean"))
        first, second = (seen[network][ITERATIONS // 2 - 1] for seen in ranks)
        assert not torch.allclose(first, second, rtol=1e-3)
        torch.testing.assert_close(checkpoint[network][name], (first + second) / 2)


def test_a_numbered_device_is_refused_under_torchrun(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(
        ValueError, match=r"train\.device = 'cuda:1': under torchrun .* auto or cuda"
    ):
        trainer.distributed.set_up("cuda:1")
