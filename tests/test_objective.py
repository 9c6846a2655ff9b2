"""Eq. 5 against a hand-written literal, and views whose image, label and confidence agree."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import Network, losses_of
from torch import nn

from reco import IGNORE
from reco.loss import ReCoLoss
from reco.method import augmentation
from reco.method import views as module
from reco.method.objective import (
    Objective,
    confident_share,
    known_or_nearest_pixels,
    nearest_pixels,
    supervised_loss,
    threshold_loss,
    unsupervised_loss,
)
from reco.method.teacher import MeanTeacher
from reco.method.views import Views

C = 3


@pytest.fixture
def plain_views(monkeypatch):
    """Views without jitter, blur and flip, so that a hand calculation can follow."""
    monkeypatch.setattr(module, "photometric_flip", lambda *planes, **_: planes)


def uint8_batch(seed: int, count: int = 2, size: int = 16):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.randint(C, (count, size, size), generator=generator, dtype=torch.uint8)
    return images, labels


def everywhere(images):
    """``(B, H, W)`` without padding."""
    return torch.ones(len(images), *images.shape[2:], dtype=torch.bool)


def test_equation_5_by_hand(plain_views):
    torch.manual_seed(0)
    student, (images, labels) = Network(), uint8_batch(1)
    teacher = MeanTeacher(student)
    labels[0, :4] = IGNORE
    unlabelled, truth = uint8_batch(2)
    known = torch.full_like(truth, IGNORE)
    weak, strong = 0.9, 0.8
    reco = ReCoLoss(num_queries=8, num_negatives=8, strong_threshold=0.9)
    objective = Objective(
        unsupervised_threshold=strong,
        weak_threshold=weak,
        reco=reco,
        reco_weight=0.3,
    )
    torch.manual_seed(5)
    batch = (unlabelled, known, everywhere(unlabelled), truth)
    losses, statistics = losses_of(objective, Views(), student, teacher, (images, labels), batch)

    # The same by hand, pixel by pixel.
    torch.manual_seed(5)
    normal = unlabelled.float() / 255
    pseudo, confidence = teacher.pseudo_label(normal)
    right = (pseudo == truth).float().mean()
    mixed_images, mixed_labels, mixed_confidence = module.classmix(
        unlabelled.float() / 255, pseudo, confidence
    )
    logits, representations = student(torch.cat([images.float() / 255, mixed_images]))
    large = nn.functional.interpolate(logits, (16, 16), mode="bilinear", align_corners=False)
    log_probabilities = large.log_softmax(1)
    supervised, count = 0.0, 0
    for b in range(2):
        for y in range(16):
            for x in range(16):
                if labels[b, y, x] != IGNORE:
                    supervised -= log_probabilities[b, labels[b, y, x].item(), y, x].item()
                    count += 1
    supervised /= count
    unsupervised, etas = 0.0, []
    for b in range(2):
        above = sum(c > strong for c in mixed_confidence[b].flatten().tolist())
        etas.append(above / 256)
        for y in range(16):
            for x in range(16):
                answer = mixed_labels[b, y, x].item()
                unsupervised -= etas[-1] * log_probabilities[2 + b, answer, y, x].item() / 512
    assert min(etas) > 0
    assert max(etas) < 1

    # The pixel of a cell of 4 x 4 is the one below and right of its centre.
    all_labels = torch.cat([labels.long(), mixed_labels])[:, 2::4, 2::4]
    valid = torch.cat([labels != IGNORE, mixed_confidence > weak])[:, 2::4, 2::4]
    assert 0 < valid[2:].float().mean() < 1
    contrast = reco(representations, logits, all_labels, valid=valid)

    torch.testing.assert_close(losses.supervised.item(), supervised, rtol=1e-5, atol=0)
    torch.testing.assert_close(losses.unsupervised.item(), unsupervised, rtol=1e-5, atol=0)
    torch.testing.assert_close(losses.reco, 0.3 * contrast)
    torch.testing.assert_close(losses.total, losses.supervised + losses.unsupervised + losses.reco)
    torch.testing.assert_close(statistics.eta.item(), sum(etas) / 2, rtol=1e-6, atol=0)
    torch.testing.assert_close(statistics.pseudo_accuracy, right)


def test_thresholds_are_apart(plain_views):
    """η counts above δ_s of the method, ReCo's pixels above δ_w: each changes one term only."""
    torch.manual_seed(0)
    student = Network()
    teacher, batch, (unlabelled, truth) = MeanTeacher(student), uint8_batch(1), uint8_batch(2)

    def losses(**thresholds):
        objective = Objective(reco=ReCoLoss(num_queries=16, num_negatives=16), **thresholds)
        torch.manual_seed(3)
        known = torch.full_like(truth, IGNORE)
        planes = (unlabelled, known, everywhere(unlabelled), truth)
        return losses_of(objective, Views(mix="none"), student, teacher, batch, planes)[0]

    base = losses(unsupervised_threshold=0.8, weak_threshold=0.5)
    eta = losses(unsupervised_threshold=0.6, weak_threshold=0.5)
    weak = losses(unsupervised_threshold=0.8, weak_threshold=0.9)
    assert eta.unsupervised > base.unsupervised
    assert eta.reco == base.reco
    assert weak.unsupervised == base.unsupervised
    assert weak.reco != base.reco
    assert eta.supervised == weak.supervised == base.supervised


def test_keys_may_come_from_labelled_pixels_that_the_student_gets_right(plain_views):
    torch.manual_seed(0)
    student, (images, labels) = Network(), uint8_batch(1)
    labels[0, :4] = IGNORE
    given = {}

    class Spy(ReCoLoss):
        def with_statistics(self, *arguments, **named):
            given.update(named, logits=arguments[1], labels=arguments[2])
            return super().with_statistics(*arguments, **named)

    objective = Objective(
        weak_threshold=0.5, reco=Spy(num_queries=8, num_negatives=8), keys_from="right_labels"
    )
    unlabelled, truth = uint8_batch(2)
    known = torch.full_like(truth, IGNORE)
    planes = (unlabelled, known, everywhere(unlabelled), truth)
    losses, _ = losses_of(
        objective, Views(mix="none"), student, MeanTeacher(student), (images, labels), planes
    )
    expected = torch.zeros(4, 4, 4, dtype=torch.bool)
    for b, y, x in torch.cartesian_prod(*map(torch.arange, (2, 4, 4))).tolist():
        label = labels[b, 4 * y + 2, 4 * x + 2].item()
        scores = given["logits"][b, :, y, x].tolist()
        expected[b, y, x] = label != IGNORE and scores[label] == max(scores)
    assert torch.equal(given["key_pixels"], expected)
    assert 0 < expected.sum() < 28
    assert given["valid"][2:].any()  # queries still come from pseudo-labels too
    assert losses.reco > 0


def test_gradient_flows_from_every_term_and_not_into_the_teacher(plain_views):
    student = Network()
    teacher, batch, (unlabelled, truth) = MeanTeacher(student), uint8_batch(1), uint8_batch(2)
    objective = Objective(unsupervised_threshold=0.1, reco=ReCoLoss(num_queries=8, num_negatives=8))
    planes = (unlabelled, truth, everywhere(unlabelled), truth)
    losses, _ = losses_of(objective, Views(), student, teacher, batch, planes)
    for name in ("supervised", "unsupervised"):
        (gradient,) = torch.autograd.grad(
            getattr(losses, name), student.classifier.weight, retain_graph=True
        )
        assert gradient.abs().max() > 0
    losses.reco.backward()
    assert student.representation.weight.grad.abs().max() > 0
    assert student.classifier.weight.grad is None
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_without_teacher_and_with_nothing_labelled(plain_views):
    student, (images, labels) = Network(), uint8_batch(1)
    objective = Objective(reco=ReCoLoss(num_queries=8, num_negatives=8))
    losses, statistics = losses_of(objective, Views(), student, None, (images, labels))
    assert losses.unsupervised == 0
    assert losses.reco > 0
    assert math.isnan(statistics.eta)
    nothing = torch.full_like(labels, IGNORE)
    losses, _ = losses_of(objective, Views(), student, None, (images, nothing))
    assert losses.total == 0
    losses.total.backward()
    assert (student.representation.weight.grad == 0).all()


def test_known_labels_override_pseudo_labels(plain_views):
    student = Network()
    teacher, (unlabelled, truth) = MeanTeacher(student), uint8_batch(2)
    known = torch.full_like(truth, IGNORE)
    known[:, 5, 9] = 2
    view = Views(mix="none").unlabelled(teacher, unlabelled, known, everywhere(unlabelled), truth)
    pseudo, confidence = teacher.pseudo_label(unlabelled.float() / 255)
    assert (view.labels[:, 5, 9] == 2).all()
    assert (view.confidence[:, 5, 9] == 1).all()
    assert torch.equal(view.known, known != IGNORE)
    elsewhere = known == IGNORE
    assert torch.equal(view.labels[elsewhere], pseudo[elsewhere])
    assert torch.equal(view.confidence[elsewhere], confidence[elsewhere])


@pytest.mark.parametrize("size", [(4, 4), (5, 4), (7, 6), (16, 20)])
def test_every_known_cell_is_found(size):
    """A cell takes the pixel nearest to its centre, or a known one in it where that is unknown."""
    torch.manual_seed(0)
    known = torch.rand(3, 16, 20) < 0.05
    first_known = known_or_nearest_pixels(known, size)
    nearest = nearest_pixels(known, size)
    h, w = size
    for b in range(3):
        for i in range(h):
            for j in range(w):
                centre = (int((i + 0.5) * 16 / h), int((j + 0.5) * 20 / w))
                assert divmod(nearest[b, i, j].item(), 20) == centre
                y, x = divmod(first_known[b, i, j].item(), 20)
                rows = range(16 * i // h, -(-16 * (i + 1) // h))
                columns = range(20 * j // w, -(-20 * (j + 1) // w))
                assert y in rows
                assert x in columns
                inside = any(known[b, r, c] for r in rows for c in columns)
                assert known[b, y, x] == inside
                if not inside or known[b][centre]:
                    assert (y, x) == centre


def test_void_borders_stay_void_and_single_pixels_are_found():
    """The five void pixels that Pascal's annotators leave around each thing."""
    labels = torch.zeros(2, 64, 64, dtype=torch.long)
    labels[0, 20:50, 12:40] = 1
    labels[1, 5:30, 30:60] = 2
    borders = nn.functional.max_pool2d(labels.float()[:, None], 5, 1, 2)[:, 0]
    borders = borders != -nn.functional.max_pool2d(-labels.float()[:, None], 5, 1, 2)[:, 0]
    labels[borders] = IGNORE
    regions = Objective().regions(labels, None, (16, 16))
    pixels = torch.full_like(labels, IGNORE)
    pixels[0, 21, 13], pixels[0, 40, 36], pixels[1, 63, 0] = 1, 2, 0  # none in its cell's centre
    few = Objective(partial_labels=True).regions(pixels, None, (16, 16))
    for b in range(2):
        for i in range(16):
            for j in range(16):
                centre = labels[b, 4 * i + 2, 4 * j + 2]
                assert regions.labels[b, i, j] == centre
                assert regions.valid[b, i, j] == regions.known[b, i, j] == (centre != IGNORE)
                cell = pixels[b, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
                assert few.labels[b, i, j] == cell.min()  # IGNORE is above all classes
                assert few.valid[b, i, j] == (cell.min() != IGNORE)
    assert (regions.labels == IGNORE).sum() > 20
    assert few.valid.sum() == 3


def test_losses_are_zero_not_nan_where_nothing_is_valid():
    logits = torch.randn(2, C, 8, 8, requires_grad=True)
    nothing = torch.full((2, 8, 8), IGNORE)
    confidence = torch.ones(2, 8, 8)
    for loss in (
        supervised_loss(logits, nothing),
        threshold_loss(logits, nothing, confidence, strong_threshold=0.9),
        unsupervised_loss(logits, nothing, confidence, strong_threshold=0.9),
    ):
        assert loss == 0
        loss.backward()
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("value", [-1, C, 254, 256])
def test_labels_out_of_range_are_named_or_ignored(value, monkeypatch):
    logits, confidence = torch.randn(2, C, 4, 4), torch.ones(2, 4, 4)
    labels = torch.randint(C, (2, 4, 4))
    wrong, without = (labels.clone() for _ in range(2))
    wrong[0, 1, 2], without[0, 1, 2] = value, IGNORE
    terms = {
        "supervised_loss": supervised_loss,
        "unsupervised_loss": lambda logits, labels, **weights: unsupervised_loss(
            logits, labels, confidence, strong_threshold=0.5, **weights
        ),
    }
    for name, term in terms.items():
        with pytest.raises(ValueError, match=rf"{name}: labels holds \[{value}\]: expected 0 to 2"):
            term(logits, wrong)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # as on an accelerator
    for term in terms.values():
        for weights in (None, torch.tensor([1.0, 2.0, 3.0])):
            expected = term(logits, without, class_weights=weights)
            assert torch.equal(term(logits, wrong, class_weights=weights), expected)


def test_more_classes_than_labels_can_tell_from_ignore():
    with pytest.raises(ValueError, match="supervised_loss: 256 classes: expected at most 255"):
        supervised_loss(torch.randn(1, 256, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long))


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5]])
def test_threshold_loss_by_hand(plain_views, weights):
    """Of a view with padding: the sum over confident pixels by the weight of all valid ones."""
    torch.manual_seed(0)
    student, batch, (unlabelled, truth) = Network(), uint8_batch(1), uint8_batch(2)
    teacher = MeanTeacher(student)
    inside = everywhere(unlabelled)
    inside[0, :5] = False
    pseudo, confidence = teacher.pseudo_label(unlabelled.float() / 255)
    threshold = confidence[1, 7, 7].item()  # that pixel is at the threshold, and counts
    objective = Objective(
        unsupervised_loss="threshold", unsupervised_threshold=threshold, class_weights=weights
    )
    planes = (unlabelled, torch.full_like(truth, IGNORE), inside, truth)
    losses, _ = losses_of(objective, Views(mix="none"), student, teacher, batch, planes)
    logits, _ = student(torch.cat([batch[0], unlabelled]).float() / 255)
    large = nn.functional.interpolate(logits, (16, 16), mode="bilinear", align_corners=False)
    log_probabilities = large[2:].log_softmax(1)
    total = valid = confident = 0.0
    for b in range(2):
        for y in range(16):
            for x in range(16):
                if inside[b, y, x]:
                    answer = pseudo[b, y, x].item()
                    weight = 1.0 if weights is None else weights[answer]
                    valid += weight
                    if confidence[b, y, x].item() >= threshold:
                        confident += weight
                        total -= weight * log_probabilities[b, answer, y, x].item()
    assert 0.1 < confident / valid < 0.9
    torch.testing.assert_close(losses.unsupervised.item(), total / valid, rtol=1e-5, atol=0)


def test_eta_leaves_padding_out():
    labels = torch.zeros(2, 4, 4, dtype=torch.long)
    labels[0, :, 2:] = IGNORE
    confidence = torch.full((2, 4, 4), 0.99)
    confidence[0, 0, :2] = 0.5
    assert confident_share(labels, confidence, 0.97).tolist() == [0.75, 1.0]


@pytest.mark.parametrize("mix", ["classmix", "cutmix", "cutout", "none"])
def test_views_stay_aligned(mix, monkeypatch):
    """The label is painted into the colours and into the teacher's confidence: after rescaling,
    mixing, jitter, blur and flip, image, label and confidence still show the same class."""
    colours = torch.tensor([[230, 40, 40], [40, 230, 40], [40, 40, 230]], dtype=torch.uint8)

    class Oracle(nn.Module):
        """Labels by the colour, with a confidence that depends on the class."""

        def pseudo_label(self, images):
            labels = images.argmax(1)
            return labels, torch.tensor([0.6, 0.75, 0.9])[labels]

    # Nearest neighbours for the image too: colours stay those of single classes up to the blur.
    def nearest(images, old, at, ratio):
        rows, columns = at.long().clamp(0, 63)
        image = torch.arange(len(images))[:, None, None]
        pixels = images.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None]]
        return pixels.permute(0, 3, 1, 2)

    monkeypatch.setattr(augmentation, "_interpolated", nearest)
    views = Views(mix=mix, scale_range=(0.5, 1.5))
    regions_seen = pairs_seen = 0
    for seed in range(100):
        torch.manual_seed(seed)
        labels = torch.randint(C, (2, 4, 4)).repeat_interleave(16, 1).repeat_interleave(16, 2)
        images = colours[labels].permute(0, 3, 1, 2).contiguous()
        known = labels.byte().masked_fill(torch.rand(labels.shape) < 0.9, IGNORE)
        view = views.unlabelled(Oracle(), images, known, everywhere(images), labels.byte())
        assert view.pseudo_accuracy == 1
        valid = view.labels != IGNORE
        assert not view.known[~valid].any()
        assert view.known.any()
        expected = torch.tensor([0.6, 0.75, 0.9])[view.labels.clamp(max=C - 1)]
        expected[view.known] = 1
        assert torch.equal(view.confidence[valid], expected[valid])
        assert (view.confidence[~valid] == 0).all()
        # Out of reach of the blur, a label has one colour, and two labels have two. Jitter changes
        # colours, but those of a whole image alike.
        labels = view.labels.float()[:, None]
        flat = nn.functional.max_pool2d(labels, 9, 1, 4) == -nn.functional.max_pool2d(
            -labels, 9, 1, 4
        )
        for b in range(2):
            regions = [flat[b, 0] & valid[b] & (view.labels[b] == label) for label in range(C)]
            seen = [view.images[b][:, region] for region in regions if region.any()]
            assert all((values.amax(1) - values.amin(1)).max() < 0.01 for values in seen), seed
            means = [values.mean(1) for values in seen]
            regions_seen += len(seen)
            for i, first in enumerate(means):
                for second in means[i + 1 :]:
                    assert (first - second).abs().max() > 0.1
                    pairs_seen += 1
    assert regions_seen > 200
    assert pairs_seen > 100


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 4.0, 0.01)])
def test_class_weights_are_those_of_a_weighted_mean(weights):
    """As torch's weighted cross-entropy; η stays a factor of each image."""
    torch.manual_seed(0)
    logits, labels = torch.randn(2, C, 8, 8), torch.randint(C, (2, 8, 8))
    labels[0, :3] = IGNORE
    confidence = torch.rand(2, 8, 8)
    weight = torch.tensor(weights)
    expected = nn.functional.cross_entropy(logits, labels, weight, ignore_index=IGNORE)
    found = supervised_loss(logits, labels, class_weights=weight)
    torch.testing.assert_close(found, expected)
    pixels = [(b, y, x) for b in range(2) for y in range(8) for x in range(8)]
    total = above = 0.0
    eta = confident_share(labels, confidence, 0.4).tolist()
    for b, y, x in pixels:
        label = labels[b, y, x].item()
        if label != IGNORE:
            above -= eta[b] * weights[label] * logits[b, :, y, x].log_softmax(0)[label].item()
            total += weights[label]
    found = unsupervised_loss(
        logits, labels, confidence, strong_threshold=0.4, class_weights=weight
    )
    torch.testing.assert_close(found.item(), above / total, rtol=1e-5, atol=0)


def test_one_labelled_pixel_of_a_light_class_is_not_lost():
    """The weights' sum may be below 1, unlike a number of pixels."""
    logits = torch.randn(1, C, 4, 4)
    labels = torch.full((1, 4, 4), IGNORE)
    labels[0, 1, 2] = 1
    weighted = supervised_loss(logits, labels, class_weights=torch.tensor([1.0, 0.1, 1.0]))
    torch.testing.assert_close(weighted, supervised_loss(logits, labels))
    labels[:] = IGNORE
    assert supervised_loss(logits, labels, class_weights=torch.ones(C)) == 0


def test_objective_without_class_weights_is_bit_equal_and_with_them_both_terms_change(plain_views):
    torch.manual_seed(0)
    student, batch, (unlabelled, truth) = Network(), uint8_batch(1), uint8_batch(2)
    teacher, known = MeanTeacher(student), torch.full_like(truth, IGNORE)

    def losses(**options):
        torch.manual_seed(3)
        planes = (unlabelled, known, everywhere(unlabelled), truth)
        objective = Objective(unsupervised_threshold=0.4, **options)
        return losses_of(objective, Views(), student, teacher, batch, planes)[0]

    plain, none, weighted = losses(), losses(class_weights=None), losses(class_weights=(9, 1, 1))
    assert torch.equal(plain.total, none.total)
    assert plain.supervised != weighted.supervised
    assert plain.unsupervised != weighted.unsupervised
    assert plain.unsupervised > 0


def test_a_step_with_one_class_says_that_it_had_no_negatives(plain_views):
    student, (images, labels) = Network(), uint8_batch(1)
    objective = Objective(reco=ReCoLoss(num_queries=8, num_negatives=8))
    losses, statistics = losses_of(objective, Views(), student, None, (images, labels))
    assert statistics.without_negatives == 0
    assert losses.reco > 0
    one = (images, torch.zeros_like(labels))
    losses, statistics = losses_of(objective, Views(), student, None, one)
    assert statistics.without_negatives == 1
    assert losses.reco == 0
    _, statistics = losses_of(Objective(), Views(), student, None, one)
    assert statistics.without_negatives.isnan()


def test_a_step_whose_keys_are_of_one_class_had_no_negatives(plain_views, monkeypatch):
    """With keys from right labels alone, a class may be present without any."""
    reco = ReCoLoss(num_queries=8, num_negatives=8)
    with_statistics = reco.with_statistics

    def keys_of_class_0(*inputs, key_pixels, **arguments):
        return with_statistics(*inputs, key_pixels=key_pixels & (inputs[2] == 0), **arguments)

    monkeypatch.setattr(reco, "with_statistics", keys_of_class_0)
    objective = Objective(reco=reco, keys_from="right_labels")
    losses, statistics = losses_of(objective, Views(), Network(), None, uint8_batch(1))
    assert statistics.reco.present.sum() > 1
    assert (losses.reco, statistics.without_negatives) == (0, 1)
