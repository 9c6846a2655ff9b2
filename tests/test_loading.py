"""Streams of samples: their content, and independence of workers, restarts and ranks."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os

import numpy as np
import pytest
import torch
from make_data import make_camvid, make_folder
from PIL import Image

from reco import IGNORE
from reco.classes import DatasetSpec, default_palette
from reco.config import DatasetConfig
from reco.data import loading, open_dataset
from reco.data.loading import (
    EvalDataset,
    EvalSample,
    TrainSample,
    TrainStream,
    eval_loader,
    num_workers,
    train_loader,
)

IMAGES = 7
CONFIG = DatasetConfig(name="synthetic", crop_size=(16, 16), scale_range=(0.5, 1.5))


class CountingReader:
    """Image k shows k in red everywhere and a ramp in green; two more have no labels."""

    spec = DatasetSpec("counting", ("a", "b", "c"), default_palette(3))
    label_comes_with_image = True

    def ids(self, split: str) -> list[str]:
        return [str(k) for k in range(IMAGES)]

    def unlabelled_ids(self) -> list[str]:
        return ["90", "91"]

    def image(self, id: str) -> Image.Image:
        pixels = np.zeros((20, 24, 3), np.uint8)
        pixels[..., 0] = int(id)
        pixels[..., 1] = 5 * np.arange(24)
        return Image.fromarray(pixels)

    def label(self, id: str) -> Image.Image:
        assert id not in self.unlabelled_ids()
        return Image.fromarray((np.indices((20, 24)).sum(0) // 6 % 3).astype(np.uint8))


def stream(kind="labelled", ids=None, seed=0, reader=None, **changes) -> TrainStream:
    reader = reader or CountingReader()
    ids = reader.ids("train") if ids is None else ids
    return TrainStream(reader, ids, dataclasses.replace(CONFIG, **changes), stream=kind, seed=seed)


def batches(dataset, batch_size=4, start=0, iterations=6, workers=0, **rank) -> list[TrainSample]:
    return list(
        train_loader(
            dataset,
            batch_size,
            start_iteration=start,
            iterations=iterations,
            workers=workers,
            **rank,
        )
    )


def equal(a: list[TrainSample], b: list[TrainSample]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for s, t in zip(a, b, strict=True) for x, y in zip(s, t, strict=True)
    )


def number_shown(sample: TrainSample) -> int:
    """Which image a crop comes from."""
    (red,) = sample.image[0][sample.inside].unique().tolist()
    return red


# --- what samples do not depend on -----------------------------------------------------------


@pytest.mark.parametrize("kind", ["labelled", "unlabelled"])
def test_neither_workers_nor_restarts_nor_ranks_change_a_sample(kind):
    alone = batches(stream(kind))
    assert len(alone) == 6
    assert isinstance(alone[0], TrainSample)
    assert equal(alone, batches(stream(kind), workers=2))
    assert equal(alone[3:], batches(stream(kind), start=3))
    assert batches(stream(kind), start=6) == []
    ranks = [batches(stream(kind), rank=r, world_size=2) for r in range(2)]
    assert ranks[0][0].image.shape == (2, 3, 16, 16)
    joined = [
        TrainSample(*(torch.cat(parts) for parts in zip(*of_ranks, strict=True)))
        for of_ranks in zip(*ranks, strict=True)
    ]
    assert equal(alone, joined)
    assert not equal(alone, batches(stream(kind, seed=1)))


def test_torchs_own_generator_is_neither_used_nor_moved(monkeypatch):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with monkeypatch.context() as patch:
        # It would seed accelerators too, which changes the training step.
        patch.setattr(torch, "manual_seed", lambda seed: pytest.fail("torch.manual_seed called"))
        first = batches(stream())
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert equal(first, batches(stream()))


def test_every_epoch_holds_every_image_once_in_an_order_of_its_own():
    samples = stream()
    epochs = [[number_shown(samples[7 * e + i]) for i in range(7)] for e in range(6)]
    assert all(sorted(epoch) == list(range(IMAGES)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 3
    # Asked for in any order, a number means the same sample.
    assert number_shown(samples[9]) == epochs[1][2]
    assert number_shown(samples[1]) == epochs[0][1]


def test_crops_of_one_image_differ_from_epoch_to_epoch():
    samples = stream(ids=["3"])
    assert len({samples[n].image.numpy().tobytes() for n in range(8)}) == 8


# --- what samples hold -----------------------------------------------------------------------


def test_labelled_and_unlabelled_samples():
    labelled = stream()[0]
    assert labelled.image.shape == (3, 16, 16)
    assert labelled.label.shape == (16, 16)
    assert labelled.inside.dtype == torch.bool
    assert {labelled.image.dtype, labelled.label.dtype, labelled.truth.dtype} == {torch.uint8}
    assert torch.equal(labelled.label, labelled.truth)

    samples = stream("unlabelled", ids=["0", "90"])
    pair = sorted((samples[n] for n in range(2)), key=lambda s: int(s.image[0, 0, 0]))
    assert all((sample.label == IGNORE).all() for sample in pair)
    assert (pair[0].truth != IGNORE).all()
    assert (pair[1].truth == IGNORE).all()  # has no labels at all
    # The teacher's view is not scaled: the ramp rises by 5 a pixel, as in the file.
    assert all((sample.image[1].int().diff(dim=1) == 5).all() for sample in pair)


@pytest.mark.parametrize("budget", [None, "pixel"])
def test_masks_of_unlabelled_images_are_read_for_partial_labels_alone(budget, tmp_path):
    config = DatasetConfig(
        name="folder",
        root=str(make_folder(tmp_path)),
        class_names=("a", "b", "c"),
        crop_size=(16, 16),
        partial_labels=budget,
    )
    reader = open_dataset(config)
    (tmp_path / "labels/train/site 0/000.png").write_bytes(b"no mask")
    streams = {
        kind: TrainStream(reader, ["train/site 0/000"], config, stream=kind, seed=0)
        for kind in ("labelled", "unlabelled")
    }
    for kind, samples in streams.items():
        if kind == "labelled" or budget:
            with pytest.raises(ValueError, match=r"000\.png: cannot be read as a mask"):
                samples[0]
        else:
            assert (samples[0].truth == IGNORE).all()


@pytest.mark.parametrize("kind", ["labelled", "unlabelled"])
@pytest.mark.parametrize("budget", ["pixel", 0.25])
def test_partial_labels_go_into_both_streams(kind, budget):
    samples = stream(kind, ids=["0", "90"], partial_labels=budget, crop_size=(24, 24))
    known = [samples[n] for n in range(6)]
    with_labels = [s for s in known if (s.truth != IGNORE).any()]
    assert len(with_labels) == 3
    for sample in with_labels:
        kept = sample.label != IGNORE
        assert torch.equal(sample.label[kept], sample.truth[kept])
        assert kept.sum() < 0.6 * (sample.truth != IGNORE).sum()
    if kind == "unlabelled":  # unscaled and whole: every class is there, the same pixels each time
        assert all(set(s.label.unique().tolist()) == {0, 1, 2, IGNORE} for s in with_labels)
        counts = {int((s.label != IGNORE).sum()) for s in with_labels}
        assert len(counts) == 1
        assert budget != "pixel" or counts == {3}


def test_image_size_comes_first(tmp_path):
    config = dataclasses.replace(CONFIG, image_size=(40, 30), scale_range=(1.0, 1.0))
    reader = CountingReader()
    whole = TrainStream(
        reader,
        ["0"],
        dataclasses.replace(config, crop_size=(40, 30)),
        stream="labelled",
        seed=0,
    )[0]
    evaluated = EvalDataset(reader, ["0"], (40, 30))[0]
    assert torch.equal(whole.image, evaluated.image)
    assert torch.equal(whole.label, evaluated.label)
    # Partial labels are sampled at this size: one pixel each of the resized mask.
    pixels = TrainStream(
        reader,
        ["0"],
        dataclasses.replace(config, crop_size=(40, 30), partial_labels="pixel"),
        stream="labelled",
        seed=0,
    )[0]
    assert (pixels.label != IGNORE).sum() == 3


@pytest.mark.parametrize("kind", ["labelled", "unlabelled"])
def test_crop_larger_than_the_image_is_void_outside(kind):
    for id in ("0", "90"):  # with a mask, and without
        if kind == "labelled" and id == "90":
            continue
        sample = stream(kind, ids=[id], crop_size=(50, 60), scale_range=(1.0, 1.0))[0]
        assert sample.image.shape == (3, 50, 60)
        assert sample.inside.sum() == 20 * 24
        assert (sample.image[0] == int(id))[sample.inside].all()
        assert (sample.image[2] == 0)[sample.inside].all()
        assert (sample.image[2] != 0)[~sample.inside].all()
        assert (sample.label[~sample.inside] == IGNORE).all()
        assert (sample.truth[~sample.inside] == IGNORE).all()


def test_real_files(tmp_path):
    config = DatasetConfig(
        name="camvid", root=str(make_camvid(tmp_path)), crop_size=(32, 32), scale_range=(0.5, 1.5)
    )
    reader = open_dataset(config)
    samples = TrainStream(reader, reader.ids("train"), config, stream="labelled", seed=0)
    (batch,) = batches(samples, batch_size=8, iterations=1)
    assert batch.image.shape == (8, 3, 32, 32)
    assert set(batch.label.unique().tolist()) <= {*range(11), IGNORE}
    assert len(batch.label.unique()) > 8


def test_no_images():
    with pytest.raises(ValueError, match="the unlabelled stream has no images"):
        stream("unlabelled", ids=[])


# --- evaluation ------------------------------------------------------------------------------


def test_eval_loader():
    reader = CountingReader()
    ids = reader.ids("val")
    plain = list(eval_loader(EvalDataset(reader, ids, None), workers=0))
    assert isinstance(plain[0], EvalSample)
    assert [len(sample.image) for sample in plain] == [1] * IMAGES
    assert plain[2].image.shape == (1, 3, 20, 24)
    assert [int(sample[2]) for sample in plain] == list(range(IMAGES))
    assert [int(sample.image[0, 0, 0, 0]) for sample in plain] == list(range(IMAGES))

    loader = eval_loader(EvalDataset(reader, ids, (10, 12)), workers=2)
    for _ in range(2):  # every evaluation is a new pass
        batches = list(loader)
        assert [len(batch.image) for batch in batches] == [4, 3]
        assert batches[0].label.shape == (4, 10, 12)
        assert torch.cat([batch[2] for batch in batches]).tolist() == list(range(IMAGES))


def test_ranks_share_the_images_without_counting_one_twice():
    dataset = EvalDataset(CountingReader(), CountingReader().ids("val"), None)
    shares = [
        [int(s[2]) for s in eval_loader(dataset, workers=0, rank=r, world_size=3)] for r in range(3)
    ]
    assert sorted(index for share in shares for index in share) == list(range(IMAGES))


# --- broken files ----------------------------------------------------------------------------


def broken_folder(tmp_path, skip: bool):
    """A folder data set with a truncated image among the labelled and among the unlabelled."""
    make_folder(tmp_path)
    for file in ("images/train/site 0/002.jpg", "unlabelled/street/001.jpg"):
        path = tmp_path / file
        path.write_bytes(path.read_bytes()[:300])
    config = DatasetConfig(
        name="folder",
        root=str(tmp_path),
        class_names=("a", "b", "c"),
        crop_size=(16, 16),
        skip_unreadable=skip,
    )
    return open_dataset(config), config


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_file_is_named_whoever_reads_it(tmp_path, workers):
    reader, config = broken_folder(tmp_path, skip=False)
    unlabelled = TrainStream(reader, reader.unlabelled_ids(), config, stream="unlabelled", seed=0)
    with pytest.raises(ValueError, match=r"unlabelled/street/001.jpg: cannot be read"):
        batches(unlabelled, workers=workers)
    evaluated = EvalDataset(reader, reader.ids("train"), None)
    with pytest.raises(ValueError, match=r"images/train/site 0/002.jpg: cannot be read"):
        list(eval_loader(evaluated, workers=workers))


def test_broken_unlabelled_image_is_skipped_where_the_config_says_so(tmp_path, caplog):
    reader, config = broken_folder(tmp_path, skip=True)
    unlabelled = TrainStream(reader, reader.unlabelled_ids(), config, stream="unlabelled", seed=0)
    with caplog.at_level(logging.WARNING):
        first = batches(unlabelled, iterations=2)
    assert caplog.text.count("street/001.jpg: cannot be read") == 2  # once an epoch
    assert equal(first, batches(unlabelled, iterations=2, workers=2))
    # A labelled image is not passed over: the split was counted with it.
    labelled = TrainStream(reader, reader.ids("train"), config, stream="labelled", seed=0)
    with pytest.raises(ValueError, match=r"site 0/002.jpg: cannot be read"):
        batches(labelled)
    alone = TrainStream(reader, ["unlabelled/street/001"], config, stream="unlabelled", seed=0)
    with pytest.raises(ValueError, match="none of the 1 unlabelled images can be read"):
        alone[0]


@pytest.mark.parametrize("kind", ["labelled", "unlabelled"])
@pytest.mark.parametrize("partial", [None, "pixel"])
def test_cached_images_are_read_once_and_give_the_same_samples(kind, partial):
    class Counting(CountingReader):
        def __init__(self) -> None:
            self.read: list[str] = []

        def image(self, id: str) -> Image.Image:
            self.read.append(id)
            return super().image(id)

    reader = Counting()
    changes = {"reader": reader, "image_size": (18, 20), "partial_labels": partial}
    plain = batches(stream(kind, **changes), iterations=6)
    assert len(reader.read) == 24
    reader.read.clear()
    cached = stream(kind, cache=True, **changes)
    assert equal(plain, batches(cached, iterations=6))
    assert sorted(reader.read) == reader.ids("train")
    assert equal(plain, batches(cached, iterations=6, workers=2))


def test_workers_go_by_the_cores(monkeypatch):
    cores = {1: 1, 2: 1, 8: 2, 16: 4, 64: 8}
    for number, workers in cores.items():
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, number=number: range(number))
        assert num_workers("auto") == workers
        assert num_workers(3) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert num_workers("auto") == 2


def test_workers_of_an_evaluation_end_with_it(tmp_path):
    make_folder(tmp_path, val=3)
    names = ("road", "car", "sky")
    reader = open_dataset(DatasetConfig(name="folder", root=str(tmp_path), class_names=names))
    loader = eval_loader(EvalDataset(reader, reader.ids("val"), None), workers=1)
    before = set(multiprocessing.active_children())  # of tests before this one
    assert len(list(loader)) == 3
    assert set(multiprocessing.active_children()) <= before
    # Those of a pass that is held, as by an uncaught error's traceback, end when they are told to.
    for end in (lambda held: held.close(), lambda held: loading._close_passes()):
        for begun in (False, True):
            held = iter(loader)
            assert not begun or next(held)
            assert set(multiprocessing.active_children()) - before
            end(held)
            assert set(multiprocessing.active_children()) <= before
