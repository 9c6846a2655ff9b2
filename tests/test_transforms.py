"""Geometry and colour: image, labels and confidence stay on each other's pixels."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from reco import IGNORE
from reco.data.transforms import RandomScaleCrop, resize_pair
from reco.method.augmentation import photometric_flip, rescale_batch, to_unit

B, H, W = 3, 40, 56
# Grey levels of classes 0, 1, 2: so far apart that colour jitter leaves them in order.
LEVELS = torch.tensor([0.15, 0.5, 0.9])


def painted_batch(seed: int):
    """Rectangles of three classes; the image shows the class, the confidence too."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (B, 4, 4), generator=generator)
    labels[:, 0, :3] = torch.arange(3)  # every class is there
    labels = labels.repeat_interleave(H // 4, 1).repeat_interleave(W // 4, 2)
    images = LEVELS[labels][:, None].repeat(1, 3, 1, 1)
    return images, labels, (labels + 1) / 4


def interior(labels: torch.Tensor, margin: int) -> torch.Tensor:
    """(B, H, W) bool: everything within ``margin`` pixels is of one class, and not void.

    Pixels beyond the view count as another class.
    """
    size = 2 * margin + 1
    padded = F.pad(labels[:, None].float(), [margin] * 4, value=-1)
    same = F.max_pool2d(padded, size, 1) == -F.max_pool2d(-padded, size, 1)
    return same[:, 0] & (labels != IGNORE)


def shown_classes(images: torch.Tensor) -> torch.Tensor:
    return (images[:, :1] - LEVELS[:, None, None]).abs().argmin(1)


# --- alignment -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(100))
def test_views_stay_aligned(seed):
    """Rescaled, cropped, jittered, blurred, flipped: all three still show the same class."""
    torch.manual_seed(seed)
    images, labels, confidence = rescale_batch(*painted_batch(seed), scale_range=(0.5, 1.5))
    assert images.shape == (B, 3, H, W)
    known = labels != IGNORE
    assert torch.equal(confidence, torch.where(known, (labels + 1) / 4, 0.0))
    # Bilinear and nearest interpolation differ at borders only: within a pixel of them.
    sure = interior(labels, 1)
    assert sure.any()
    assert torch.equal(shown_classes(images)[sure], labels[sure])

    images, labels, confidence = photometric_flip(images, labels, confidence)
    known = labels != IGNORE
    assert torch.equal(confidence, torch.where(known, (labels + 1) / 4, 0.0))
    sure = interior(labels, 3)  # the blur reaches four pixels, but hardly the last of them
    for image, label, inside in zip(images.mean(1), labels, sure, strict=True):
        shades = [image[inside & (label == c)] for c in range(3)]
        shades = [shade for shade in shades if len(shade)]
        assert all(s.max() - s.min() < 0.1 for s in shades)
        assert all(a.max() < b.min() for a, b in pairwise(shades))


@pytest.mark.parametrize("seed", range(100))
def test_training_crops_stay_aligned(seed):
    torch.manual_seed(seed)
    images, labels, _ = painted_batch(seed)
    transform = RandomScaleCrop((0.5, 1.5), (33, 47))
    image = (255 * images[0]).round().to(torch.uint8)
    image, label, copy = transform(image, labels[0].to(torch.uint8), labels[0].to(torch.uint8))
    assert image.shape == (3, 33, 47)
    assert image.dtype == label.dtype == torch.uint8
    assert torch.equal(label, copy)
    sure = interior(label[None], 1)[0]
    assert torch.equal(shown_classes(image[None] / 255)[0][sure], label[sure].long())


def test_nearest_and_bilinear_sample_the_same_places():
    """On a ramp a shift between the two shows as a difference."""
    ramp = torch.arange(63.0).expand(63, 63)
    for width in (21, 45, 105):
        image, labels = resize_pair(ramp.expand(3, 63, 63), ramp.to(torch.uint8), (63, width))
        # The pattern of the differences repeats after at most five columns; the borders are cut.
        shift = (image[0, 0] - labels[0])[5:-5]
        assert abs(shift.mean()) < 0.02


# --- resizing and cropping -------------------------------------------------------------------


@pytest.mark.parametrize("size", [(20, 28), (17, 90), (80, 112)])
def test_resize_pair(size):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 256, (H, W), generator=generator, dtype=torch.uint8)
    image = torch.randint(0, 256, (3, H, W), generator=generator, dtype=torch.uint8)
    resized, nearest = resize_pair(image, labels, size)
    rows = ((torch.arange(size[0]) + 0.5) * H / size[0]).long()
    columns = ((torch.arange(size[1]) + 0.5) * W / size[1]).long()
    assert torch.equal(nearest, labels[rows[:, None], columns])
    expected = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
    assert (resized.float() - expected).abs().max() <= 1
    assert resized.dtype == nearest.dtype == torch.uint8


def test_crop_larger_than_the_image_is_padded():
    image = torch.full((3, 10, 12), 7, dtype=torch.uint8)
    labels = torch.arange(120, dtype=torch.uint8).reshape(10, 12)
    confidence, everywhere = torch.rand(10, 12) + 0.1, torch.ones(10, 12, dtype=torch.bool)
    corners = set()
    for seed in range(50):
        torch.manual_seed(seed)
        transform = RandomScaleCrop((1.0, 1.0), (16, 14))
        crop, cropped, sure, inside = transform(image, labels, confidence, everywhere)
        assert torch.equal(inside, cropped != IGNORE)
        rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
        row, column = int(rows[0]), int(columns[0])
        corners.add((row, column))
        window = (slice(row, row + 10), slice(column, column + 12))
        assert torch.equal(cropped[window], labels)
        assert torch.equal(sure[window], confidence)
        assert inside.sum() == 120
        assert (sure[~inside] == 0).all()
        mean = torch.tensor([124, 116, 104])  # of ImageNet
        assert (crop[:, ~inside] == mean[:, None]).all()
        assert (crop[:, inside] == 7).all()
    assert len(corners) > 12  # of 7 x 3 places


@pytest.mark.parametrize("channels", [1, 4])
def test_padding_of_images_that_are_not_rgb(channels):
    image = torch.full((channels, 3, 3), 7, dtype=torch.uint8)
    (crop,) = RandomScaleCrop((1.0, 1.0), (5, 5))(image)
    assert sorted(crop.flatten().tolist()) == [7] * 9 * channels + [114] * 16 * channels


def test_crops_reach_every_place():
    labels = torch.arange(30, dtype=torch.uint8).reshape(5, 6)
    image = labels.expand(3, 5, 6)
    torch.manual_seed(0)
    seen = set()
    for _ in range(300):
        crop, cropped = RandomScaleCrop((1.0, 1.0), (3, 4))(image, labels)
        assert torch.equal(crop[0], cropped)
        seen.add(int(cropped[0, 0]))
    assert seen == {0, 1, 2, 6, 7, 8, 12, 13, 14}


def test_scale_is_uniform_in_its_range():
    """A scale of s makes an image of 100 x 100 fill (100 s)^2 of a large crop."""
    image, labels = torch.zeros(3, 100, 100), torch.zeros(100, 100, dtype=torch.uint8)
    torch.manual_seed(0)
    transform = RandomScaleCrop((0.5, 1.5), (160, 160))
    scales = [(transform(image, labels)[1] == 0).sum().sqrt() / 100 for _ in range(200)]
    quarters = torch.histc(torch.stack(scales), 4, 0.5, 1.5)
    assert ((quarters - 50) ** 2 / 50).sum() < 16.3  # chi-square, 3 degrees of freedom, 0.1 %


def test_masks_of_another_size():
    image, labels = torch.zeros(3, 10, 12), torch.zeros(10, 11)
    with pytest.raises(ValueError, match=r"image is \(10, 12\) and masks are \(10, 11\)"):
        RandomScaleCrop((1.0, 1.0), (4, 4))(image, labels)


# --- batches ---------------------------------------------------------------------------------


def test_rescale_of_one_changes_nothing():
    batch = painted_batch(0)
    state = torch.get_rng_state()
    assert all(
        a is b for a, b in zip(rescale_batch(*batch, scale_range=(1.0, 1.0)), batch, strict=True)
    )
    assert torch.equal(state, torch.get_rng_state())


def test_rescaled_padding_is_void():
    torch.manual_seed(0)
    images, labels, confidence = rescale_batch(*painted_batch(0), scale_range=(0.5, 0.5))
    assert ((labels != IGNORE).sum((1, 2)) == H * W // 4).all()
    assert ((confidence == 0) == (labels == IGNORE)).all()
    padding = images.permute(1, 0, 2, 3)[:, labels == IGNORE]
    mean = torch.tensor([0.485, 0.456, 0.406])  # of ImageNet
    assert torch.equal(padding, mean[:, None].expand_as(padding))
    assert labels.dtype == torch.int64


def test_images_are_augmented_independently():
    torch.manual_seed(0)
    image = torch.rand(3, 24, 24)
    labels = torch.arange(24 * 24).reshape(24, 24) % 200
    images, labels = image.expand(400, 3, 24, 24), labels.expand(400, 24, 24)
    changed, flipped_labels = photometric_flip(images, labels)
    flipped = (flipped_labels != labels).any(2).any(1)
    assert torch.equal(flipped_labels[flipped], labels[flipped].flip(-1))
    assert 0.4 < flipped.float().mean() < 0.6
    # With neither jitter nor blur (0.2 x 0.5) an image comes through as it was.
    back = torch.where(flipped[:, None, None, None], changed.flip(-1), changed)
    untouched = (back == image).all(3).all(2).all(1)
    assert 0.04 < untouched.float().mean() < 0.17
    # Jitter alone may change an image's mean much; blur alone hardly.
    moved = (back.mean((2, 3)) - image.mean((1, 2))).abs().amax(1) > 0.01
    assert 0.7 < moved.float().mean() < 0.85
    assert changed.min() >= 0
    assert changed.max() <= 1 + 1e-6


def test_colours_repeat_with_the_seed_and_leave_inputs_alone():
    images, labels, confidence = painted_batch(0)
    copies = images.clone(), labels.clone(), confidence.clone()
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        rescaled = rescale_batch(images, labels, confidence, scale_range=(0.5, 1.5))
        results.append(photometric_flip(*rescaled))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    pairs = zip((images, labels, confidence), copies, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert all(type(part) is torch.Tensor for part in results[0])
    (alone,) = photometric_flip(images)
    assert alone.shape == images.shape


def test_autocast_does_not_reach_the_colours():
    images = painted_batch(0)[0]
    torch.manual_seed(0)
    (plain,) = photometric_flip(images)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        (mixed,) = photometric_flip(images)
    assert mixed.dtype == torch.float32
    assert torch.equal(plain, mixed)


def test_to_unit():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_unit(images), torch.arange(256).view(1, 1, 16, 16) / 255)
    assert torch.equal(to_unit(images / 255), images / 255)
    assert to_unit((images / 255).bfloat16()).dtype == torch.float32


@pytest.mark.gpu
def test_nothing_waits_for_the_device():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    images, labels, confidence = (part.cuda() for part in painted_batch(0))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for seed in range(10):
            torch.manual_seed(seed)
            rescaled = rescale_batch(images, labels, confidence, scale_range=(0.5, 1.5))
            photometric_flip(*rescaled)
            to_unit(rescaled[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
