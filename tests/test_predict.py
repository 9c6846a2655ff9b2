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
from reco.data.datasets.synthetic import SyntheticReader
from reco.data.loading import EvalDataset
from reco.inference import evaluate_networks as evaluation_module
from reco.inference import predict_files as predict_files_module
from reco.inference import predictor as predictor_module
from reco.inference import tiles as tiles_module
from reco.inference.predict_files import FilesOutcome, find_images, predict_files
from reco.inference.probabilities import InferenceMode, predict_probabilities
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
    small_tiles(monkeypatch)
    tiles = predictor.predict(image)
    assert (whole.labels == tiles.labels).all()
    np.testing.assert_allclose(whole.confidence, tiles.confidence, rtol=1e-5)


def small_tiles(monkeypatch):
    monkeypatch.setattr(predictor_module, "MOST_PIXELS", 100)
    monkeypatch.setattr(evaluation_module, "MOST_PIXELS", 100)
    monkeypatch.setattr(tiles_module, "TILE", 32)
    monkeypatch.setattr(tiles_module, "SURROUNDINGS", 5)


def test_evaluation_and_prediction_cut_large_images_alike(checkpoint, monkeypatch):
    predictor = reco.load(
        checkpoint, image_size=None, device="cpu", mode=InferenceMode(window=(24, 40), flip=True)
    )
    image = noise(70, 150)
    whole = predictor.predict(image)
    small_tiles(monkeypatch)
    predicted = predictor.predict(image)
    assert (predicted.confidence != whole.confidence).any()
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
    labels, confidence = evaluation_module.label_batch(
        predictor.network, tensor, (70, 150), 11, predictor.mode
    )
    assert (labels[0].numpy() == predicted.labels).all()
    assert (confidence[0].numpy() == predicted.confidence).all()


def test_an_image_size_of_many_pixels_is_brought_back_to_the_image(checkpoint, monkeypatch):
    small_tiles(monkeypatch)
    predictor = reco.load(checkpoint, image_size=(40, 60), device="cpu")
    assert predictor.predict(noise(50, 33)).labels.shape == (50, 33)


def run(*words: object) -> int:
    return cli.main(["predict", *map(str, words), "--device", "cpu"])


def test_windows_scales_and_mirror_images_as_in_an_evaluation(checkpoint, tmp_path):
    Image.fromarray(noise(50, 60)).save(tmp_path / "a.png")
    words = ["--checkpoint", checkpoint, tmp_path / "a.png", "--output", tmp_path / "out"]
    words += ["--confidence", "--full-size", "--window", 32, 40, "--overlap", 0.3]
    assert run(*words, "--scales", 0.75, 1, "--flip") == 0
    mode = InferenceMode(window=(32, 40), overlap=0.3, scales=(0.75, 1.0), flip=True)
    network = reco.load(checkpoint, device="cpu").network
    tensor = torch.from_numpy(noise(50, 60)).permute(2, 0, 1)[None]
    expected = predict_probabilities(network, tensor, mode)[0].max(0)
    assert (np.array(Image.open(tmp_path / "out/labels/a.png")) == expected.indices.numpy()).all()
    confidence = np.array(Image.open(tmp_path / "out/confidence/a.png"))
    assert (confidence == (255 * expected.values.numpy()).round()).all()


def test_overlap_without_a_window_is_refused(checkpoint, tmp_path, capsys):
    Image.fromarray(noise(5, 6)).save(tmp_path / "a.png")
    assert run("--checkpoint", checkpoint, tmp_path / "a.png", "--overlap", 0.3) == 1
    assert "expected --window too" in capsys.readouterr().err


@pytest.mark.parametrize("turn", [1, 3, 6])
@pytest.mark.parametrize("mode", ["RGB", "P", "L", "RGBA"])
def test_a_large_file_is_labelled_in_parts(checkpoint, tmp_path, monkeypatch, mode, turn):
    """As it is labelled as a whole, whichever way EXIF turns it."""
    small_tiles(monkeypatch)
    picture = Image.fromarray(noise(70, 90)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = turn
    picture.save(tmp_path / "a.png", exif=exif)
    predictor = reco.load(checkpoint, image_size=None, device="cpu")
    predict_files(predictor, [tmp_path / "a.png"], tmp_path / "whole", confidence=True)
    monkeypatch.setattr(predict_files_module, "_LARGE", 100)
    monkeypatch.setattr(predict_files_module, "_OVERLAY", 32)
    assert (
        predict_files(predictor, [tmp_path / "a.png"], tmp_path / "parts", confidence=True).failures
        == []
    )
    for kind in ("labels", "confidence"):
        whole, parts = (
            np.array(Image.open(tmp_path / folder / kind / "a.png"))
            for folder in ("whole", "parts")
        )
        assert (whole == parts).all()
    small, whole = (
        np.array(Image.open(tmp_path / folder / "overlays" / "a.png"))
        for folder in ("parts", "whole")
    )
    assert (small == whole[::3, ::3]).all()


def test_a_broken_large_file_does_not_stop_the_others(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(predict_files_module, "_LARGE", 100)
    for name in ("a.png", "b.png"):
        Image.fromarray(noise(40, 40)).save(tmp_path / name)
    broken = tmp_path / "a.png"
    broken.write_bytes(broken.read_bytes()[:600])
    predictor = reco.load(checkpoint, image_size=None, device="cpu")
    outcome = predict_files(predictor, [tmp_path], tmp_path / "out")
    assert outcome.predicted == 1
    assert "a.png: cannot be read as an image" in outcome.failures[0]


@pytest.mark.parametrize("large", [False, True])
def test_a_geotiff_s_place_reaches_the_labels(checkpoint, tmp_path, monkeypatch, large):
    rasterio = pytest.importorskip("rasterio")
    if large:
        monkeypatch.setattr(predict_files_module, "_LARGE", 100)
    place = rasterio.transform.from_origin(399960.0, 5800020.0, 10.0, 10.0)
    with rasterio.open(
        tmp_path / "a.tif",
        "w",
        driver="GTiff",
        height=40,
        width=50,
        count=3,
        dtype="uint8",
        crs="EPSG:32633",
        transform=place,
    ) as file:
        file.write(noise(40, 50).transpose(2, 0, 1))
    predictor = reco.load(checkpoint, image_size=None, device="cpu")
    predict_files(predictor, [tmp_path / "a.tif"], tmp_path / "out", confidence=True)
    expected = predictor.predict(noise(40, 50))
    for kind, values in (
        ("labels", expected.labels),
        ("confidence", (255 * expected.confidence).round()),
    ):
        with rasterio.open(tmp_path / "out" / kind / "a.tif") as file:
            assert file.crs == rasterio.crs.CRS.from_epsg(32633)
            assert file.transform == place
            assert (file.read(1) == values).all()
    assert (tmp_path / "out" / "overlays" / "a.png").is_file()


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
    captured = capsys.readouterr()
    assert "4 images labelled" in captured.out
    assert "1 other file passed over" in captured.out
    printed = captured.err
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


@pytest.mark.parametrize("output", [".", "photos", "photos/out"])
def test_results_may_lie_above_or_beside_the_images(checkpoint, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a.jpg", "photos/street/b.jpg", "x.jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(8, 8)).save(name)
    predictor = reco.load(checkpoint, device="cpu")
    for inputs in (["photos"], ["photos", "x.jpg"], ["photos/**/*.*"], ["photos/*"]):
        outcome = predict_files(predictor, inputs, Path(output))
        assert (outcome.predicted, outcome.failures) == (len(inputs) + 1, [])
    names = sorted(p.relative_to(output).as_posix() for p in Path(output).rglob("labels/**/*.png"))
    assert names == ["labels/a.png", "labels/street/b.png", "labels/x.png"]


def test_an_input_of_results_alone_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("out/overlays/a.png", "x.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(8, 8)).save(name)
    for given in ("out", "out/overlays", "out/*/*.png"):
        with pytest.raises(ValueError, match=r"all of its images are where results in out go"):
            find_images([given, "x.png"], exclude=Path("out"))
    found, _, _ = find_images(["out/overlays/a.png"], exclude=Path("out"))
    assert [f.path for f in found] == [Path("out/overlays/a.png")]


def test_masks_of_a_data_set_are_not_overwritten(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("images/val/a.png", "labels/val/a.png"):
        Path(name).parent.mkdir(parents=True)
        Image.fromarray(noise(8, 8)).save(name)
    before = Path("labels/val/a.png").read_bytes()
    assert run("--checkpoint", checkpoint, "images", "--output", ".") == 1
    assert "labels/val/a.png: is there already, and not from reco" in capsys.readouterr().err
    assert Path("labels/val/a.png").read_bytes() == before
    assert not Path("overlays").exists()


@pytest.mark.parametrize("given", ["photos", "photos/**/*.jpg", "{linked}/photos/**/*.jpg"])
def test_links_and_hidden_folders_of_an_input(tmp_path, monkeypatch, given):
    """As in a data set: each folder once, and no thumbnails."""
    monkeypatch.chdir(tmp_path)
    for name in ("1", "A/2", "B/3", ".ipynb_checkpoints/4", ".thumbnails/5", "A/@eaDir/6", "B/.7"):
        path = Path("photos", f"{name}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name, target in (("self", "."), ("A/toB", "../B"), ("B/toA", "../A"), ("far", "../far")):
        Path("photos", name).symlink_to(target, target_is_directory=True)
    Path("far").mkdir()
    Path("far/8.jpg").touch()
    linked = tmp_path.with_name(f"{tmp_path.name} linked")
    linked.symlink_to(tmp_path, target_is_directory=True)
    found, passed_over, _ = find_images([given.format(linked=linked)])
    assert [f.name.as_posix() for f in found] == ["1", "A/2", "B/3", "far/8"]
    assert passed_over == 0


def test_the_first_page_is_labelled_and_a_line_says_so(checkpoint, tmp_path, capsys):
    pages = [Image.fromarray(noise(8, width)) for width in (9, 9, 4)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "b.tif")
    assert run("--checkpoint", checkpoint, tmp_path, "--output", tmp_path / "out") == 0
    line = f"several pages in 1 image, such as {tmp_path / 'a.tif'} with 2: the first counts"
    assert line in capsys.readouterr().out.splitlines()


def test_a_folder_without_images_is_one_line(checkpoint, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    words = ["--checkpoint", checkpoint, "--output", tmp_path / "out"]
    for others in ("", ", only 2 other files"):
        assert run(folder, *words) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"error: no images in {folder}{others}; expected .bmp, .jpeg, ")
        assert len(err.splitlines()) == 1
        for name in ("notes.txt", "a.gif"):
            (folder / name).write_text("")
    assert run(tmp_path / "gone.png", *words) == 1
    out, err = capsys.readouterr()
    assert out == "no image labelled: 1 failed\n"  # and no results anywhere
    assert "gone.png" in err
    assert not (tmp_path / "out").exists()


def test_names(tmp_path):
    for name in ("x/a.jpg", "x/a.png", "x/b.png", "y/b.png", "x/c[1].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(noise(2, 2)).save(tmp_path / name)
    found, _, _ = find_images([tmp_path / "x"])
    assert [f.name.as_posix() for f in found] == ["a.jpg", "a.png", "b", "c[1]"]
    found, _, _ = find_images([f"{tmp_path}/*/b.*"])
    assert [f.name.as_posix() for f in found] == ["x/b", "y/b"]
    found, _, _ = find_images([tmp_path / "x/c[1].png", tmp_path / "x/c[1].png"])
    assert [f.name.as_posix() for f in found] == ["c[1]"]
    with pytest.raises(ValueError, match=r"x/b\.png and .*y/b\.png"):
        find_images([tmp_path / "x", tmp_path / "y"])
    with pytest.raises(ValueError, match="no file has such a name"):
        find_images([f"{tmp_path}/*.gif"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images in"):
        find_images([tmp_path / "empty"])


def test_one_is_counted_in_the_singular(tmp_path):
    text = FilesOutcome(1, 1, ["broken"]).summary(tmp_path)
    assert text.startswith("1 image labelled;")
    assert text.endswith("1 other file passed over\n1 image failed")
    assert "2 images failed" in FilesOutcome(2, 0, ["a", "b"]).summary(tmp_path)
