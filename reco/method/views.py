"""The augmented views of a batch, and their targets.

Shapes: B_l labelled and B_u unlabelled images of one crop size H x W, both uint8 (B, 3, H, W);
labels (B, H, W) uint8 with IGNORE where nothing is known. V strong views of each unlabelled image
make V * B_u images: all of the first view, then all of the second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function  # names the phases for `--profile`

from reco import IGNORE
from reco.method.augmentation import photometric_flip, rescale_batch, to_unit
from reco.method.feature_dropout import complementary_dropout
from reco.method.mixing import classmix, cutmix, cutout
from reco.method.teacher import MeanTeacher


class LabelledView(NamedTuple):
    """Augmented images with ground truth."""

    images: Tensor  # (B_l, 3, H, W) in [0, 1]
    labels: Tensor  # (B_l, H, W) int64, IGNORE where unknown


class UnlabelledView(NamedTuple):
    """Augmented unlabelled images and their pseudo-labels."""

    images: Tensor  # (V * B_u, 3, H, W) in [0, 1]
    labels: Tensor  # (V * B_u, H, W) int64
    confidence: Tensor  # (V * B_u, H, W) of the teacher, 1 where the label is known
    known: Tensor  # (V * B_u, H, W) bool: the label is ground truth
    pseudo_accuracy: Tensor  # () share of right labels where the truth is known, else NaN
    # (V * B_u, C_l) on the channels of each map of the student's encoder; None: no dropout there.
    feature_factors: tuple[Tensor, ...] | None = None


class Views:
    """Makes the views of a batch.

    Args:
        mix: how unlabelled images are mixed.
        scale_range: random scale of the student's view of an unlabelled crop.
        cutmix_probability: of a box, as :func:`~reco.method.mixing.cutmix` takes it.
        cutmix_area: of a box, likewise.
        cutmix_aspect: of a box, likewise.
        strong_views: V, number of the student's views of each unlabelled image. They share the
            pseudo-label and the scale; mixing, colours, blur and flip differ.
        jitter: of the unlabelled images' colours, as
            :func:`~reco.method.augmentation.photometric_flip` takes it, as the next two.
        grey: probability that an unlabelled image loses its colours.
        blur: range of σ of the unlabelled images' blur, in pixels.
        dropout_channels: C_l of the maps of the student's encoder, for complementary dropout
            between two views; see :mod:`reco.method.feature_dropout`. None: without it.

    Raises:
        ValueError: dropout between other than two views.
    """

    def __init__(
        self,
        *,
        mix: Literal["classmix", "cutmix", "cutout", "none"] = "classmix",
        scale_range: tuple[float, float] = (1.0, 1.0),
        cutmix_probability: float = 1.0,
        cutmix_area: tuple[float, float] = (0.5, 0.5),
        cutmix_aspect: tuple[float, float] | None = None,
        strong_views: int = 1,
        jitter: tuple[float, float, float, float] = (0.25, 0.25, 0.25, 0.25),
        grey: float = 0.0,
        blur: tuple[float, float] = (0.15, 1.15),
        dropout_channels: Sequence[int] | None = None,
    ) -> None:
        if dropout_channels is not None and strong_views != 2:
            raise ValueError(f"dropout_channels: expected strong_views = 2, got {strong_views}")
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
        self.strong_views = strong_views
        self.change_colours = partial(photometric_flip, jitter=jitter, grey=grey, blur=blur)
        self.dropout_channels = dropout_channels

    @torch.no_grad()
    def labelled(self, images: Tensor, labels: Tensor) -> LabelledView:
        """Jitter, blur and flip crops.

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
        """Pseudo-label the plain crops, then augment crops and pseudo-labels together.

        They are rescaled, mixed, jittered, blurred and flipped, in this order, from the mixing on
        once for each strong view. Pixels beyond the image are IGNORE, with confidence 0.

        Args:
            teacher: in train mode.
            images: ``(B_u, 3, H, W)`` uint8.
            known: ``(B_u, H, W)`` uint8, labels that override the teacher's.
            inside: ``(B_u, H, W)`` bool, False where a crop reaches beyond its image.
            truth: ``(B_u, H, W)`` uint8, for statistics alone; IGNORE where unknown.
        """
        images = to_unit(images)
        with record_function("teacher"):
            labels, confidence = teacher.pseudo_label(images)
        judged = truth != IGNORE
        pseudo_accuracy = ((labels == truth) & judged).sum() / judged.sum()
        labels = torch.where(known != IGNORE, known.long(), labels).masked_fill(~inside, IGNORE)
        confidence = confidence.masked_fill(known != IGNORE, 1.0).masked_fill(~inside, 0.0)

        with record_function("augmentation"):
            weak = rescale_batch(images, labels, confidence, known, scale_range=self.scale_range)
            strong = [self.change_colours(*self.mix(*weak)) for _ in range(self.strong_views)]
            images, labels, confidence, known = map(torch.cat, zip(*strong, strict=True))
            factors = None
            if self.dropout_channels is not None:
                factors = complementary_dropout(
                    len(weak[0]), self.dropout_channels, device=images.device
                )
        return UnlabelledView(
            images=images,
            labels=labels,
            confidence=confidence,
            known=known != IGNORE,
            pseudo_accuracy=pseudo_accuracy,
            feature_factors=factors,
        )
