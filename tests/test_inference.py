"""Inference on whole images, by windows, at several scales and mirrored."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reco import IGNORE
from reco.data.loading import EvalSample
from reco.inference.evaluate_networks import evaluate
from reco.inference.probabilities import (
    InferenceMode,
    predict_probabilities,
    window_starts,
    window_weight,
)
from reco.method.augmentation import to_unit
from reco.metrics import ConfusionMatrix

BLENDS = ("uniform", "hann")


def test_windows_leave_no_pixel_uncovered():
    for window in (1, 2, 5, 16):
        for extent in {window, window + 1, 2 * window, 61}:
            if extent < window:
                continue
            for overlap in (0.0, 0.3, 0.9):
                for margin in {0, 1, (window - 1) // 2}:
                    if 2 * margin >= window:
                        continue
                    for blend in BLENDS:
                        covered = torch.zeros(extent)
                        starts = window_starts(extent, window, overlap, margin)
                        for start in starts:
                            weight = window_weight(extent, window, start, blend, margin)
                            covered[start : start + window] += weight
                        case = (window, extent, overlap, margin, blend)
                        assert covered.min() > 0, case
                        assert starts[0] == 0, case
                        assert starts[-1] == extent - window, case


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("size", [(40, 57), (16, 20), (9, 50), (3, 3)])
def test_sliding_window_equals_whole_image_for_a_pointwise_network(blend, size):
    torch.manual_seed(0)
    network = nn.Conv2d(3, 4, 1)
    images = torch.rand(2, 3, *size)
    mode = InferenceMode(window=(16, 20), overlap=0.4, blend=blend)
    torch.testing.assert_close(
        predict_probabilities(network, images, mode), predict_probabilities(network, images)
    )


@pytest.mark.parametrize("blend", BLENDS)
def test_sliding_window_equals_whole_image_within_the_receptive_field(blend):
    """A network that sees 3 pixels around: exact once 3 pixels at inner borders are not used."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    images = torch.rand(1, 3, 50, 61)
    whole = predict_probabilities(network, images)
    exact = InferenceMode(window=(24, 20), overlap=0.5, blend=blend, margin=3)
    torch.testing.assert_close(predict_probabilities(network, images, exact), whole)
    careless = InferenceMode(window=(24, 20), overlap=0.5, blend=blend, margin=2)
    assert (predict_probabilities(network, images, careless) - whole).abs().max() > 1e-5


def test_scales_and_flip_average_probabilities():
    torch.manual_seed(0)
    network = nn.Conv2d(3, 4, 3, padding=1)
    images = torch.rand(1, 3, 20, 24)
    mode = InferenceMode(scales=(1.0, 0.5), flip=True)
    inputs, expected = images, []
    for scale in (1.0, 0.5):
        view = nn.functional.interpolate(
            inputs,
            (int(20 * scale), int(24 * scale)),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        for logits in (network(view), network(view.flip(3)).flip(3)):
            large = nn.functional.interpolate(
                logits, (20, 24), mode="bilinear", align_corners=False
            )
            expected.append(large.softmax(1))
    torch.testing.assert_close(
        predict_probabilities(network, images, mode), torch.stack(expected).mean(0)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"overlap": 1.0}, "overlap = 1.0"),
        ({"blend": "han"}, "blend = 'han'.*hann"),
        ({"scales": (0.0,)}, "scales"),
        ({"window": (0, 3)}, "window"),
        ({"window": (8, 8), "margin": 4}, "margin = 4"),
    ],
)
def test_modes_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        InferenceMode(**arguments)


def samples(count: int):
    generator = torch.Generator().manual_seed(0)
    for index in range(count):
        image = torch.randint(256, (1, 3, 16, 20), generator=generator, dtype=torch.uint8)
        label = torch.randint(4, (1, 16, 20), generator=generator, dtype=torch.uint8)
        label[:, 0] = IGNORE
        yield EvalSample(image, label, torch.tensor([index]))


def test_evaluate_counts_what_the_networks_say():
    torch.manual_seed(0)
    networks = {
        name: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout()) for name in "ab"
    }
    networks["b"][2].eval()
    results = evaluate(networks, samples(3), 4, device="cpu", num_examples=2)
    assert networks["a"].training
    assert networks["b"][1].training
    assert not networks["b"][2].training
    for name, network in networks.items():
        expected = ConfusionMatrix(4)
        network.eval()
        for image, label, _ in samples(3):
            expected.update(network(to_unit(image)).argmax(1), label)
        assert torch.equal(results[name].confusion.matrix, expected.matrix)
        assert sorted(results[name].examples) == [0, 1]
        prediction, confidence = results[name].examples[1]
        image = list(samples(2))[1].image
        torch.testing.assert_close(confidence, predict_probabilities(network, image)[0].amax(0))
        assert torch.equal(prediction.long(), network(to_unit(image))[0].argmax(0))
        assert 0 < results[name].boundary.matrix.sum() <= results[name].confusion.matrix.sum()


def test_another_number_of_classes_is_refused():
    with pytest.raises(ValueError, match=r"network 'a' predicts 5 classes: expected .* 4"):
        evaluate({"a": nn.Conv2d(3, 5, 1)}, samples(1), 4, device="cpu")


def test_predictions_come_at_the_labels_size():
    network = nn.Conv2d(3, 4, 4, 4)
    image = torch.randint(256, (1, 3, 16, 20), dtype=torch.uint8)
    label = torch.randint(4, (1, 32, 40), dtype=torch.uint8)
    results = evaluate({"a": network}, [EvalSample(image, label, 0)], 4, device="cpu")
    assert results["a"].confusion.matrix.sum() == 32 * 40
