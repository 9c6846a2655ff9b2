"""Padding of crops is ignored, from the files to the regions that ReCo gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import losses_of
from make_data import make_mask, save_mask
from PIL import Image
from torch import nn

from reco import IGNORE
from reco.config import DatasetConfig
from reco.data import open_dataset, transforms
from reco.data.loading import TrainStream, train_loader
from reco.loss import ReCoLoss
from reco.method import augmentation
from reco.method import views as module
from reco.method.objective import Objective
from reco.method.views import Views

CROP, CELL, B, C = (64, 64), 4, 4, 3
SIZES = ((44, 40), (80, 36), (30, 72), (56, 50))
# The classes of each image; the last one has no class 0, which has the colour of the padding.
CLASSES = ((0, 1, 2), (2, 0, 1), (1, 0, 2), (1, 2))
CONFIDENCE = torch.tensor([0.98, 0.6, 0.8])
MEAN_COLOUR = torch.tensor([0.485, 0.456, 0.406])


def write_images(root: Path) -> Path:
    """Of class c, image k has 200 + 5 k in channel c: a pixel encodes its class and image."""
    for folder in ("images/train", "images/val", "unlabelled"):
        for k, (size, classes) in enumerate(zip(SIZES, CLASSES, strict=True)):
            mask = make_mask(classes, 0, size=size)
            pixels = np.full((*size, 3), 20, np.uint8)
            np.put_along_axis(pixels, mask[:, :, None], 200 + 5 * k, 2)
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{k}.png")
            if folder != "unlabelled":
                save_mask(root / folder.replace("images", "labels") / f"{k}.png", mask)
    return root


class Oracle(nn.Module):
    """Labels by the colour, and the padding too."""

    def pseudo_label(self, images):
        labels = images.argmax(1)
        return labels, CONFIDENCE[labels]


class Student(nn.Module):
    """Records its inputs and its logits."""

    def __init__(self):
        super().__init__()
        self.classifier, self.representation = nn.Conv2d(3, C, 4, 4), nn.Conv2d(3, 6, 4, 4)

    def forward(self, images):
        self.images, self.logits = images, self.classifier(images)
        return self.logits, self.representation(images)


class RecordingLoss(ReCoLoss):
    """Records its inputs."""

    def with_statistics(self, representations, logits, labels, *, valid, **options):
        self.labels, self.valid = labels, valid
        return super().with_statistics(representations, logits, labels, valid=valid, **options)


def nearest(images, old, at, ratio):
    """In place of a batch's interpolation."""
    (height, width), of_image = images.shape[2:], torch.arange(len(images))[:, None, None]
    rows = at[0, :, :height, None].long().clamp(0, height - 1)
    columns = at[1, :, None, :width].long().clamp(0, width - 1)
    return images.movedim(1, -1)[of_image, rows, columns].movedim(-1, 1)


@pytest.fixture
def batches(tmp_path, monkeypatch):
    """The first labelled and unlabelled batch; pixels keep the colours of their files."""
    monkeypatch.setattr(augmentation, "_interpolated", nearest)
    monkeypatch.setattr(module, "photometric_flip", lambda *planes, **_: planes)
    monkeypatch.setattr(
        transforms,
        "_resize_image",
        lambda image, size: torch.stack([transforms._resize_mask(c, size) for c in image]),
    )
    config = DatasetConfig(
        name="folder",
        root=str(write_images(tmp_path)),
        class_names=("a", "b", "c"),
        crop_size=CROP,
        scale_range=(0.6, 1.4),
    )
    reader = open_dataset(config)
    ids = {"labelled": reader.ids("train"), "unlabelled": reader.unlabelled_ids()}
    loaders = {
        kind: train_loader(
            TrainStream(reader, of_kind, config, stream=kind, seed=0),
            B,
            start_iteration=0,
            iterations=1,
            workers=0,
        )
        for kind, of_kind in ids.items()
    }
    return {kind: next(iter(loader)) for kind, loader in loaders.items()}


@pytest.mark.parametrize("scale_range", [(1.0, 1.0), (0.6, 1.4)])
@pytest.mark.parametrize("mix", ["classmix", "cutmix", "cutout", "none"])
@pytest.mark.parametrize("seed", range(3))
def test_padding_takes_no_part(batches, mix, scale_range, seed):
    labelled, unlabelled = batches["labelled"], batches["unlabelled"]
    student, loss = Student(), RecordingLoss(num_queries=8, num_negatives=8)
    views = Views(mix=mix, scale_range=scale_range)
    objective = Objective(unsupervised_threshold=0.9, weak_threshold=0.7, reco=loss)
    torch.manual_seed(seed)
    losses, statistics = losses_of(
        objective, views, student, Oracle(), (labelled.image, labelled.label), unlabelled
    )

    # Pixel by pixel: its source image, and the expected label.
    seen = student.images[B:]
    void = ((seen - MEAN_COLOUR[:, None, None]).abs() < 0.01).all(1)
    shown = seen.argmax(1)
    assert 0.1 < void.float().mean() < 0.9
    large = F.interpolate(student.logits, CROP, mode="bilinear", align_corners=False)
    log_probabilities = large[B:].log_softmax(1)
    total, etas = 0.0, []
    for b in range(B):
        classes = shown[b][~void[b]]
        etas.append((CONFIDENCE[classes] > 0.9).sum() / max(1, len(classes)))
        pixels = log_probabilities[b][:, ~void[b]]
        total = total - etas[b] * pixels.gather(0, classes[None]).sum()
    torch.testing.assert_close(losses.unsupervised, total / (~void).sum())
    torch.testing.assert_close(statistics.eta, torch.stack(etas).mean())
    weak = (CONFIDENCE[shown[~void]] > 0.7).float().mean()
    torch.testing.assert_close(statistics.above_weak, weak)

    takes_part = 0
    for b in range(2 * B):
        for i in range(CROP[0] // CELL):
            for j in range(CROP[1] // CELL):
                y, x = CELL * i + CELL // 2, CELL * j + CELL // 2
                if b < B:
                    expected = int(labelled.label[b, y, x])
                    sure = expected != IGNORE
                else:
                    expected = IGNORE if void[b - B, y, x] else int(shown[b - B, y, x])
                    sure = expected != IGNORE and bool(CONFIDENCE[expected] > 0.7)
                assert loss.labels[b, i, j] == expected
                assert loss.valid[b, i, j] == sure
                takes_part += sure
    assert takes_part > 500


@pytest.mark.parametrize("scale_range", [(1.0, 1.0), (0.6, 1.4)])
def test_classmix_counts_and_pastes_what_an_image_shows(batches, scale_range):
    """Half of the classes outside the padding; the padding hides nothing of the next image."""
    view_of = {}
    for mix in ("none", "classmix"):
        torch.manual_seed(0)
        views = Views(mix=mix, scale_range=scale_range)
        images, *planes = batches["unlabelled"]
        view_of[mix] = views.unlabelled(Oracle(), images, *planes).images
    before, mixed = view_of["none"], view_of["classmix"]
    void = ((before - MEAN_COLOUR[:, None, None]).abs() < 0.01).all(1)
    for i in range(B):
        pasted = (mixed[i] == before[i]).all(0) & ~void[i]
        visible = before[i].argmax(0)
        classes = set(visible[~void[i]].tolist())
        whole = [c for c in classes if pasted[(visible == c) & ~void[i]].all()]
        assert len(whole) == (len(classes) + 1) // 2
        following = before[(i + 1) % B]
        assert torch.equal(mixed[i][:, ~pasted], following[:, ~pasted])
        assert void[i].any()
        assert not pasted[void[i]].any()


def test_labels_of_partly_labelled_images_stay_known_and_padding_does_not(batches):
    images, _, inside, truth = batches["unlabelled"]
    known = torch.where(inside, torch.full_like(truth, 2), IGNORE)
    known[:, ::2] = IGNORE
    view = Views(mix="none").unlabelled(Oracle(), images, known, inside, truth)
    assert torch.equal(view.known, known != IGNORE)
    assert (view.labels[view.known] == 2).all()
    assert (view.confidence[view.known] == 1).all()
    assert torch.equal(view.labels == IGNORE, ~inside)
    assert torch.equal(view.confidence == 0, ~inside)
