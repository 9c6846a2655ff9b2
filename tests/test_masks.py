"""Masks of every kind through one table of classes, and masks that fit no table."""

from __future__ import annotations

import io
import re
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reco import IGNORE
from reco.config import ConfigError, load_config
from reco.data import open_dataset
from reco.data.reading.mask_classes import class_table
from reco.data.reading.masks import read_mask

GRID = np.array([[0, 1, 2, 0], [1, 1, 2, 2], [0, 0, 2, 1]])  # classes
ROAD, CAR, TREE = (128, 64, 128), (0, 0, 142), (107, 142, 35)
COLOURS = np.array([ROAD, CAR, TREE], np.uint8)
BY_COLOUR = {"road": "#804080", "car": "#00008e", "tree": "rgb(107, 142, 35)"}


def read(table, image: Image.Image, path: Path) -> np.ndarray:
    image.save(path)
    return table.read(read_mask(path), path)


def grey(values, dtype) -> Image.Image:
    return Image.fromarray(np.asarray(values, dtype))


def with_palette(indices: np.ndarray, colours) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette([v for colour in colours for v in colour])
    return image


def rgba(pixels: np.ndarray) -> Image.Image:
    alpha = np.arange(pixels.shape[0] * pixels.shape[1], dtype=np.uint8).reshape(pixels.shape[:2])
    return Image.fromarray(np.dstack([pixels, alpha]))


VALUES = {0: 0, 1: 128, 2: 255}
CASES = {
    "8 bit.png": grey(np.vectorize(VALUES.get)(GRID), np.uint8),
    "16 bit.png": grey(np.vectorize(VALUES.get)(GRID), np.uint16),
    "32 bit.tif": grey(np.vectorize(VALUES.get)(GRID), np.int32),
    "float.tif": grey(np.vectorize(VALUES.get)(GRID), np.float32),
    "palette.png": with_palette(np.vectorize(VALUES.get)(GRID), [(i, 9, 9) for i in range(256)]),
    "grey in colour.png": grey(np.vectorize(VALUES.get)(GRID), np.uint8).convert("RGB"),
    "grey in RGBA.png": rgba(np.dstack([np.vectorize(VALUES.get)(GRID).astype(np.uint8)] * 3)),
    "grey and alpha.png": grey(np.vectorize(VALUES.get)(GRID), np.uint8).convert("LA"),
}


@pytest.mark.parametrize("name", CASES)
def test_masks_by_value(tmp_path, name):
    table = class_table(None, {"sky": 0, "sea": 128, "land": 255})
    assert np.array_equal(read(table, CASES[name], tmp_path / name), GRID)


@pytest.mark.parametrize("name", ["rgb.png", "rgba.png", "palette.png", "rgb.bmp", "rgb.tif"])
def test_masks_by_colour(tmp_path, name):
    table = class_table(None, BY_COLOUR)
    order = [2, 0, 1]  # the place of each class in the palette
    image = {
        "rgb": lambda: Image.fromarray(COLOURS[GRID]),
        "rgba": lambda: rgba(COLOURS[GRID]),
        "palette": lambda: with_palette(np.array(order)[GRID], COLOURS[np.argsort(order)]),
    }[name.partition(".")[0]]()
    assert np.array_equal(read(table, image, tmp_path / name), GRID)
    assert table.spec.palette == (ROAD, CAR, TREE)


def test_greys_by_colour(tmp_path):
    table = class_table(None, {"sky": "#000000", "sea": "white"})
    classes = np.array([[0, 1], [1, 1]])
    for name, image in {
        "grey.png": grey(classes * 255, np.uint8),
        "one bit.png": Image.fromarray(classes.astype(bool)),
        "optimised.png": with_palette(1 - classes, [(255, 255, 255), (0, 0, 0)]),
    }.items():
        assert np.array_equal(read(table, image, tmp_path / name), classes), name


def test_black_and_white_files_of_one_bit(tmp_path):
    """White means 255, also in files that a program reduced to one bit."""
    bits = Image.fromarray(np.array([[False, True]]))
    for classes in ({"no": 0, "yes": 255}, {"no": 0, "yes": 1}, {"no": 0, "yes": [1, 255]}):
        table = class_table(None, classes)
        assert read(table, bits, tmp_path / "bits.png").tolist() == [[0, 1]]


def write_tiff(path: Path, values: np.ndarray, **options: object) -> Path:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(path, values, **options)
    assert np.array_equal(tifffile.imread(path), values)
    return path


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_tiff_masks_are_the_stored_values(tmp_path, photometric, compression):
    """Fiji stores an object as 255 and declares that 0 is white."""
    for kind in ("uint8", "uint16", "uint32", "uint64", "int64", "float16", "float32", "float64"):
        values = np.array([[0, 1, 2, 255], [7, 1, 2, 0]], kind)
        options = {"photometric": photometric, "compression": compression}
        mask = read_mask(write_tiff(tmp_path / f"{kind}.tif", values, **options))
        assert mask.kind == "value", kind
        assert np.array_equal(mask.values, values.astype(np.int64)), kind
    for kind in ("int8", "int16", "int32", "int64", "float16", "float64"):
        values = np.array([[0, -1, 2]], kind)
        path = write_tiff(tmp_path / f"{kind}.tif", values, compression=compression)
        assert read_mask(path).values.tolist() == [[0, -1, 2]], kind
    truth = np.array([[False, True, True], [True, False, False]])
    for name, black_and_white in (("declared", {"photometric": photometric}), ("default", {})):
        path = write_tiff(tmp_path / f"{name}.tif", truth, **black_and_white)
        assert read_mask(path).kind == "bit"
        assert np.array_equal(read_mask(path).values, truth)


def test_fax_files_of_either_photometric_have_white_as_1(tmp_path):
    truth = np.array([[False] * 9, [False, True] + [True] * 7])
    path = tmp_path / "a.tif"
    Image.fromarray(truth).save(path, compression="group4")
    assert np.array_equal(read_mask(path).values, truth)
    # The same picture as most programs write it: white is 0.
    Image.fromarray(~truth).save(path, compression="group4", tiffinfo={262: 0})
    with Image.open(path) as image:
        assert image.tag_v2[262] == 0
        shown = np.asarray(image)
    assert np.array_equal(read_mask(path).values, shown)


def test_tiff_masks_in_bands(tmp_path):
    table = class_table(None, BY_COLOUR)
    for order in ("contig", "separate"):
        for compression in (None, "zlib"):
            path = tmp_path / f"{order} {compression}.tif"
            values = COLOURS[GRID] if order == "contig" else np.moveaxis(COLOURS[GRID], -1, 0)
            options = {"planarconfig": order, "compression": compression}
            write_tiff(path, values, photometric="rgb", **options)
            assert np.array_equal(table.read(read_mask(path), path), GRID)
            write_tiff(path, values.astype(np.uint16), photometric="rgb", **options)
            with pytest.raises(ValueError, match=r"tif: is a colour mask of 16 bit a channel"):
                read_mask(path)
            write_tiff(path, values, photometric="minisblack", **options)
            with pytest.raises(ValueError, match=r"tif: is an image of 3 bands that are not decla"):
                read_mask(path)
            two = values[..., :2] if order == "contig" else values[:2]
            write_tiff(path, two, photometric="minisblack", **options)
            with pytest.raises(ValueError, match=r"tif: is an image of 2 bands that are not decla"):
                read_mask(path)
            write_tiff(path, two, photometric="minisblack", extrasamples=["unassalpha"], **options)
            assert np.array_equal(read_mask(path).values, COLOURS[GRID][..., 0])


def test_tiff_masks_that_are_no_whole_numbers_or_need_tifffile(tmp_path, monkeypatch):
    path = write_tiff(tmp_path / "a.tif", np.array([[0.5, 1]]))
    with pytest.raises(ValueError, match=r"a\.tif: holds floating-point numbers from 0\.5 to 1\.0"):
        read_mask(path)
    write_tiff(path, np.array([[1j, 1]]))
    with pytest.raises(ValueError, match=r"a\.tif: is an image of mode complex128, expected"):
        read_mask(path)
    write_tiff(path, np.array([[2**62, -(2**62), 1]]))
    assert read_mask(path).values.tolist() == [[2**30, -(2**30), 1]]
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImportError, match=r"a\.tif.* needs tifffile: pip install tifffile"):
        read_mask(path)
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.tif: cannot be read as a mask: cannot identify"):
        read_mask(path)


def test_several_values_and_void(tmp_path):
    table = class_table(None, {"sky": [0, 7], "vehicle": [1, 2]}, ignore=[-1, 3])
    signed = grey([[0, 7, 1, 2, -1, 3, 255]], np.int32)
    expected = [[0, 0, 1, 1, IGNORE, IGNORE, IGNORE]]
    assert read(table, signed, tmp_path / "signed.tif").tolist() == expected
    # -1 in files without a sign.
    assert read(table, grey([[0, 255]], np.uint8), tmp_path / "8.png").tolist() == [[0, IGNORE]]
    assert read(table, grey([[2, 65535]], np.uint16), tmp_path / "16.png").tolist() == [[1, IGNORE]]
    with pytest.raises(ValueError, match=r"16.png: holds 65535, which is no class of folder"):
        class_table(("a", "b", "c")).read(read_mask(tmp_path / "16.png"), tmp_path / "16.png")
    assert table.describe(1) == "1-2"
    assert class_table(None, BY_COLOUR).describe(0) == "#804080"


def test_names_alone_say_positions(tmp_path):
    table = class_table(("a", "b", "c"))
    assert np.array_equal(read(table, grey(GRID, np.uint8), tmp_path / "a.png"), GRID)
    assert table.describe(2) == "2"
    assert table.describe(IGNORE) == "255"


@pytest.mark.parametrize(
    ("classes", "ignore", "message"),
    [
        ({"a": 0, "b": 0}, (), "b = 0: stands for a and for b"),
        ({"a": 0, "b": [1, 2]}, 2, "dataset.ignore = 2: stands for b and for void"),
        ({"a": 0, "b": "#ff0000"}, (), "colours and the value 0: expected one kind"),
        ({"a": "#000000", "b": "#ff0000"}, 255, "colours and the value 255: expected one kind"),
        ({"a": "#000000", "b": "reddish"}, (), "b = 'reddish': expected a value such as 255 or"),
        ({"a": 0, "b": 70000}, (), "b = 70000: expected a value from -32768 to 65535"),
        ({"a": 0, "b": []}, (), "b = []: expected a value or a colour"),
        ({"a": [0, 0, 0], "b": 1}, (), "a = [0, 0, 0]: expected different values; a colour is w"),
        ({"a": [128, 64, 128], "b": 1}, (), 'a colour is written "#804080"'),
        ({"a": 0, "b": 1}, [9, 9, 9], "dataset.ignore = [9, 9, 9]: expected different values"),
        ({"a": 0}, (), "expected 2 to 254 different names"),
    ],
)
def test_tables_that_make_no_sense(classes, ignore, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        class_table(None, classes, ignore)


def test_masks_that_are_no_whole_numbers(tmp_path):
    table = class_table(("a", "b"))
    with pytest.raises(ValueError, match=r"f.tif: holds floating-point numbers from 0.0 to 0.5"):
        read(table, grey([[0, 0.5]], np.float32), tmp_path / "f.tif")
    (tmp_path / "deep.png").write_bytes(deep_colour_png())
    with pytest.raises(ValueError, match=r"deep.png: is a colour mask of 16 bit a channel"):
        read_mask(tmp_path / "deep.png")


def deep_colour_png() -> bytes:
    """One RGB pixel of 16 bit a channel, which Pillow cannot write."""
    return png(1, 1, 16, 2, bytes(7))


def png(height: int, width: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG file of any depth, from its rows: each a zero and the packed values."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


def packed(values: np.ndarray, depth: int) -> np.ndarray:
    """``(H, bytes)`` of ``(H, W)`` values of less than 8 bits, as PNG and TIFF pack them."""
    bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=2)[..., 8 - depth :]
    return np.packbits(bits.reshape(len(values), -1), axis=1)


def low_png(values: np.ndarray, depth: int) -> bytes:
    """Grey of 1, 2 or 4 bits."""
    rows = np.pad(packed(values, depth), ((0, 0), (1, 0)))
    return png(*values.shape, depth, 0, rows.tobytes())


def low_tiff(values: np.ndarray, depth: int, photometric: int) -> bytes:
    """Grey of 2 or 4 bits, uncompressed."""
    (height, width), data = values.shape, packed(values, depth).tobytes()
    data += b"\0" * (len(data) % 2)
    tags = {256: width, 257: height, 258: depth, 259: 1, 262: photometric, 273: 8, 277: 1}
    tags |= {278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def pgm(values: np.ndarray, highest: int, kind: str = "P5") -> bytes:
    """A PGM file; ``P2`` is the one of text."""
    height, width = values.shape
    head = f"{kind}\n{width} {height}\n# a comment\n{highest}\n".encode()
    if kind == "P2":
        return head + " ".join(map(str, values.ravel().tolist())).encode()
    return head + values.astype(">u2" if highest > 255 else np.uint8).tobytes()


def test_masks_of_few_bits_hold_their_own_values(tmp_path):
    """Pillow brings the highest of them to 255: the class 1 of a 4-bit file was read as 17."""
    files = {}
    for depth in (2, 4):
        values = np.arange(2**depth).repeat(2).reshape(2, -1)
        files[f"{depth}.png"] = values, low_png(values, depth)
        files[f"{depth} black.tif"] = values, low_tiff(values, depth, 1)
        files[f"{depth} white.tif"] = values, low_tiff(values, depth, 0)
    for highest in (1, 2, 3, 7, 20, 200, 254, 255, 256, 1000, 65534, 65535):
        values = np.unique(np.linspace(0, highest, 300).astype(int))[None]
        files[f"{highest} text.pgm"] = values, pgm(values, highest, "P2")
        files[f"{highest}.pgm"] = values, pgm(values, highest)
    for name, (values, content) in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        mask = read_mask(path)
        assert mask.kind == "value", name
        assert np.array_equal(mask.values, values), name
    path = tmp_path / "bits.pgm"
    path.write_bytes(b"P1 3 1 0 1 1\n")  # has no highest value, 1 is black
    assert read_mask(path).values.tolist() == [[1, 0, 0]]
    path = tmp_path / "colour.ppm"
    path.write_bytes(b"P6 1 1 3\n" + bytes([0, 1, 2]))
    with pytest.raises(ValueError, match=r"colour.ppm: .*its colours end at 3 \(maxval of PPM\)"):
        read_mask(path)


def test_files_that_a_program_reduced_to_few_bits_may_mean_what_they_show(tmp_path):
    """As those of one bit: 3 of 2 bits is white, unless the table names 1, 2 or 3."""
    values, path = np.array([[0, 1, 2, 3]]), tmp_path / "a.png"
    path.write_bytes(low_png(values, 2))
    for classes in (
        {"a": 0, "b": 85, "c": 170, "d": 255},
        {"a": 0, "b": 1, "c": 2, "d": 3},
        {"a": 0, "b": [1, 85], "c": [2, 170], "d": [3, 255]},
        {"a": "black", "b": "#555555", "c": "#aaaaaa", "d": "white"},
    ):
        assert np.array_equal(class_table(None, classes).read(read_mask(path), path), values)
    path.write_bytes(low_png(np.array([[0, 1]]), 4))
    names = [f"class {i}" for i in range(18)]
    assert class_table(names[:17]).read(read_mask(path), path).tolist() == [[0, 1]]
    with pytest.raises(ValueError, match=r"0-1 as stored and 0, 17 as shown, and both are classes"):
        class_table(names).read(read_mask(path), path)


def test_what_does_not_fit_is_named_with_the_remedy(tmp_path):
    by_value, by_colour = class_table(None, {"a": 0, "b": 255}), class_table(None, BY_COLOUR)
    palette = with_palette(np.array([[0, 1]]), [(0, 0, 0), (255, 255, 255)])
    with pytest.raises(ValueError, match=r"holds 1, .*allowed: 0, 255.* palette, where 1 is #fff"):
        read(by_value, palette, tmp_path / "p.png")
    with pytest.raises(ValueError, match=r"is a colour image.* #804080 \(100.0%\)"):
        read(by_value, Image.fromarray(COLOURS[[[0, 0]]]), tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"holds #ff0000 \(100.0%\).*named are #804080 \(road\)"):
        read(by_colour, Image.new("RGB", (2, 2), "red"), tmp_path / "r.png")
    with pytest.raises(ValueError, match=r"holds 7, .*; named are .*; a grey of 128 is #808080"):
        read(by_colour, grey([[7]], np.uint8), tmp_path / "g.png")


# --- masks that went through JPEG ------------------------------------------------------------

BLOCKS = np.kron(GRID, np.ones((45, 45), int))  # large areas, whose borders cut JPEG's blocks


def test_jpeg_masks_by_colour(tmp_path):
    table = class_table(None, BY_COLOUR)
    with pytest.warns(UserWarning, match=r"a.jpg: a mask that went through JPEG"):
        classes = read(table, Image.fromarray(COLOURS[BLOCKS]), tmp_path / "a.jpg")
    known = classes != IGNORE
    assert known.mean() > 0.9
    assert (classes[known] == BLOCKS[known]).mean() > 0.995
    assert not (np.asarray(Image.open(tmp_path / "a.jpg")) == COLOURS[BLOCKS]).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.filterwarnings("ignore:.*went through JPEG")
def test_jpeg_masks_of_two_values(tmp_path, mode):
    truth = (BLOCKS > 0).astype(np.uint8)
    image = grey(truth * 255, np.uint8).convert(mode)
    classes = read(class_table(None, {"no": 0, "yes": 255}), image, tmp_path / "a.jpg")
    assert np.array_equal(classes, truth)
    for classes in (("no", "yes"), {"a": 0, "b": 128, "c": 255}):
        table = class_table(*((None, classes) if isinstance(classes, dict) else (classes,)))
        with pytest.raises(ValueError, match=r"a.jpg: .*(JPEG changes (values|colours)).* PNG"):
            read(table, image, tmp_path / "a.jpg")


def test_jpeg_masks_of_colours_that_are_too_near(tmp_path):
    table = class_table(None, {"a": "#000000", "b": "#202020"})
    with pytest.raises(ValueError, match=r"#000000 and #202020 are too near to each other"):
        read(table, Image.new("RGB", (9, 9), "#101010"), tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"100% of its pixels are near none .*: #ffff\w\w \(100"):
        read(class_table(None, BY_COLOUR), Image.new("RGB", (9, 9), "yellow"), tmp_path / "b.jpg")


def test_lossy_masks_whose_noise_falls_on_named_values(tmp_path):
    """A tenth of the pixels took a neighbouring class, without a word."""
    values = np.full((64, 64), 100, np.uint8)
    values[20:40, 13:50] = 60
    table, mask = class_table([f"class {i}" for i in range(150)]), Image.fromarray(values)
    for name, options in (
        ("a.jpg", {}),
        ("a.webp", {}),
        ("with a profile.webp", {"icc_profile": b"odd"}),
        ("a.tif", {"compression": "jpeg"}),
    ):
        mask.save(tmp_path / name, **options)
        with pytest.raises(ValueError, match=rf"{name}: went through JPEG or lossy.* as PNG"):
            table.read(read_mask(tmp_path / name), tmp_path / name)
    for options in ({}, {"icc_profile": b"odd"}):
        mask.save(tmp_path / "b.webp", lossless=True, **options)
        assert np.array_equal(table.read(read_mask(tmp_path / "b.webp"), "b"), values)
    black_and_white = class_table(None, {"no": 0, "yes": 255})
    exact = read_mask(tmp_path / "b.webp")
    with pytest.raises(ValueError, match=r"b.webp: is a colour image"):
        black_and_white.read(exact, "b.webp")


@pytest.mark.filterwarnings("ignore:.*went through JPEG")
def test_png_masks_that_were_jpeg(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(COLOURS[BLOCKS]).save(buffer, "JPEG")
    image = Image.open(buffer).convert("RGB")
    with pytest.raises(ValueError, match=r"come from JPEG .*PNG .*dataset.jpeg_masks: true"):
        read(class_table(None, BY_COLOUR), image, tmp_path / "a.png")
    table = class_table(None, BY_COLOUR, went_through_jpeg=True)
    classes = read(table, image, tmp_path / "a.png")
    known = classes != IGNORE
    assert known.mean() > 0.9
    assert (classes[known] == BLOCKS[known]).mean() > 0.995
    values = grey(np.array([0, 128, 255])[BLOCKS], np.uint8)
    values.save(buffer := io.BytesIO(), "JPEG")
    with pytest.raises(ValueError, match=r"values beside the named ones come from JPEG"):
        read(class_table(("a", "b")), Image.open(buffer), tmp_path / "values.png")


# --- configuration ---------------------------------------------------------------------------


def write(path: Path, dataset: str) -> Path:
    path.write_text(f"dataset: {{name: folder, root: ., {dataset}}}", encoding="utf-8")
    return path


def test_classes_in_a_configuration(tmp_path):
    path = write(tmp_path / "a.yaml", 'classes: {road: "#804080", 7: "#000000"}, ignore: white')
    config = load_config(path)
    assert config.dataset.class_names == ("road", "7")
    assert load_config(write(tmp_path / "b.yaml", "class_names: [a, b]")).dataset.ignore == ()
    again = tmp_path / "again.yaml"
    again.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(again) == config
    other = write(tmp_path / "c.yaml", 'classes: {7: "#000000", road: "#804080"}, ignore: white')
    assert load_config(other).hash() != config.hash()  # the order of the classes counts


def test_classes_and_class_names_of_a_base(tmp_path):
    (tmp_path / "b.yaml").write_text("base: a.yaml\ndataset: {class_names: [x, y, z]}")
    write(tmp_path / "a.yaml", "classes: {a: 0, b: 1}")
    assert load_config(tmp_path / "b.yaml").dataset.classes is None
    config = load_config(tmp_path / "b.yaml", ["dataset.classes={p: 1, q: 2}"])
    assert config.dataset.class_names == ("p", "q")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: {0: a, 1: b}", r"names first: \{a: 0, b: 1\}"),
        ("classes: {yes: 1, no: 0}", r"YAML takes yes, no, on, .* here True, unless in quotes"),
        ("classes: {null: 1, a: 0}", r"YAML takes yes, no, .* here None, unless in quotes"),
        ("classes: {1.5: 1, a: 0}", r"YAML takes yes, no, .* here 1.5, unless in quotes"),
        ("class_names: [no, yes]", r"\[False, True\]: expected a list .*, with quotes round what"),
        ("class_names: [a, null]", r"\['a', None\]: expected a list .*, with quotes round what"),
        ("class_names: [1, 2]", r"\[1, 2\]: expected a list such as .*, with quotes round what"),
        ("classes: [a, b]", r"expected names with values or colours"),
        ("classes: {a: 0, b: 1.5}", r"a whole number or text .*or a list such as"),
        ("classes: {a: 0, b: 1}, class_names: [b, a]", r"class_names = .* the names in dataset.cl"),
        ("classes: {a: 0}", r"dataset.class_names = \['a'\]: expected the names of at least two"),
    ],
)
def test_classes_that_are_no_table(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path / "a.yaml", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes:\n    road: #804080\n    b: 1", "something behind road (a colour needs quotes"),
        ("classes:\n    road:\n    - #804080", "something behind road (a colour needs quotes"),
        ("classes: {road: #804080, b: 1}", 'classes in line 4: a colour needs quotes, "#804080"'),
        ("classes: {b: [1, #fff]}", 'classes in line 4: a colour needs quotes, "#fff", since #'),
        ("classes: {a: 0}\n  ignore: [#00ff00]", "ignore in line 5: a colour needs quotes"),
        ("classes: {a: 0}\n  ignore: #00ff00", "ignore = None: expected a whole number or text"),
        ("classes: {b: 0x804080, c: 1}", "classes: b = 0x804080: a colour needs quotes and #"),
        ("classes: {b: [1, 000080]}", 'b = 000080: a colour needs quotes and #: "#000080"'),
        ("classes: {b: 000000}", 'classes: b = 000000: a colour needs quotes and #: "#000000"'),
        ("classes: {b: ffffff}", 'classes: b = ffffff: a colour needs quotes and #: "#ffffff"'),
        ("ignore: 0x000080", 'ignore = 0x000080: a colour needs quotes and #: "#000080"'),
    ],
)
def test_a_colour_without_quotes_is_named(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    start = "dataset:\n  name: folder\n  root: .\n"
    path.write_text(f"{start}  {text}\n  eval_split: val\n")
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        load_config(path)
    assert str(error.value).startswith(f"{path}: dataset.")
    assert "a colour needs quotes" in str(error.value)
    path.write_text(f"{start}  classes: {{a: 0, b: 65535}}  # 0x804080\n")
    assert load_config(path).dataset.class_names == ("a", "b")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("classes={b: #804080, c: 1}", "c: 1}': dataset.classes: a colour needs quotes"),
        ("classes={b: 0x804080, c: 1}", "--set: dataset.classes: b = 0x804080: a colour needs"),
        ("ignore=0x804080", "--set: dataset.ignore = 0x804080: a colour needs quotes"),
        ("ignore=000000", "--set: dataset.ignore = 000000: a colour needs quotes"),
        ("classes={b: 000000, c: 1}", "--set: dataset.classes: b = 000000: a colour needs"),
    ],
)
def test_a_colour_without_quotes_behind_set_is_named(override, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config("folder.yaml", [f"dataset.{override}"])
    assert load_config("folder.yaml", ["dataset.ignore=#804080"]).dataset.ignore == "#804080"


def test_other_data_sets_have_classes_of_their_own():
    for change in ("classes={a: 0, b: 1}", "ignore=3", "jpeg_masks=true", "label_map={0: 0}"):
        with pytest.raises(ConfigError, match=r"since camvid has classes and files of its own"):
            load_config("camvid.yaml", [f"dataset.{change}"])


def test_a_data_set_with_colour_masks(tmp_path):
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
            Image.fromarray(COLOURS[BLOCKS]).save(tmp_path / kind / split / "a.png")
    config = load_config(
        write(tmp_path / "a.yaml", 'classes: {road: "#804080", rest: ["#00008e", "#6b8e23"]}'),
        [f"dataset.root={tmp_path}"],
    )
    reader = open_dataset(config.dataset)
    assert np.array_equal(np.asarray(reader.label("train/a")), BLOCKS > 0)
