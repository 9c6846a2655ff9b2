"""Colour and geometry of a batch against torchvision's functions for one image."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from conftest import needs_new_torch
from operators import Operators
from torchvision.transforms.v2 import functional as one

from reco.data.transforms import RandomScaleCrop
from reco.method import augmentation, colour
from reco.method.augmentation import photometric_flip, rescale_batch

B = 6


def pictures(channels: int = 3, size: tuple[int, int] = (13, 18)) -> torch.Tensor:
    """Noise with grey, black and white corners and some colours that tie for the brightest."""
    images = torch.rand(B, channels, *size, generator=torch.Generator().manual_seed(0))
    images[:, :, :3, :3] = 0.4
    images[:, :, -3:, :3] = 0.0
    images[:, :, -3:, -3:] = 1.0
    images[:, :2, :3, -3:] = 0.8
    return images


def each(values: list[float]) -> torch.Tensor:
    return torch.tensor(values)[:, None, None, None]


JITTER = ["adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue"]
FACTORS = [0.0, 0.6, 0.95, 1.0, 1.25, 2.0]


@pytest.mark.parametrize(
    ("batched", "single", "amounts"),
    [
        (colour.adjust_brightness, one.adjust_brightness, FACTORS),
        (colour.adjust_contrast, one.adjust_contrast, FACTORS),
        (colour.adjust_saturation, one.adjust_saturation, FACTORS),
        (colour.adjust_hue, one.adjust_hue, [-0.5, -0.25, -0.03, 0.0, 0.1, 0.5]),
        (
            colour.gaussian_blur,
            lambda image, sigma: one.gaussian_blur(image, [9, 9], [sigma, sigma]),
            [0.15, 0.3, 0.5, 0.8, 1.15, 2.0],
        ),
    ],
)
def test_as_for_one_image(batched, single, amounts):
    images = pictures()
    expected = torch.stack(
        [single(image, amount) for image, amount in zip(images, amounts, strict=True)]
    )
    torch.testing.assert_close(batched(images, each(amounts)), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("change", "amount"),
    [
        (colour.adjust_brightness, 1.0),
        (colour.adjust_contrast, 1.0),
        (colour.adjust_saturation, 1.0),
        (colour.adjust_hue, 0.0),
        (colour.gaussian_blur, colour.NO_BLUR),
    ],
)
def test_what_is_not_to_change_stays_bit_for_bit(change, amount):
    images = pictures()
    assert torch.equal(change(images, each([amount] * B)), images)


def test_grey_and_flip_of_the_chosen_ones():
    images, chosen = pictures(), each([0, 1, 0, 1, 1, 0]) > 0
    greys, flips = colour.to_grey(images, chosen), colour.flip(images, chosen)
    for i, image in enumerate(images):
        if chosen[i]:
            grey = one.rgb_to_grayscale(image, num_output_channels=3)
            torch.testing.assert_close(greys[i], grey, atol=1e-6, rtol=0)
            assert torch.equal(flips[i], one.hflip(image))
        else:
            assert torch.equal(greys[i], image)
            assert torch.equal(flips[i], image)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_photometric_flip_as_for_one_image(channels, seed, monkeypatch):
    """What was sampled, image by image; without red, green and blue two changes are left."""
    images, labels = pictures(channels), torch.arange(13 * 18).view(1, 13, 18).expand(B, -1, -1)
    sampled, orders = [], []

    def note(of, notes):
        return lambda *arguments: notes.append(of(*arguments)) or notes[-1]

    monkeypatch.setattr(
        augmentation, "_sample_amounts", note(augmentation._sample_amounts, sampled)
    )
    monkeypatch.setattr(augmentation, "_shuffled", note(augmentation._shuffled, orders))
    torch.manual_seed(seed)
    changed, flipped = photometric_flip(images, labels, grey=0.5)
    amounts, order = sampled[0].flatten(1), [change.func.__name__ for change in orders[0]]
    assert len(order) == (4 if channels == 3 else 2)
    for i, image in enumerate(images):
        *jitter, grey, sigma, flip = amounts[:, i].tolist()
        factors = dict(zip(JITTER, jitter, strict=True))
        for name in order:
            if channels == 4:  # which torchvision does not take
                origin = image.mean() if name == "adjust_contrast" else torch.tensor(0.0)
                image = origin.lerp(image, factors[name]).clamp(0, 1)
            else:
                image = getattr(one, name)(image, factors[name])
        if grey and channels == 3:
            image = one.rgb_to_grayscale(image, num_output_channels=3)
        if sigma > colour.NO_BLUR:
            image = one.gaussian_blur(image, [9, 9], [sigma, sigma])
        torch.testing.assert_close(
            changed[i], one.hflip(image) if flip else image, atol=4e-6, rtol=0
        )
        assert torch.equal(flipped[i], labels[i].flip(1) if flip else labels[i])


def test_what_is_sampled():
    """Probabilities, ranges and independence of 20,000 images."""
    torch.manual_seed(0)
    amounts = augmentation._sample_amounts(20_000, (0.25, 0.5, 1.5, 0.1), 0.2, (0.1, 2.0)).flatten(
        1
    )
    ranges = [
        (0.75, 1.25, 1),
        (0.5, 1.5, 1),
        (0, 2.5, 1),
        (-0.1, 0.1, 0),
        None,
        (0.1, 2.0, colour.NO_BLUR),
    ]
    for row, limits in enumerate(ranges):
        if limits is None:
            continue
        low, high, without = limits
        changed = amounts[row] != without
        assert changed.float().mean() == pytest.approx(0.8 if row < 4 else 0.5, abs=0.015)
        assert torch.equal(changed, amounts[0] != 1) or row >= 4  # all of the jitter, or none
        shares = torch.histc(amounts[row][changed], 10, low, high) / changed.sum()
        assert (shares - 0.1).abs().max() < 0.012
        assert amounts[row][changed].min() >= low - 1e-6
        assert amounts[row][changed].max() <= high + 1e-6
    for row, probability in ((4, 0.2), (6, 0.5)):
        assert amounts[row].mean() == pytest.approx(probability, abs=0.015)
        assert set(amounts[row].tolist()) == {0, 1}
    jittered = amounts[:4, amounts[0] != 1].corrcoef() - torch.eye(4)
    assert jittered.abs().max() < 0.03
    happens = torch.stack(
        [amounts[0] != 1, *(amounts[4:] > colour.NO_BLUR)]
    ).float().corrcoef() - torch.eye(4)
    assert happens.abs().max() < 0.03


def test_every_order_of_the_jitter_comes():
    torch.manual_seed(0)
    orders = Counter(augmentation._shuffled(list("abcd")) for _ in range(2400))
    assert len(orders) == 24
    assert min(orders.values()) > 60


@pytest.mark.parametrize("size", [(24, 24), (24, 37), (31, 18)])
@pytest.mark.parametrize("scale_range", [(0.3, 1.0), (0.5, 2.0), (1.0, 1.9)])
def test_rescaled_as_one_image_at_a_time(size, scale_range):
    """The same draws give RandomScaleCrop's images, and its masks to the bit."""
    generator = torch.Generator().manual_seed(0)
    images, confidence = pictures(size=size), torch.rand(B, *size, generator=generator)
    labels = torch.randint(200, (B, *size), generator=generator)
    batch = images, labels, confidence, labels.byte(), labels > 100
    transform = RandomScaleCrop(scale_range, size)
    for seed in range(5):
        torch.manual_seed(seed)
        samples = [transform(*sample) for sample in zip(*batch, strict=True)]
        expected, *expected_masks = (torch.stack(part) for part in zip(*samples, strict=True))
        torch.manual_seed(seed)
        rescaled, *masks = rescale_batch(*batch, scale_range=scale_range)
        torch.testing.assert_close(rescaled, expected, atol=2e-6, rtol=0)
        assert all(torch.equal(a, b) for a, b in zip(masks, expected_masks, strict=True))
        assert all(a.dtype == b.dtype for a, b in zip(masks, batch[1:], strict=True))


@needs_new_torch  # 157 in torch 2.6, which makes some operators of several
@pytest.mark.parametrize("batch", [1, 2, 10])
def test_operators_do_not_grow_with_the_batch(batch):
    view = torch.rand(batch, 3, 16, 16), *torch.randint(9, (3, batch, 16, 16))
    with Operators() as operators:
        photometric_flip(*rescale_batch(*view, scale_range=(0.5, 1.5)))
    assert operators.calls.total() <= 150
