"""Two strong views of an unlabelled image, and complementary dropout, against loops over pixels."""

from __future__ import annotations

import pytest
import torch
from conftest import Network, losses_of
from torch import nn

from reco import IGNORE
from reco.config import ConfigError
from reco.data.loading import TrainSample
from reco.loss import ReCoLoss
from reco.method import views as views_module
from reco.method.feature_dropout import complementary_dropout
from reco.method.mixing import cutmix
from reco.method.objective import Objective
from reco.method.teacher import MeanTeacher
from reco.method.views import LabelledView, Views
from reco.models.network import SegmentationNetwork
from reco.runs.checkpoint import load_checkpoint
from reco.seeding import stable_seed
from reco.training.build import build_run
from reco.training.trainer import Trainer, train

SIZE, C = 16, 3


def test_both_views_reach_every_term(monkeypatch):
    """One pseudo-label, two mixtures of it; losses are means over the pixels of both."""
    changed = {"jitter": (0.5, 0.5, 0.5, 0.25), "grey": 0.2, "blur": (0.1, 2.0)}
    seen = []

    def flip(images, *masks, **options):  # in place of random colours: the second view upside down
        seen.append(options)
        planes = (images, *masks)
        return planes if len(seen) == 1 else tuple(plane.flip(-2) for plane in planes)

    monkeypatch.setattr(views_module, "photometric_flip", flip)
    torch.manual_seed(0)
    student = Network()
    teacher = MeanTeacher(student)
    labelled = torch.randint(256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    labels = torch.randint(C, (2, SIZE, SIZE), dtype=torch.uint8)
    images = torch.randint(256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    truth = torch.randint(C, (2, SIZE, SIZE), dtype=torch.uint8)
    known = torch.full_like(truth, IGNORE)
    inside = torch.ones_like(truth, dtype=torch.bool)
    inside[0, :, 12:] = False
    reco = ReCoLoss(num_queries=64, num_negatives=64)
    objective = Objective(
        unsupervised_loss="threshold", unsupervised_threshold=0.6, weak_threshold=0.55, reco=reco
    )
    boxes = {"probability": 0.5, "area": (0.02, 0.4), "aspect": (0.3, 3.3)}
    views = Views(
        mix="cutmix", strong_views=2, **{f"cutmix_{k}": v for k, v in boxes.items()}, **changed
    )
    labelled_view = LabelledView(labelled / 255, labels.long())
    torch.manual_seed(7)
    view = views.unlabelled(teacher, images, known, inside, truth)
    assert seen == [changed, changed]
    losses, statistics = objective(student, labelled_view, view)

    torch.manual_seed(7)
    answers, confidence = teacher.pseudo_label(images / 255)
    answers[~inside], confidence[~inside] = IGNORE, 0.0
    first, second = (cutmix(images / 255, answers, confidence, **boxes) for _ in range(2))
    second = tuple(plane.flip(-2) for plane in second)
    assert not torch.equal(first[1], second[1].flip(-2))
    expected, pixels = 0.0, 0
    for mixed, answer, certain in (first, second):
        logits = nn.functional.interpolate(
            student(mixed)[0], (SIZE, SIZE), mode="bilinear", align_corners=False
        )
        for b, y, x in torch.cartesian_prod(*map(torch.arange, (2, SIZE, SIZE))).tolist():
            if answer[b, y, x] != IGNORE:
                pixels += 1
                if certain[b, y, x] >= 0.6:
                    expected -= logits[b, :, y, x].log_softmax(0)[answer[b, y, x]].item()
    torch.testing.assert_close(losses.unsupervised.item(), expected / pixels, rtol=1e-5, atol=0)

    regions = objective.regions(labelled_view.labels, view, (4, 4))
    at_centres = [torch.cat(pair)[:, 2::4, 2::4] for pair in zip(first, second, strict=True)]
    assert torch.equal(regions.labels[2:], at_centres[1])
    assert torch.equal(regions.valid[2:], at_centres[2] > 0.55)
    assert regions.valid[2:4].any()
    assert regions.valid[4:].any()
    assert statistics.reco.valid_pixels == regions.valid.sum()


def test_complementary_dropout_by_hand():
    """Channels that a view lacks, the other has twice; half of the images keep all channels."""
    channels = (8, 5, 8)
    factors = complementary_dropout(5, channels, generator=torch.Generator().manual_seed(3))
    assert [tuple(each.shape) for each in factors] == [(10, 8), (10, 5), (10, 8)]
    assert torch.equal(factors[0], factors[2])  # one mask for maps of one width
    whole = 0
    for image in range(5):
        rows = [(each[image].tolist(), each[5 + image].tolist()) for each in factors]
        is_whole = {value for pair in rows for row in pair for value in row} == {1.0}
        whole += is_whole
        for first, second in rows:
            for m, rest in zip(first, second, strict=True):
                assert m + rest == 2
                assert is_whole or m in (0, 2)
    assert whole == 2
    many = complementary_dropout(2000, (16,), generator=torch.Generator().manual_seed(3))[0]
    dropped = (many[:2000] == 0).float().mean()
    torch.testing.assert_close(dropped.item(), 0.25, rtol=0, atol=0.02)  # half of a half


@pytest.mark.parametrize("backbone", ["resnet18", "timm/vit_tiny_patch16_224"])
def test_factors_multiply_every_map_of_the_encoder(backbone):
    torch.manual_seed(0)
    network = SegmentationNetwork(C, backbone=backbone, weights="none", channels=8).eval()
    images = torch.rand(2, 3, 64, 64)
    widths = network.encoder.channels
    factors = [2.0 * torch.randint(2, (2, width)) for width in widths]
    output = network(images, feature_factors=factors)
    maps = network.encoder((images - network.mean) / network.std)
    for level, features in enumerate(maps):
        for b in range(2):
            for channel in range(widths[level]):
                features[b, channel] *= factors[level][b, channel]
    logits = network.classifier(network.decoder(maps))
    torch.testing.assert_close(output.logits, logits)
    assert not torch.equal(output.logits, network(images).logits)


def test_labelled_images_keep_their_channels():
    given = []

    class Recording(Network):
        def forward(self, images, *, feature_factors):
            given.extend(feature_factors)
            return super().forward(images)

    torch.manual_seed(0)
    student = Recording()
    teacher = MeanTeacher(Network())
    images = torch.randint(256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    labels = torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)
    views = Views(mix="none", strong_views=2, dropout_channels=(7, 4))
    batch = (images, torch.full_like(labels, IGNORE), torch.ones_like(labels).bool(), labels)
    losses_of(Objective(), views, student, teacher, (images, labels), batch)
    assert [tuple(each.shape) for each in given] == [(6, 7), (6, 4)]
    for each in given:
        assert (each[:2] == 1).all()
        assert (each[2:4] + each[4:] == 2).all()
        assert (each[2:4] == 0).any()


def test_dropout_needs_two_views(tiny):
    with pytest.raises(ValueError, match=r"strong_views = 2, got 1"):
        Views(dropout_channels=(4,))
    with pytest.raises(ConfigError, match=r"method\.feature_dropout = True.*strong_views = 2"):
        tiny("method.feature_dropout=true")
    config = tiny("method.feature_dropout=true", "method.strong_views=2")
    with pytest.raises(ConfigError, match=r"method\.feature_dropout = true.*Network"):
        build_run(config, network=Network())


def test_a_batch_in_parts_has_the_mean_of_their_gradients(tiny, tmp_path):
    """Three parts of 1 + 2 images: one step along the mean of their gradients."""
    sizes = ("train.labelled_batch_size=3", "train.unlabelled_batch_size=6")
    trainer = Trainer(build_run(tiny(*sizes, "train.accumulation_steps=3")), tmp_path / "run")
    labelled, unlabelled = next(trainer.batches())
    parameters = dict(trainer.student.named_parameters())
    expected = {name: torch.zeros_like(p) for name, p in parameters.items()}
    totals = []
    torch.manual_seed(stable_seed("step", trainer.config.train.seed, 0, 0))
    for part in range(3):
        losses, _ = trainer.losses(
            TrainSample(*(tensor[part : part + 1] for tensor in labelled)),
            TrainSample(*(tensor[2 * part : 2 * part + 2] for tensor in unlabelled)),
        )
        totals.append(losses.total.item())
        gradients = torch.autograd.grad(losses.total, list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            expected[name] += gradient / 3
    results = trainer.train_step(labelled, unlabelled)
    assert [losses.total.item() for losses, _ in results] == totals
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.grad, expected[name])
    trainer.meter.add(results)
    means, _, steps, _ = trainer.meter.read()
    assert (means["total"], steps) == (pytest.approx(sum(totals) / 3), 1)


@pytest.mark.parametrize(
    ("key", "images"), [("labelled_batch_size", 3), ("unlabelled_batch_size", 2)]
)
def test_a_batch_that_cannot_be_parted_is_an_error(tiny, key, images):
    config = tiny(f"train.{key}={images}", "train.accumulation_steps=2")
    expected = rf"train\.{key} = {images}.*1 processes times train\.accumulation_steps = 2, "
    with pytest.raises(ConfigError, match=expected):
        build_run(config)


def test_a_run_of_two_views_resumes_bit_for_bit(tiny, tmp_path):
    """Two views, dropout, thresholds, ReCo on both, two parts a step: 4 steps are 2 and 2."""
    config = tiny(
        "method.mix=cutmix",
        "method.strong_views=2",
        "method.feature_dropout=true",
        "method.grey_probability=0.2",
        "method.unsupervised_loss=threshold",
        "method.unsupervised_threshold=0.5",
        "train.labelled_batch_size=2",
        "train.unlabelled_batch_size=4",
        "train.accumulation_steps=2",
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config, whole)
    interrupted = Trainer(build_run(config), parts)
    step = interrupted.train_step

    def step_or_stop(*batch):
        if interrupted.iteration == 2:
            raise KeyboardInterrupt
        return step(*batch)

    interrupted.train_step = step_or_stop
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    assert train(config, parts, resume=True).finished
    first, second = (load_checkpoint(folder / "last.pt") for folder in (whole, parts))
    for network in ("student", "teacher"):
        for name, values in first[network].items():
            if isinstance(values, torch.Tensor):
                assert torch.equal(values, second[network][name]), name
