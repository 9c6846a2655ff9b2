"""Labelling images of any kind, from Python and from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from make_checkpoint import write_checkpoint
from PIL import Image

import reco
from reco import cli
from reco.data.loading import EvalDataset
from reco.data.synthetic import SyntheticReader
from reco.inference import predictor as predictor_module
from reco.inference.files import find_images, predict_files
from reco.inference.probabilities import predict_probabilities
from reco.runs.checkpoint import CheckpointError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("run") / "best.pt")


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    generator = np.random.default_rng(height * 10_000 + width)
    shape = (height, width, channels) if channels else (height, width)
    return generator.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (40, 7000), (123, 45), (96, 192)])
@pytest.mark.parametrize("image_size", ["config", None, (33, 50)])
def test_the_result_has_the_image_size(checkpoint, size, image_size):
    result = reco.load(checkpoint, image_size=image_size, device="cpu").predict(noise(*size))
    assert result.labels.shape == result.confidence.shape == size
    assert result.labels.dtype == np.uint8
    assert result.confidence.dtype == np.float32
    assert result.labels.max() < 11
    assert 1 / 11 <= result.confidence.min() <= result.confidence.max() <= 1


def test_it_predicts_what_the_evaluation_compares(tmp_path):
    path = write_checkpoint(tmp_path / "a.pt", "dataset.image_size=[48, 64]")
    predictor = reco.load(path, device="cpu")
    reader = SyntheticReader()
    dataset = EvalDataset(reader, reader.ids("val"), (48, 64), original_labels=True)
    image, label, _ = dataset[0]
    probabilities = predict_probabilities(predictor.network, image[None])
    expected = torch.nn.functional.interpolate(probabilities, label.shape, mode="bilinear")[0]
    result = predictor.predict(reader.image(reader.ids("val")[0]))
    np.testing.assert_allclose(result.confidence, expected.max(0).values, rtol=1e-5)
    assert (result.labels == expected.argmax(0).numpy()).mean() > 0.9999


@pytest.mark.parametrize("size", [(7, 5), (20, 31), (64, 2), (1, 1)])
def test_bands_are_bilinear_interpolation(size, monkeypatch):
    probabilities = torch.rand(4, 20, 31).softmax(0)
    expected = torch.nn.functional.interpolate(probabilities[None], size, mode="bilinear")[0]
    monkeypatch.setattr(predictor_module, "_BAND_NUMBERS", 4 * 31 * 3)
    labels, confidence = predictor_module._most_probable(probabilities, size)
    np.testing.assert_allclose(confidence, expected.max(0).values, rtol=1e-5)
    assert (labels == expected.argmax(0).numpy()).all()


def test_tiles_join_without_a_seam(checkpoint, monkeypatch):
    """With a network that sees one pixel, tiles and the whole image are the same."""
    predictor = reco.load(checkpoint, image_size=None, device="cpu")
    predictor.network = torch.nn.Conv2d(3, 11, 1).eval()
    image = noise(70, 210)
    whole = predictor.predict(image)
    for name, value in (("_MOST_PIXELS", 100), ("_TILE", 32), ("_SURROUNDINGS", 5)):
        monkeypatch.setattr(predictor_module, name, value)
    tiles = predictor.predict(image)
    assert (whole.labels == tiles.labels).all()
    np.testing.assert_allclose(whole.confidence, tiles.confidence, rtol=1e-5)


def test_a_batch_says_what_its_images_say_alone(checkpoint):
    predictor = reco.load(checkpoint, device="cpu")
    for sizes in ([(96, 192)] * 3, [(96, 192), (50, 60)]):
        images = [noise(*size) for size in sizes]
        for image, result in zip(images, predictor.predict_batch(images), strict=True):
            alone = predictor.predict(image)
            np.testing.assert_allclose(result.confidence, alone.confidence, rtol=1e-4)


def test_modes_of_one_picture_agree(checkpoint, tmp_path):
    predictor = reco.load(checkpoint, device="cpu")
    grey = noise(40, 60, 0)
    expected = predictor.predict(grey)
    picture = Image.fromarray(grey)
    rgba = picture.convert("RGBA")
    rgba.putalpha(7)
    wide = Image.fromarray(grey.astype(np.uint16) * 257)
    assert wide.mode.startswith("I;16")
    for image in (picture, rgba, wide, picture.convert("P"), np.array(rgba), grey[..., None]):
        assert (predictor.predict(image).confidence == expected.confidence).all()
    for image in (rgba, wide, picture.convert("P")):
        image.save(tmp_path / "a.png")
        assert (predictor.predict(tmp_path / "a.png").confidence == expected.confidence).all()


def test_exif_orientation_is_followed(checkpoint, tmp_path):
    predictor = reco.load(checkpoint, device="cpu")
    upright = noise(40, 60)
    lying = Image.fromarray(np.rot90(upright))  # a quarter turn to the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    lying.save(tmp_path / "a.png", exif=exif)
    for image in (tmp_path / "a.png", Image.open(tmp_path / "a.png")):
        assert (predictor.predict(image).labels == predictor.predict(upright).labels).all()


def test_networks(checkpoint, tmp_path):
    image = noise(32, 32)
    results = {
        network: reco.load(checkpoint, network=network, device="cpu").predict(image).confidence
        for network in ("auto", "student", "teacher")
    }
    assert (results["auto"] == results["teacher"]).all()
    assert (results["student"] != results["teacher"]).any()
    alone = write_checkpoint(tmp_path / "supervised.pt", "method.unsupervised=false")
    reco.load(alone, device="cpu")
    with pytest.raises(CheckpointError, match=r"supervised\.pt.*teacher.*student alone"):
        reco.load(alone, network="teacher")


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_other_arrays_are_refused(checkpoint, image):
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W\)"):
        reco.load(checkpoint, device="cpu").predict(image)


def test_a_folder_of_everything(checkpoint, tmp_path, monkeypatch, capsys):
    photos = tmp_path / "photos"
    (photos / "Straße/夜").mkdir(parents=True)
    Image.fromarray(noise(30, 40)).save(photos / "a.jpg")
    Image.fromarray(noise(30, 40)).save(photos / "Straße/夜/b ü.png")
    Image.fromarray(noise(1, 1)).save(photos / "one.png")
    Image.fromarray(noise(40, 700)).save(photos / "wide.png")
    broken = photos / "c.jpg"
    Image.fromarray(noise(30, 40)).save(broken)
    broken.write_bytes(broken.read_bytes()[:900])
    (photos / "notes.txt").write_text("not an image")
    arguments = ["--checkpoint", checkpoint, photos, tmp_path / "gone.png"]
    arguments += ["--output", tmp_path / "out", "--confidence", "--device", "cpu"]
    assert cli.main(["predict", *map(str, arguments)]) == 1
    printed = capsys.readouterr().out
    assert "4 images labelled" in printed
    assert "1 other files passed over" in printed
    assert f"error: {broken}: cannot be read" in printed
    assert "gone.png: cannot be read" in printed
    names = ["Straße/夜/b ü.png", "a.png", "one.png", "wide.png"]
    for kind in ("labels", "overlays", "confidence"):
        folder = tmp_path / "out" / kind
        found = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
        assert found == names
    labels = Image.open(tmp_path / "out/labels/a.png")
    expected = reco.load(checkpoint, device="cpu").predict(photos / "a.jpg")
    assert labels.mode == "P"
    assert (np.array(labels) == expected.labels).all()
    palette = np.array(SyntheticReader().spec.palette)
    assert (np.array(labels.convert("RGB")) == palette[expected.labels]).all()
    confidence = np.array(Image.open(tmp_path / "out/confidence/a.png"))
    np.testing.assert_allclose(confidence / 255, expected.confidence, atol=0.5 / 255 + 1e-6)


def test_results_are_not_taken_as_input(checkpoint, tmp_path):
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.jpg")
    predictor = reco.load(checkpoint, device="cpu")
    for _ in range(2):
        outcome = predict_files(predictor, [tmp_path], tmp_path / "out")
        assert (outcome.predicted, outcome.failures) == (1, [])


def test_names(tmp_path):
    for name in ("x/a.jpg", "x/a.png", "x/b.png", "y/b.png", "x/c[1].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(noise(2, 2)).save(tmp_path / name)
    found, _ = find_images([tmp_path / "x"])
    assert [f.name.as_posix() for f in found] == ["a.jpg", "a.png", "b", "c[1]"]
    found, _ = find_images([f"{tmp_path}/*/b.*"])
    assert [f.name.as_posix() for f in found] == ["x/b", "y/b"]
    found, _ = find_images([tmp_path / "x/c[1].png", tmp_path / "x/c[1].png"])
    assert [f.name.as_posix() for f in found] == ["c[1]"]
    with pytest.raises(ValueError, match=r"x/b\.png and .*y/b\.png"):
        find_images([tmp_path / "x", tmp_path / "y"])
    with pytest.raises(ValueError, match="no file has such a name"):
        find_images([f"{tmp_path}/*.gif"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images in"):
        find_images([tmp_path / "empty"])
