"""The training objective, Eq. 5: supervised + η · unsupervised + ReCo.

In place of η, one weight for all pixels of an image, a threshold may select pixels (FixMatch).

Shapes: B_l labelled and B_u unlabelled images of one size H x W, floating (B, 3, H, W) in [0, 1];
labels (B, H, W) int64 with IGNORE where nothing is known; h x w is the network's output size.

The images are augmented already, by :mod:`reco.method.views` or another pipeline. With partial
labels, the images that serve as unlabelled have labels of a few pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function  # names the phases for `--profile`

from reco import IGNORE, distributed
from reco.loss import ReCoLoss, ReCoStatistics
from reco.method.check_labels import checked_labels
from reco.method.second_head import SampledCrossEntropy
from reco.method.views import LabelledView, UnlabelledView


class Losses(NamedTuple):
    """Eq. 5 and its terms, scalars on the device. ``total`` is what is minimised."""

    total: Tensor
    supervised: Tensor
    unsupervised: Tensor  # weighted by η of each image, or over confident pixels alone
    reco: Tensor  # multiplied by `reco_weight`


class StepStatistics(NamedTuple):
    """Statistics of a step, kept on the device until the trainer logs them."""

    eta: Tensor  # () mean over the views of unlabelled images
    above_weak: Tensor  # () share of unlabelled pixels whose confidence is above δ_w
    above_strong: Tensor  # () and above δ_s
    pseudo_accuracy: Tensor  # () share of right pseudo-labels where the truth is known, else NaN
    labelled_pixels: Tensor  # () share of the labelled crops that reaches the supervised loss
    known_pixels: Tensor  # () share of the unlabelled views whose label is known (partial labels)
    known_in_reco: Tensor  # () share of ReCo's valid pixels whose label is known
    without_negatives: Tensor  # () 1 where ReCo had fewer than two classes and added 0, else 0
    reco: ReCoStatistics | None = None


class Regions(NamedTuple):
    """What ReCo works on, at the network's output size."""

    labels: Tensor  # (B, h, w) int64
    valid: Tensor  # (B, h, w) bool
    known: Tensor  # (B, h, w) bool: the label is ground truth


class Objective(nn.Module):
    """Computes Eq. 5 on a batch.

    Args:
        partial_labels: few pixels are labelled, so that a cell of the network's output takes any
            known pixel in it for ReCo; else it takes the pixel nearest to its centre.
        unsupervised_loss: ``share`` weighs each unlabelled image by η, as the paper; ``threshold``
            takes confident pixels alone, see :func:`threshold_loss`.
        unsupervised_threshold: δ_s of η, or of single pixels, in [0, 1].
        weak_threshold: δ_w: an unlabelled pixel takes part in ReCo only above it, in [0, 1].
        reco: the ReCo loss, or a control in its place; ``None`` to train without either.
        reco_weight: factor on it.
        keys_from: which pixels ReCo's keys come from: ``all`` that take part, or ``right_labels``:
            those with ground truth to which the student gives their class (as in PixCon,
            arXiv 2607.03068).
        class_weights: one number for each class, for both cross-entropies; ``None``: all alike.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        partial_labels: bool = False,
        unsupervised_loss: Literal["share", "threshold"] = "share",
        unsupervised_threshold: float = 0.97,
        weak_threshold: float = 0.7,
        reco: ReCoLoss | SampledCrossEntropy | None = None,
        reco_weight: float = 1.0,
        keys_from: Literal["all", "right_labels"] = "all",
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.partial_labels = partial_labels
        self.unsupervised_loss = unsupervised_loss
        self.unsupervised_threshold = unsupervised_threshold
        self.weak_threshold = weak_threshold
        self.reco = reco
        self.reco_weight = reco_weight
        self.keys_from = keys_from
        weights = (
            None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        )
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(
        self,
        student: nn.Module,
        labelled: LabelledView,
        unlabelled: UnlabelledView | None = None,
    ) -> tuple[Losses, StepStatistics]:
        """Losses of one batch.

        Args:
            student: in train mode; images to logits and representations (or ``None``), with
                ``feature_factors`` where the view has some.
            labelled: images with ground truth.
            unlabelled: images with pseudo-labels; ``None`` trains on labelled images alone.

        Returns:
            The losses, connected to the student, and statistics.
        """
        labels, view = labelled.labels, unlabelled
        images = labelled.images if view is None else torch.cat([labelled.images, view.images])

        with record_function("student"):
            images = images.contiguous(memory_format=torch.channels_last)
            if view is None or view.feature_factors is None:
                logits, representations = student(images)
            else:  # the labelled images keep all channels
                factors = [
                    F.pad(f, (0, 0, len(labels), 0), value=1.0) for f in view.feature_factors
                ]
                logits, representations = student(images, feature_factors=factors)

        with record_function("cross-entropy"):
            full_size = F.interpolate(
                logits.float(), labels.shape[1:], mode="bilinear", align_corners=False
            )
            supervised = supervised_loss(
                full_size[: len(labels)], labels, class_weights=self.class_weights
            )
            unsupervised = supervised.new_zeros(())
            if view is not None:
                unsupervised = _UNSUPERVISED[self.unsupervised_loss](
                    full_size[len(labels) :],
                    view.labels,
                    view.confidence,
                    strong_threshold=self.unsupervised_threshold,
                    class_weights=self.class_weights,
                )

        reco, regions, reco_statistics = supervised.new_zeros(()), None, None
        if self.reco is not None:
            with record_function("ReCo"):
                regions = self.regions(labels, view, logits.shape[2:])
                key_pixels = None
                if self.keys_from == "right_labels":
                    key_pixels = regions.known & (logits.argmax(1) == regions.labels)
                reco, reco_statistics = self.reco.with_statistics(
                    representations,
                    logits,
                    regions.labels,
                    valid=regions.valid,
                    key_pixels=key_pixels,
                )
                reco = self.reco_weight * reco

        losses = Losses(supervised + unsupervised + reco, supervised, unsupervised, reco)
        with record_function("statistics"):
            statistics = self._statistics(labels, view, regions, reco_statistics)
        return losses, statistics

    @torch.no_grad()
    def regions(self, labels: Tensor, view: UnlabelledView | None, size: Sequence[int]) -> Regions:
        """Labels of all images for ReCo at the network's output ``size`` ``(h, w)``.

        Ground truth takes part wherever there is some, a pseudo-label above δ_w (Section 3.3).

        Args:
            labels: ``(B_l, H, W)`` int64 ground truth.
            view: the unlabelled images, if any.
            size: ``(h, w)``.
        """
        known = labels != IGNORE
        valid = known
        if view is not None:
            labels = torch.cat([labels, view.labels])
            valid = torch.cat([valid, view.known | (view.confidence > self.weak_threshold)])
            known = torch.cat([known, view.known])
        pixels = (known_or_nearest_pixels if self.partial_labels else nearest_pixels)(known, size)
        return Regions(*(_take(values, pixels) for values in (labels, valid, known)))

    @torch.no_grad()
    def _statistics(
        self,
        labels: Tensor,
        view: UnlabelledView | None,
        regions: Regions | None,
        reco: ReCoStatistics | None,
    ) -> StepStatistics:
        nothing = torch.full((), torch.nan, device=labels.device)
        eta = above_weak = above_strong = pseudo_accuracy = known_pixels = nothing
        if view is not None:
            pixels = (view.labels != IGNORE).sum()
            strong = self.unsupervised_threshold
            eta = confident_share(view.labels, view.confidence, strong).mean()
            above_weak = (view.confidence > self.weak_threshold).sum() / pixels
            above_strong = (view.confidence > strong).sum() / pixels
            pseudo_accuracy = view.pseudo_accuracy
            known_pixels = view.known.float().mean()
        known_in_reco = without_negatives = nothing
        if regions is not None and reco is not None:
            known_in_reco = (regions.known & regions.valid).sum() / regions.valid.sum()
            has_keys = ~reco.relation_graph.diagonal().isnan()
            without_negatives = (has_keys.sum() < 2).float()
        return StepStatistics(
            eta=eta,
            above_weak=above_weak,
            above_strong=above_strong,
            pseudo_accuracy=pseudo_accuracy,
            labelled_pixels=(labels != IGNORE).float().mean(),
            known_pixels=known_pixels,
            known_in_reco=known_in_reco,
            without_negatives=without_negatives,
            reco=reco,
        )


def supervised_loss(
    logits: Tensor, labels: Tensor, *, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy, averaged over the labelled pixels of all ranks; 0 where there are none.

    Args:
        logits: ``(B, C, H, W)``.
        labels: ``(B, H, W)`` int64, IGNORE where unknown.
        class_weights: ``(C,)``; the average is then a weighted one, as in torch.

    Raises:
        ValueError: a label out of range; see :func:`reco.method.check_labels.checked_labels`.
    """
    labels = checked_labels(labels, logits.shape[1], "supervised_loss")
    losses = F.cross_entropy(logits, labels, class_weights, ignore_index=IGNORE, reduction="none")
    return _mean_over_ranks(losses, _pixel_weights(labels, class_weights))


def unsupervised_loss(
    logits: Tensor,
    labels: Tensor,
    confidence: Tensor,
    *,
    strong_threshold: float,
    class_weights: Tensor | None = None,
) -> Tensor:
    """η · cross-entropy on pseudo-labels (Eq. 5), averaged over valid pixels; 0 without any.

    Args:
        logits: ``(B, C, H, W)`` of the student.
        labels: ``(B, H, W)`` int64 pseudo-labels, IGNORE beyond the image.
        confidence: ``(B, H, W)`` of the teacher, on the same view.
        strong_threshold: δ_s of η.
        class_weights: ``(C,)``; the average is then a weighted one.

    Raises:
        ValueError: a label out of range; see :func:`reco.method.check_labels.checked_labels`.
    """
    labels = checked_labels(labels, logits.shape[1], "unsupervised_loss")
    eta = confident_share(labels, confidence, strong_threshold)
    losses = F.cross_entropy(logits, labels, class_weights, ignore_index=IGNORE, reduction="none")
    return _mean_over_ranks(losses * eta[:, None, None], _pixel_weights(labels, class_weights))


def threshold_loss(
    logits: Tensor,
    labels: Tensor,
    confidence: Tensor,
    *,
    strong_threshold: float,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of confident pixels, averaged over all valid ones; 0 without any.

    A pixel is confident at ``strong_threshold`` or above it. Sohn et al., "FixMatch", NeurIPS 2020;
    pixel by pixel as in UniMatch, CVPR 2023. Arguments and errors as for :func:`unsupervised_loss`.
    """
    labels = checked_labels(labels, logits.shape[1], "threshold_loss")
    losses = F.cross_entropy(logits, labels, class_weights, ignore_index=IGNORE, reduction="none")
    confident = losses.where(confidence >= strong_threshold, 0)
    return _mean_over_ranks(confident, _pixel_weights(labels, class_weights))


_UNSUPERVISED = {"share": unsupervised_loss, "threshold": threshold_loss}


def confident_share(labels: Tensor, confidence: Tensor, threshold: float) -> Tensor:
    """η of each image, ``(B,)``: share of its valid pixels with confidence above ``threshold``."""
    valid = labels != IGNORE
    confident = valid & (confidence > threshold)
    return confident.sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)


def nearest_pixels(planes: Tensor, size: Sequence[int]) -> Tensor:
    """Which pixel of ``(H, W)`` lies under the centre of each cell of ``(h, w)``.

    Args:
        planes: ``(B, H, W)``.
        size: ``(h, w)``.

    Returns:
        ``(B, h, w)`` int64, index into the ``H * W`` pixels.
    """
    rows, columns = (
        (2 * torch.arange(cells, device=planes.device) + 1) * extent // (2 * cells)
        for extent, cells in zip(planes.shape[1:], size, strict=True)
    )
    return (rows[:, None] * planes.shape[2] + columns).expand(len(planes), -1, -1)


def known_or_nearest_pixels(known: Tensor, size: Sequence[int]) -> Tensor:
    """As :func:`nearest_pixels`, but prefers a known pixel of the cell, where it has one.

    Without this, fifteen of sixteen single labelled pixels would be lost at a quarter of the size.
    Not for full labels: it would extend them into the void borders of objects.

    Args:
        known: ``(B, H, W)`` bool.
        size: ``(h, w)``.
    """
    nearest = nearest_pixels(known, size)
    has_known, first_known = F.adaptive_max_pool2d(
        known[:, None].float(), tuple(size), return_indices=True
    )
    instead = (has_known[:, 0] > 0) & ~_take(known, nearest)
    return torch.where(instead, first_known[:, 0], nearest)


def _take(values: Tensor, pixels: Tensor) -> Tensor:
    """``values`` (B, H, W) at ``pixels`` (B, h, w) of their flattened planes."""
    return values.flatten(1).gather(1, pixels.flatten(1)).view(pixels.shape)


def _pixel_weights(labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """``(B, H, W)``: how much each pixel counts in an average; 0 (or False) where IGNORE."""
    valid = labels != IGNORE
    if class_weights is None:
        return valid
    return class_weights[labels.where(valid, 0)] * valid


def _mean_over_ranks(losses: Tensor, weights: Tensor) -> Tensor:
    """Mean by the pixels' weights over all ranks, as this rank's share times the number of ranks.

    DDP's average over ranks is then the mean that one process would compute.

    Args:
        losses: weighted already.
        weights: 0, or False, for pixels that have none.
    """
    total = distributed.sum_over_ranks(weights.sum())
    return losses.sum() * distributed.world_size() / (total + (total == 0))
