"""Images of any depth, number of channels and orientation."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from make_data import make_mask, save_mask
from PIL import Image

from reco.config import ConfigError, load_config
from reco.data import open_dataset
from reco.data.checks.check_dataset import check_dataset
from reco.data.reading import images
from reco.data.reading.images import RGB, ImageFormat, is_wide, read_pixels, upright
from reco.data.reading.large_images import LargeImage
from reco.data.reading.value_range import find_value_range, judge_value_range
from reco.training.build import build_run
from reco.training.trainer import Trainer


def write_png16(path: Path, values: np.ndarray, *, significant_bits: int | None = None) -> None:
    """16-bit grey or RGB, which Pillow cannot write in colour, with an sBIT chunk if asked for."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    colour = {1: 0, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    bits = b"" if significant_bits is None else chunk(b"sBIT", bytes([significant_bits] * channels))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + bits
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def write_tiff(path: Path, values: np.ndarray, **options: object) -> None:
    tifffile = pytest.importorskip("tifffile")
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, values, **options)


def camera(bits: int, channels: int, seed: int = 0) -> np.ndarray:
    """(24, 32, C) values of a camera of so many bits, as they lie in 16."""
    random = np.random.default_rng(seed)
    values = random.beta(2, 3, (24, 32, channels)) * (2**bits - 1)
    values[0, 0] = 2**bits - 1
    return values.round().astype(np.uint16)


def folder(root: Path, write, names=("a", "b", "c", "d")) -> Path:
    """A `folder` data set whose images ``write(path without ending, seed)`` makes."""
    for split in ("train", "val"):
        for seed, name in enumerate(names):
            write(root / "images" / split / name, seed)
            save_mask(
                root / "labels" / split / f"{name}.png", make_mask((0, 1), seed, size=(24, 32))
            )
    return root


def configuration(root: Path, *overrides: str):
    tiny = [o for o in TINY if not o.startswith(("dataset.", "output_dir"))]
    folder = [f"dataset.root={root}", "dataset.class_names=[a, b]", "model.weights=none"]
    return load_config("folder.yaml", [*tiny, *folder, "dataset.crop_size=[24, 32]", *overrides])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_16_bit_files_are_as_bright_as_their_camera_meant(tmp_path, bits, ending, channels):
    def write(path: Path, seed: int) -> None:
        values = camera(bits, channels, seed)
        if ending == "png":
            write_png16(path.with_suffix(".png"), values)
        else:
            write_tiff(path.with_suffix(".tif"), values[..., 0] if channels == 1 else values)

    root = folder(tmp_path, write)
    reader = open_dataset(configuration(root).dataset)
    pixels = np.array(reader.image("train/b"))
    expected = camera(bits, channels, 1) / (2**bits - 1) * 255
    np.testing.assert_allclose(pixels, np.broadcast_to(expected, pixels.shape), atol=0.51)
    assert 80 < pixels.mean() < 130
    assert reader.image_format.value_range == ((0, 2**bits - 1),)
    assert f"note: dataset.value_range = [0, {2**bits - 1}]" in check_dataset(reader).format()


def test_the_range_declared_by_files_is_taken_where_their_values_comply(tmp_path):
    dark = camera(8, 1)  # a dark scene of a 12-bit camera: values to 255
    write_png16(tmp_path / "dark.png", dark, significant_bits=12)
    assert find_value_range([tmp_path / "dark.png"], 3) == ((0, 4095),)
    write_png16(tmp_path / "plain.png", dark)
    assert find_value_range([tmp_path / "plain.png"], 3) == ((0, 255),)
    # A PNG by its specification: ten significant bits, scaled to sixteen.
    write_png16(tmp_path / "filled.png", camera(16, 1), significant_bits=10)
    assert find_value_range([tmp_path / "filled.png"], 3) == ((0, 65535),)
    write_tiff(tmp_path / "top.tif", dark[..., 0], extratags=[(281, "H", 1, 1023, True)])
    assert find_value_range([tmp_path / "top.tif"], 3) == ((0, 1023),)


def test_a_few_bright_spots_do_not_make_everything_dark(tmp_path):
    """Reflectances of a satellite: land to 3,000, a cloud in one pixel of 1,000 to 28,000."""
    values = (camera(16, 3, 3) / 65535 * 3000).astype(np.uint16)
    values.ravel()[::1500] = 28000
    write_png16(tmp_path / "a.png", values)
    ((low, high),) = find_value_range([tmp_path / "a.png"], 3)
    assert low == 0
    assert 2500 < high <= 3000
    assert read_pixels(tmp_path / "a.png", ImageFormat(3, ((low, high),))).mean() > 80


def test_8_bit_files_need_no_range_and_keep_their_values(tmp_path):
    Image.fromarray(np.full((4, 4, 3), 7, np.uint8)).save(tmp_path / "a.png")
    assert find_value_range([tmp_path / "a.png"], 3) is None
    assert (read_pixels(tmp_path / "a.png", ImageFormat(3, ((0, 4095),))) == 7).all()


def test_a_wrong_range_is_named(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for seed, path in enumerate(paths):
        write_png16(path, camera(12, 1, seed))
    assert judge_value_range(((0, 4095),), paths, 3) is None
    cut = judge_value_range(((0, 255),), paths, 3)
    assert "dataset.value_range = [0, 255]: the files hold values from" in cut
    assert "of them are cut off; without the key the range is [0, 4095]" in cut
    assert "all come out dark" in judge_value_range(((0, 65535),), paths, 3)
    for value in ("[5, 5]", "[[0, 1], [0, 2]]", "white"):
        with pytest.raises(ConfigError, match=r"dataset\.value_range"):
            configuration(tmp_path, f"dataset.value_range={value}")


def test_floating_images_have_a_range(tmp_path):
    unit = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)
    write_tiff(tmp_path / "unit.tif", unit)
    assert find_value_range([tmp_path / "unit.tif"], 3) == ((0, 1),)
    write_tiff(tmp_path / "height.tif", unit * 300 - 100)
    ((low, high),) = find_value_range([tmp_path / "height.tif"], 1)
    assert low == pytest.approx(-100, abs=1)
    assert high == pytest.approx(200, abs=1)
    with pytest.raises(ValueError, match=r"unit\.tif: floating-point pixels: dataset.value_range"):
        read_pixels(tmp_path / "unit.tif", RGB)


BLANKS = [np.nan, np.inf, -np.inf, np.finfo(np.float32).max, -np.finfo(np.float32).max, -3.4e38]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("blank", BLANKS)
def test_pixels_without_a_value_are_black_and_count_in_no_range(tmp_path, blank, channels):
    heights = (np.random.default_rng(0).random((20, 30, channels)) * 300 + 50).astype(np.float32)
    options = {"photometric": "minisblack", "planarconfig": "contig"} if channels > 1 else {}
    write_tiff(tmp_path / "whole.tif", heights[..., 0] if channels == 1 else heights, **options)
    holes = heights.copy()
    holes[:4, :5] = blank
    write_tiff(tmp_path / "holes.tif", holes[..., 0] if channels == 1 else holes, **options)
    write_tiff(tmp_path / "empty.tif", np.full_like(np.squeeze(heights), blank), **options)
    empty = tmp_path / "empty.tif"
    value_range = find_value_range([tmp_path / "whole.tif"], channels)
    assert find_value_range([tmp_path / "whole.tif", empty], channels) == value_range
    found = find_value_range([tmp_path / "holes.tif", empty], channels)
    for (low, high), (whole_low, whole_high) in zip(found, value_range, strict=True):
        assert (low, high) == (
            pytest.approx(whole_low, abs=4),
            pytest.approx(whole_high, abs=4),
        )
    assert judge_value_range(((50, 350),), [tmp_path / "holes.tif", empty], channels) is None
    format = ImageFormat(channels, value_range)
    expected = read_pixels(tmp_path / "whole.tif", format).copy()
    expected[:4, :5] = 0
    assert (read_pixels(tmp_path / "holes.tif", format) == expected).all()
    assert (read_pixels(empty, format) == 0).all()
    part = LargeImage(tmp_path / "holes.tif", format).pixels(slice(2, 9), slice(3, 11))
    assert (part == expected[2:9, 3:11]).all()
    with pytest.raises(ValueError, match=r"empty\.tif: no image has a value in channel 1: all are"):
        find_value_range([empty], channels)


@pytest.mark.parametrize("kind", ["int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("bands", [1, 2])
def test_what_gdal_names_nodata_is_black_and_counts_in_no_range(tmp_path, kind, bands):
    tifffile = pytest.importorskip("tifffile")
    nodata = 65535 if kind == "uint16" else -9999
    values = (np.random.default_rng(0).random((20, 30, bands)) * 900 + 100).astype(kind)
    values[0, 0], values[0, 1] = 999, 100
    holes = values.copy()
    holes[5:, 7:] = nodata
    tag = [(42113, "s", 0, str(nodata), True)]
    options = {"photometric": "minisblack", "planarconfig": "contig"} if bands > 1 else {}
    for name, stored, tags in (("whole", values, []), ("holes", holes, tag)):
        stored = stored[..., 0] if bands == 1 else stored
        write_tiff(tmp_path / f"{name}.tif", stored, extratags=tags, **options)
        assert (tifffile.imread(tmp_path / f"{name}.tif") == stored).all()
    value_range = find_value_range([tmp_path / "whole.tif"], bands)
    found = find_value_range([tmp_path / "holes.tif"], bands)
    assert np.array(found) == pytest.approx(np.array(value_range), abs=10)
    format = ImageFormat(bands, value_range)
    expected = read_pixels(tmp_path / "whole.tif", format).copy()
    expected[5:, 7:] = 0
    assert (read_pixels(tmp_path / "holes.tif", format) == expected).all()
    part = LargeImage(tmp_path / "holes.tif", format).pixels(slice(2, 9), slice(3, 11))
    assert (part == expected[2:9, 3:11]).all()


def test_nodata_that_no_pixel_can_hold_or_that_is_no_number(tmp_path):
    for number, text in enumerate(("nan", "-9999", "1e300", "0.5", "none", "")):
        path = tmp_path / f"{number}.tif"
        write_tiff(path, camera(12, 1)[..., 0], extratags=[(42113, "s", 0, text, True)])
        assert (images.read_values(path, 1) == camera(12, 1)).all(), text
        assert find_value_range([path], 1) == ((0, 4095),)
    # 8-bit files keep their values.
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_tiff(tmp_path / "8.tif", values, extratags=[(42113, "s", 0, "255", True)])
    assert (images.read_values(tmp_path / "8.tif", 1)[..., 0] == values).all()


def test_images_of_one_value_have_a_range_from_low_to_high(tmp_path):
    for number, value in enumerate((-300.0, 1e30, 7.5)):
        write_tiff(tmp_path / f"{number}.tif", np.full((4, 4), value, np.float32))
        ((low, high),) = find_value_range([tmp_path / f"{number}.tif"], 1)
        assert np.isfinite([low, high]).all()
        assert low < high


def test_a_range_that_is_not_finite_is_refused():
    for given in ([0.0, float("inf")], [[0.0, 1.0], [float("nan"), 1.0]]):
        with pytest.raises(ValueError, match=r"dataset\.value_range = .*: expected finite numbers"):
            images.as_value_range(given)


def test_grey_of_floating_colours_is_not_rounded(tmp_path):
    values = np.random.default_rng(0).random((5, 6, 3)).astype(np.float32)
    write_tiff(tmp_path / "a.tif", values, photometric="rgb")
    grey = images.read_values(tmp_path / "a.tif", 1)[..., 0]
    np.testing.assert_allclose(grey, values @ np.array([0.299, 0.587, 0.114]), rtol=1e-6)


def test_a_run_keeps_the_range_and_its_predictions_take_it(tmp_path, capsys):
    root = folder(
        tmp_path, lambda path, seed: write_png16(path.with_suffix(".png"), camera(12, 3, seed))
    )
    trainer = Trainer(build_run(configuration(root)), tmp_path / "run")
    assert "dataset.value_range = [0, 4095]" in capsys.readouterr().out
    trainer.run()
    assert load_config(tmp_path / "run" / "config.yaml").dataset.value_range == ((0, 4095),)
    from reco import load

    predictor = load(tmp_path / "run" / "last.pt", device="cpu")
    path = root / "images" / "val" / "a.png"
    as_8_bit = (camera(12, 3, 0) / (4095 / 255)).round().astype(np.uint8)
    assert (predictor.predict(path).confidence == predictor.predict(as_8_bit).confidence).all()
    values = camera(12, 3, 0)
    assert (predictor.predict(values).confidence == predictor.predict(as_8_bit).confidence).all()
    resumed = Trainer(build_run(configuration(root)), tmp_path / "run", resume=True)
    assert resumed.iteration == 4


@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_is_that_of_pillow(tmp_path, turn):
    from PIL import ImageOps

    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert (upright(pixels, turn) == expected).all()
    assert (read_pixels(tmp_path / "a.png", RGB) == expected).all()


def photos(root: Path, turn: int, mask_of) -> Path:
    """Stored pixels (24, 32), turned by EXIF; ``mask_of(mask on the stored pixels)`` is saved."""
    exif = Image.Exif()
    exif[0x0112] = turn
    for split in ("train", "val"):
        for seed in range(3):
            stored = make_mask((0, 1), seed, size=(24, 32))
            (root / "images" / split).mkdir(parents=True, exist_ok=True)
            pixels = np.repeat(stored[..., None] * 200, 3, 2)
            pixels[..., 2] = 10 * seed + 5 * (split == "val")  # no two photos are the same
            image = Image.fromarray(pixels)
            image.save(root / "images" / split / f"{seed}.png", exif=exif)
            save_mask(
                root / "labels" / split / f"{seed}.png", np.ascontiguousarray(mask_of(stored))
            )
    return root


def test_a_mask_on_the_stored_pixels_of_a_photo_turned_by_90_degrees(tmp_path):
    root = photos(tmp_path, 6, lambda stored: stored)
    (problem, *_) = check_dataset(open_dataset(configuration(root).dataset)).problems
    assert "32 x 24 pixels, but its image" in problem
    assert "EXIF turns this photo and the mask lies on its stored pixels" in problem
    assert "dataset.turn_masks=true" in problem
    reader = open_dataset(configuration(root, "dataset.turn_masks=true").dataset)
    assert check_dataset(reader).problems == []
    image, label = np.array(reader.image("train/1")), np.array(reader.label("train/1"))
    assert image.shape[:2] == (32, 24)
    assert (image[..., 0] == 200 * label).all()
    other = root / "labels" / "train" / "0.png"
    save_mask(other, np.zeros((5, 5), np.uint8))
    problems = check_dataset(open_dataset(configuration(root).dataset)).problems
    assert "EXIF" not in next(p for p in problems if str(other) in p)


def test_photos_turned_by_180_degrees_are_pointed_out(tmp_path):
    root = photos(tmp_path, 3, lambda stored: stored)
    printed = check_dataset(open_dataset(configuration(root).dataset)).format()
    assert "EXIF turns 6 photos by 180 degrees or mirrors them, such as" in printed
    assert "no problems" in printed
    reader = open_dataset(configuration(root, "dataset.turn_masks=true").dataset)
    assert "EXIF" not in check_dataset(reader).format()
    assert (np.array(reader.image("val/2"))[..., 0] == 200 * np.array(reader.label("val/2"))).all()


@pytest.mark.parametrize("axes", ["bands last", "bands first", "pages"])
def test_tiff_files_of_many_bands(tmp_path, axes):
    values = camera(12, 6)
    if axes == "bands last":
        write_tiff(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig")
    elif axes == "bands first":
        write_tiff(
            tmp_path / "a.tif",
            values.transpose(2, 0, 1),
            photometric="minisblack",
            planarconfig="separate",
        )
    else:
        write_tiff(tmp_path / "a.tif", values.transpose(2, 0, 1), photometric="minisblack")
    value_range = find_value_range([tmp_path / "a.tif"], 6)
    assert value_range == ((0, 4095),) * 6
    pixels = read_pixels(tmp_path / "a.tif", ImageFormat(6, value_range))
    np.testing.assert_allclose(pixels, values / 4095 * 255, atol=0.51)
    with pytest.raises(ValueError, match=r"a\.tif: has 6 channels, expected 4"):
        read_pixels(tmp_path / "a.tif", ImageFormat(4))


ORDERS = [
    {"planarconfig": "contig", "photometric": "rgb"},
    {"planarconfig": "separate", "photometric": "rgb"},
    {"planarconfig": "contig", "photometric": "minisblack"},
    {"planarconfig": "separate", "photometric": "minisblack"},
]


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "-".join(order.values()))
def test_bands_of_a_tiff_file_in_any_order(tmp_path, order, compression, kind):
    """GDAL writes pixel after pixel, or band after band (INTERLEAVE=BAND)."""
    tifffile = pytest.importorskip("tifffile")
    for bands in (2, 3, 4, 5):
        if order["photometric"] == "rgb" and (bands == 2 or kind == "int16"):
            continue
        values = (np.random.default_rng(bands).random((20, 30, bands)) * 250).astype(kind)
        stored = values if order["planarconfig"] == "contig" else np.moveaxis(values, -1, 0)
        path = tmp_path / f"{bands}.tif"
        write_tiff(path, stored, compression=compression, **order)
        assert (tifffile.imread(path) == stored).all()
        read = images.read_values(path, bands)
        assert read.dtype == values.dtype
        assert (read == values).all()
        assert is_wide(path) == (kind != "uint8")
        if bands == 4:
            assert (images.read_values(path, 3) == values[..., :3]).all()
        if bands == 2:
            with pytest.raises(ValueError, match=r"2\.tif: has 2 channels, expected 3"):
                images.read_values(path, 3)
        whole = ImageFormat(bands, ((0, 255),))
        part = LargeImage(path, whole).pixels(slice(3, 9), slice(4, 11))
        assert (part == values[3:9, 4:11].round()).all()


def test_an_opened_tiff_file_that_pillow_misreads_is_refused(tmp_path):
    values = camera(12, 3)
    write_tiff(tmp_path / "a.tif", values, photometric="rgb")
    with (
        Image.open(tmp_path / "a.tif") as image,
        pytest.raises(ValueError, match=r"an opened TIFF file .* give its path"),
    ):
        images.image_values(image, 3)


def test_a_tiff_file_that_needs_imagecodecs_says_so(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    write_tiff(tmp_path / "a.tif", camera(12, 3), photometric="rgb")

    def fail(*args: object, **options: object) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", fail)
    with pytest.raises(ValueError, match=r"a\.tif: .*LZW.*: pip install imagecodecs"):
        read_pixels(tmp_path / "a.tif", RGB)


def test_grey_rgb_and_rgba_files_for_each_number_of_channels(tmp_path):
    random = np.random.default_rng(0)
    for mode, shape in (("L", (6, 5)), ("RGB", (6, 5, 3)), ("RGBA", (6, 5, 4))):
        Image.fromarray(random.integers(0, 255, shape, np.uint8)).save(tmp_path / f"{mode}.png")
    read = {
        (mode, channels): read_pixels(tmp_path / f"{mode}.png", ImageFormat(channels))
        for mode, channels in (("L", 1), ("RGB", 1), ("RGBA", 4), ("RGBA", 3), ("L", 3))
    }
    for (mode, channels), pixels in read.items():
        assert pixels.shape == (6, 5, channels)
        with Image.open(tmp_path / f"{mode}.png") as image:
            expected = np.asarray(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels]))
        assert (pixels == expected.reshape(6, 5, channels)).all()
    with pytest.raises(ValueError, match="has 3 channels, expected 4"):
        read_pixels(tmp_path / "RGB.png", ImageFormat(4))


def test_no_file_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.new("RGB", (20, 30)).save(tmp_path / "a.png")
    assert read_pixels(tmp_path / "a.png", RGB).shape == (30, 20, 3)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_depth_by_the_first_bytes_is_that_of_the_decoder(tmp_path, monkeypatch):
    """Most files are 8-bit JPEG or PNG, recognised without a decoder, by content."""
    values = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    wide = {"grey.png": values[:, :, :1], "colour.jpg": values}
    for name, of_file in wide.items():
        write_png16(tmp_path / name, of_file.astype(np.uint16))
    Image.fromarray(values).save(tmp_path / "photo.jpg")
    Image.fromarray(values).save(tmp_path / "as_jpeg.png", format="JPEG")
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        Image.fromarray(values).convert(mode).save(tmp_path / f"{mode}.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    paths = sorted(tmp_path.iterdir())
    assert {path.name for path in paths if is_wide(path)} == set(wide)
    monkeypatch.setattr(images, "_begins_as_8_bit", lambda path: False)
    assert {path.name for path in paths if is_wide(path)} == set(wide)


def test_rows_of_an_array_that_tifffile_wrote_as_pages(tmp_path):
    values = np.arange(60 * 80 * 5, dtype=np.uint16).reshape(60, 80, 5)
    write_tiff(tmp_path / "pages.tif", values, photometric="minisblack")
    message = (
        r"pages\.tif: has 60 channels, expected 5 \(dataset\.channels\); it is stored as 60 "
        r"pages of 5 x 80: if it is an image of 80 x 60 pixels with 5 bands, write it with "
        r"planarconfig='contig'$"
    )
    with pytest.raises(ValueError, match=message):
        read_pixels(tmp_path / "pages.tif", ImageFormat(5))
    with pytest.raises(ValueError, match=r"expected 4 \(dataset.channels\)$"):
        read_pixels(tmp_path / "pages.tif", ImageFormat(4))
    write_tiff(tmp_path / "one.tif", values, photometric="minisblack", planarconfig="contig")
    assert (images.read_values(tmp_path / "one.tif", 5) == values).all()
