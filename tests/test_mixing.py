"""CutOut, CutMix and ClassMix against slow, obvious references."""

from __future__ import annotations

import pytest
import torch

from reco import IGNORE
from reco.data.transforms import RandomScaleCrop
from reco.method.mixing import classmix, cutmix, cutout

B, H, W, C = 4, 24, 31, 7


def painted_batch(seed: int):
    """Images whose colour encodes (image, label), and a confidence that does too."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(C, (B, 4, 5), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = IGNORE
    labels = labels.repeat_interleave(6, 1)[:, :H].repeat_interleave(7, 2)[:, :, :W]
    owner = torch.arange(B)[:, None, None].expand(B, H, W)
    images = torch.stack([labels, owner, labels * owner], 1).float() / IGNORE
    confidence = (labels + owner).float() / (2 * IGNORE)
    return images, labels, confidence


def sources(mixed) -> torch.Tensor:
    return (mixed[0][:, 1] * IGNORE).round().long()


@pytest.mark.parametrize("mix", [classmix, cutmix])
@pytest.mark.parametrize("seed", range(25))
def test_image_label_and_confidence_come_from_one_place(mix, seed):
    torch.manual_seed(seed)
    images, labels, confidence = painted_batch(seed)
    mixed = mix(images, labels, confidence)
    mixed_images, mixed_labels, mixed_confidence = mixed
    source = sources(mixed)
    for i in range(B):
        assert set(source[i].unique().tolist()) <= {i, (i + 1) % B}
        for y in range(H):
            for x in range(W):
                j = source[i, y, x]
                assert mixed_labels[i, y, x] == labels[j, y, x]
                assert mixed_confidence[i, y, x] == confidence[j, y, x]
                assert (mixed_images[i, :, y, x] == images[j, :, y, x]).all()


def test_classmix_pastes_half_of_the_classes_whole():
    images, labels, confidence = painted_batch(0)
    pasted_sets = set()
    for seed in range(60):
        torch.manual_seed(seed)
        source = sources(classmix(images, labels, confidence))
        for i in range(B):
            classes = set(labels[i].unique().tolist()) - {IGNORE}
            pasted = {c for c in classes if (source[i][labels[i] == c] == i).all()}
            kept_out = {c for c in classes if (source[i][labels[i] == c] != i).all()}
            assert pasted | kept_out == classes  # a class goes whole or not at all
            assert len(pasted) == (len(classes) + 1) // 2
            assert (source[i][labels[i] == IGNORE] != i).all()
            pasted_sets.add((i, frozenset(pasted)))
    # C(7, 4) = 35 halves for each of four images: most of them come up in sixty calls.
    assert len(pasted_sets) > 80


def test_classmix_of_one_class_and_of_nothing():
    images, _, confidence = painted_batch(0)
    torch.manual_seed(0)
    one = classmix(images, torch.full((B, H, W), 3), confidence)
    assert torch.equal(one[0], images)  # one class: half, rounded up, is all of it
    none = classmix(images, torch.full((B, H, W), IGNORE), confidence)
    assert torch.equal(none[0], images.roll(-1, 0))


def test_boxes_have_half_the_area_and_move():
    ones, labels = torch.ones(64, 3, 60, 80), torch.zeros(64, 60, 80, dtype=torch.long)
    torch.manual_seed(0)
    cut_images, cut_labels, confidence, more, chosen = cutout(
        ones, labels, ones[:, 0], labels.byte(), ones[:, 0].bool()
    )
    boxes = cut_labels == IGNORE
    assert torch.equal(confidence == 0, boxes)
    assert torch.equal(more == IGNORE, boxes)
    assert torch.equal(~chosen, boxes)
    # The image shows what a crop shows beyond its image.
    padded = RandomScaleCrop((1.0, 1.0), (2, 2))(ones[0, :, :1, :1])[0]
    colour = padded[:, (padded != 1).all(0)][:, :1, None]
    assert torch.equal(cut_images, torch.where(boxes[:, None], colour, ones))
    rows, columns = boxes.any(2).sum(1), boxes.any(1).sum(1)
    assert torch.equal(rows * columns, boxes.sum((1, 2)))  # filled rectangles
    share = boxes.float().mean((1, 2))
    assert (share - 0.5).abs().max() < 0.02
    assert len(set(rows.tolist())) > 15
    corners = {(int(b.any(1).int().argmax()), int(b.any(0).int().argmax())) for b in boxes}
    assert len(corners) > 40


@pytest.mark.parametrize(
    ("area", "aspect"), [((0.02, 0.4), (0.3, 3.3)), ((0.3, 0.9), None), ((0.25, 0.25), (2.0, 2.0))]
)
def test_boxes_of_a_range_by_hand(area, aspect):
    """Each box is computed from its random numbers, an image at a time."""
    size, count = 200, 64
    owner = torch.arange(count)[:, None, None].expand(count, size, size)
    images, labels = torch.zeros(count, 3, size, size), torch.zeros_like(owner)
    generator = torch.Generator().manual_seed(0)
    options = {"probability": 0.5, "area": area, "aspect": aspect}
    boxes = cutmix(images, labels, owner, **options, generator=generator)[2] == owner
    generator.manual_seed(0)
    proportion, *places = torch.rand(3, count, 1, generator=generator)
    shares = torch.rand(count, 1, generator=generator) if area[0] < area[1] else torch.zeros(count)
    chosen = torch.rand(count, 1, 1, generator=generator).flatten() < 0.5
    assert torch.equal(boxes.any((1, 2)), chosen)
    assert 20 < chosen.sum() < 44
    for i in torch.where(chosen)[0].tolist():
        share = area[0] + (area[1] - area[0]) * shares[i].item()
        # No side is longer than the image's.
        tallest = min(1 / share, aspect[1]) if aspect else 1 / share
        flattest = max(share, aspect[0]) if aspect else share
        ratio = tallest * (flattest / tallest) ** proportion[i].item()
        rows, columns = boxes[i].any(1), boxes[i].any(0)
        assert rows.sum() * columns.sum() == boxes[i].sum()
        for side, length, place in (
            (rows, (share * ratio) ** 0.5, places[0][i].item()),
            (columns, (share / ratio) ** 0.5, places[1][i].item()),
        ):
            assert side.sum().item() == pytest.approx(length * size, abs=0.501)
            start = int(place * (size - side.sum().item() + 1))
            assert side.int().argmax().item() == start


def test_generator_makes_mixing_repeatable():
    batch = painted_batch(1)
    for mix in (classmix, cutmix, cutout):
        first, second = (mix(*batch, generator=torch.Generator().manual_seed(5)) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_inputs_are_left_alone():
    batch = painted_batch(2)
    copies = [tensor.clone() for tensor in batch]
    for mix in (classmix, cutmix, cutout):
        mix(*batch)
    assert all(torch.equal(a, b) for a, b in zip(batch, copies, strict=True))


@pytest.mark.parametrize("mix", [classmix, cutmix, cutout])
@pytest.mark.parametrize("value", [-1, 256, 1000])
def test_labels_out_of_range(mix, value, monkeypatch):
    """An error on the CPU; on other devices they are IGNORE, and never laid over anything."""
    images, labels, confidence = painted_batch(0)
    wrong = labels.clone()
    wrong[labels == 2] = value
    with pytest.raises(ValueError, match=rf"mixing: labels holds \[{value}\]: expected 0 to 254"):
        mix(images, wrong, confidence)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for labels_like in (wrong, wrong.int()):
        torch.manual_seed(0)
        mixed = mix(images, labels_like, confidence)
        torch.manual_seed(0)
        expected = mix(images, labels.masked_fill(labels == 2, IGNORE), confidence)
        assert all(torch.equal(a.float(), b.float()) for a, b in zip(mixed, expected, strict=True))


@pytest.mark.parametrize("kind", [torch.float32, torch.bool, torch.int8])
def test_labels_of_a_type_that_cannot_say_ignore(kind):
    images, labels, _ = painted_batch(0)
    with pytest.raises(ValueError, match=f"mixing: labels are {kind}"):
        classmix(images, labels.clamp(max=C).to(kind))


@pytest.mark.gpu
def test_labels_out_of_range_on_the_device():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    images, labels, confidence = (tensor.cuda() for tensor in painted_batch(0))
    for value in (-1, 256):
        for mix in (classmix, cutmix, cutout):
            _, mixed, _ = mix(images, labels.masked_fill(labels == 2, value), confidence)
            assert ((mixed >= 0) & (mixed <= IGNORE) & (mixed != 2)).all()


def test_wrong_batches_are_named():
    images, labels, confidence = painted_batch(0)
    with pytest.raises(ValueError, match=r"images holds 1: expected at least 2"):
        classmix(images[:1], labels[:1], confidence[:1])
    for option in ("area", "aspect"):
        with pytest.raises(ValueError, match=rf"cutmix: {option} = \(0\.5, 0\.2\): expected 0 <"):
            cutmix(images, labels, **{option: (0.5, 0.2)})
    with pytest.raises(ValueError, match=r"mask 1 is \(4, 24, 30\)"):
        cutmix(images, labels, confidence[:, :, 1:])
    assert cutout(images[:1], labels[:1], confidence[:1])[0].shape == (1, 3, H, W)
