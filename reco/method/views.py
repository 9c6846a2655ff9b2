"""What the student sees of a batch, and what it should answer.

Shapes: B_l labelled and B_u unlabelled images of one crop size H x W, both uint8 (B, 3, H, W);
labels (B, H, W) uint8 with IGNORE where nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function  # names the phases for `--profile`

from reco import IGNORE
from reco.method.augmentation import photometric_flip, rescale_batch, to_unit
from reco.method.mixing import classmix, cutmix, cutout
from reco.method.teacher import MeanTeacher


class LabelledView(NamedTuple):
    """Augmented images with ground truth."""

    images: Tensor  # (B_l, 3, H, W) in [0, 1]
    labels: Tensor  # (B_l, H, W) int64, IGNORE where unknown


class UnlabelledView(NamedTuple):
    """What the student sees of the unlabelled images, and what it should answer."""

    images: Tensor  # (B_u, 3, H, W) in [0, 1]
    labels: Tensor  # (B_u, H, W) int64
    confidence: Tensor  # (B_u, H, W) of the teacher, 1 where the label is known
    known: Tensor  # (B_u, H, W) bool: the label is ground truth, not the teacher's
    pseudo_accuracy: Tensor  # () share of right answers where the truth is at hand, else NaN


class Views:
    """Makes the views of a batch.

    Args:
        mix: how unlabelled images are mixed.
        scale_range: random scale of the student's view of an unlabelled crop.
        cutmix_probability: of a box, as :func:`~reco.method.mixing.cutmix` takes it.
        cutmix_area: of a box, likewise.
        cutmix_aspect: of a box, likewise.
    """

    def __init__(
        self,
        *,
        mix: Literal["classmix", "cutmix", "cutout", "none"] = "classmix",
        scale_range: tuple[float, float] = (1.0, 1.0),
        cutmix_probability: float = 1.0,
        cutmix_area: tuple[float, float] = (0.5, 0.5),
        cutmix_aspect: tuple[float, float] | None = None,
    ) -> None:
        boxes = partial(
            cutmix, probability=cutmix_probability, area=cutmix_area, aspect=cutmix_aspect
        )
        mixing: dict[str, Callable[..., tuple[Tensor, ...]]] = {
            "classmix": classmix,
            "cutmix": boxes,
            "cutout": cutout,
            "none": lambda *view: view,
        }
        self.mix = mixing[mix]
        self.scale_range = scale_range

    @torch.no_grad()
    def labelled(self, images: Tensor, labels: Tensor) -> LabelledView:
        """Jittered, blurred and flipped; the loader has scaled and cropped.

        Args:
            images: ``(B_l, 3, H, W)`` uint8.
            labels: ``(B_l, H, W)`` uint8.
        """
        with record_function("augmentation"):
            return LabelledView(*photometric_flip(to_unit(images), labels.long()))

    @torch.no_grad()
    def unlabelled(
        self, teacher: MeanTeacher, images: Tensor, known: Tensor, inside: Tensor, truth: Tensor
    ) -> UnlabelledView:
        """The teacher answers on the plain crop; crop and answer are then changed together.

        They are rescaled, mixed, jittered, blurred and flipped, in this order. Beyond the image
        there is no answer, whatever the teacher says: IGNORE, and confidence 0.

        Args:
            teacher: in train mode.
            images: ``(B_u, 3, H, W)`` uint8.
            known: ``(B_u, H, W)`` uint8, labels that override the teacher's.
            inside: ``(B_u, H, W)`` bool, False where a crop reaches beyond its image.
            truth: ``(B_u, H, W)`` uint8, for statistics alone; IGNORE where it is not at hand.
        """
        images = to_unit(images)
        with record_function("teacher"):
            labels, confidence = teacher.pseudo_label(images)
        judged = truth != IGNORE
        pseudo_accuracy = ((labels == truth) & judged).sum() / judged.sum()
        labels = torch.where(known != IGNORE, known.long(), labels).masked_fill(~inside, IGNORE)
        confidence = confidence.masked_fill(known != IGNORE, 1.0).masked_fill(~inside, 0.0)

        with record_function("augmentation"):
            view: tuple[Tensor, ...] = (images, labels, confidence, known)
            view = rescale_batch(*view, scale_range=self.scale_range)
            images, labels, confidence, known = photometric_flip(*self.mix(*view))
        return UnlabelledView(
            images=images,
            labels=labels,
            confidence=confidence,
            known=known != IGNORE,
            pseudo_accuracy=pseudo_accuracy,
        )
