"""Masks that are valid one by one and contradict each other, and the first lines of a run."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from make_data import make_folder, make_mask, make_pascal, save_image, save_mask
from PIL import Image

from reco.classes import voc_palette
from reco.cli import main
from reco.config import DatasetConfig
from reco.data import open_dataset
from reco.data.checks.check_dataset import check_dataset
from reco.data.checks.overview import overview
from reco.data.checks.pages import count_pages
from reco.data.datasets.folder import FolderReader
from reco.data.datasets.reader import FULL_SIZE_CLASSES
from reco.data.splits import check_evaluated, make_split

THREE = ("ground", "road", "tree")
COLOURS = [(0, 0, 0), (128, 64, 128), (0, 128, 0)]
BY_COLOUR = {"ground": "#000000", "road": "#804080", "tree": "#008000"}


def make(root: Path, masks: dict[str, Image.Image], split: str = "train") -> Path:
    """A data set of the given masks by name, in ``train``; a valid one in ``val``."""
    for name, mask in masks.items():
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        values = make_mask((0, 1, 2), 0, size=mask.size[::-1])
        save_image(root / f"images/{split}/{name}.png", values, len(name) + ord(name[0]))
        mask.save(root / f"labels/{split}/{name}.png")
    return root


def with_palette(classes: np.ndarray, order: list[int], colours=COLOURS) -> Image.Image:
    """A palette mask whose palette holds the classes' colours in ``order``."""
    place = np.argsort(order)
    image = Image.fromarray(place[classes].astype(np.uint8))
    image.putpalette([v for c in order for v in colours[c]])
    return image


def start(root: Path, **settings) -> list[str]:
    """Open, split and check the data as a run does before its first step."""
    config = DatasetConfig("folder", str(root), **settings)
    reader = open_dataset(config)
    split = make_split(reader, config)
    check_evaluated(reader, config.eval_split)
    return overview(reader, split, config)


def classes_of(i: int) -> np.ndarray:
    """Shares of 9/12, 2/12 and 1/12."""
    return np.array([[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 2, 0]]).repeat(9, 0).repeat(9 + i, 1)


# --- palettes --------------------------------------------------------------------------------


@pytest.mark.parametrize("colours", [COLOURS, [(0, 0, 0), (1, 1, 1), (2, 2, 2)]])
def test_palettes_in_another_order(tmp_path, colours):
    """As written by a program that sorts palettes by frequency, colours or grey values."""
    orders = ([0, 1, 2], [0, 1, 2], [1, 0, 2], [2, 1, 0])
    masks = {f"{i}": with_palette(classes_of(i), o, colours) for i, o in enumerate(orders)}
    make(make(tmp_path, masks), {"v": with_palette(classes_of(9), [0, 1, 2], colours)}, "val")
    message = (
        r"[23].png: 0 is #\w{6} in its palette, but 0 is #\w{6} in .*.png, so that the index can"
    )
    with pytest.raises(ValueError, match=message) as error:
        start(tmp_path, class_names=THREE)
    names = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in colours]
    assert all(name in str(error.value) for name in names)
    assert 'dataset.classes: {ground: "' in str(error.value)
    report = check_dataset(FolderReader(tmp_path, THREE))
    assert any("so that the index cannot be the class" in p for p in report.problems)
    # The remedy in the message.
    by_colour = dict(zip(THREE, names, strict=True))
    start(tmp_path, classes=by_colour)
    report = check_dataset(FolderReader(tmp_path, classes=by_colour))
    assert report.problems == []
    shares = report.pixels["train"][:3] / report.pixels["train"].sum()
    assert shares.tolist() == pytest.approx([9 / 12, 2 / 12, 1 / 12])


def test_grey_files_beside_a_grey_palette_in_another_order(tmp_path):
    greys = [(i, i, i) for i in range(3)]
    masks = {
        "grey": Image.fromarray(classes_of(0).astype(np.uint8)),
        "sorted": with_palette(classes_of(1), [1, 0, 2], greys),
    }
    make(make(tmp_path, masks), {"v": masks["grey"]}, "val")
    with pytest.raises(ValueError, match=r"sorted.png: .* Palettes: 0 #010101, 1 #000000.*; grey"):
        start(tmp_path, class_names=THREE)


def test_one_grey_palette_in_another_order_in_all_files(tmp_path):
    greys = [(i, i, i) for i in range(3)]
    masks = {f"{i}": with_palette(classes_of(i), [1, 0, 2], greys) for i in range(3)}
    make(make(tmp_path, masks), {"v": masks["0"]}, "val")
    with pytest.raises(ValueError, match=r"0 is #010101 in its palette, but that is the grey valu"):
        start(tmp_path, class_names=THREE)
    start(tmp_path, classes={"a": "#000000", "b": "#010101", "c": "#020202"})


def test_palettes_that_agree(tmp_path):
    """Identity, grey files beside one palette, and palettes cut off behind the last used index."""
    identity = [(i, i, i) for i in range(256)]
    short = with_palette(np.minimum(classes_of(0), 1), [0, 1])
    sound = {
        "coloured": {"a": with_palette(classes_of(0), [0, 1, 2]), "b": short},
        "identity": {
            "a": with_palette(classes_of(0), [0, 1, 2], identity),
            "b": Image.fromarray(classes_of(1).astype(np.uint8)),
        },
        "mixed": {
            "a": with_palette(classes_of(0), [0, 1, 2]),
            "b": Image.fromarray(classes_of(1).astype(np.uint8)),
        },
    }
    for name, masks in sound.items():
        make(make(tmp_path / name, masks), {"v": masks["a"]}, "val")
        start(tmp_path / name, class_names=THREE)
    make_pascal(tmp_path / "voc")  # palette masks, and grey ones in SegmentationClassAug
    # Background and cars, which are black and grey in VOC's palette.
    mask = tmp_path / "voc/VOCdevkit/VOC2012/SegmentationClass/2007_000032.png"
    palette = [v for colour in voc_palette(256) for v in colour]
    size = Image.open(mask).size[::-1]
    save_mask(mask, make_mask((0, 7), 0, size=size), palette=palette)
    pascal = open_dataset(DatasetConfig("pascal", str(tmp_path / "voc")))
    assert check_dataset(pascal).problems == []


def test_palettes_of_an_official_data_set(tmp_path):
    make_pascal(tmp_path)
    masks = tmp_path / "VOCdevkit/VOC2012/SegmentationClass"
    path = sorted(masks.iterdir())[0]
    values = np.array(Image.open(path))
    colours = [v for c in voc_palette(256)[::-1] for v in c]
    save_mask(path, 255 - values, palette=colours)
    config = DatasetConfig("pascal", str(tmp_path))
    problems = check_dataset(open_dataset(config)).problems
    assert any(str(path) in problem for problem in problems)


# --- two ways to write a mask ----------------------------------------------------------------


@pytest.mark.parametrize("bits", [False, True])
def test_zero_and_one_here_zero_and_255_there(tmp_path, bits):
    masks = {}
    for i in range(6):
        classes = classes_of(i) > 0
        one = Image.fromarray(classes if bits else classes.astype(np.uint8))
        masks[f"{i}"] = one if i < 3 else Image.fromarray(classes.astype(np.uint8) * 255)
    make(make(tmp_path, masks), {"v": masks["0"]}, "val")
    two = ("ground", "crack")
    with pytest.raises(ValueError, match=r"3 masks hold 255 and never 1.*3.png; 4 others hold 1"):
        start(tmp_path, class_names=two)
    problems = check_dataset(FolderReader(tmp_path, two)).problems
    assert any("dataset.classes: {ground: 0, crack: [1, 255]}" in p for p in problems)
    lines = start(tmp_path, classes={"ground": 0, "crack": [1, 255]})
    assert lines[0].startswith("data: images in")
    report = check_dataset(FolderReader(tmp_path, classes={"ground": 0, "crack": [1, 255]}))
    assert report.problems == []
    assert "crack is 1 in 4 masks and 255 in 3 masks, never both in one" in report.notes
    assert report.pixels["train"][1] / report.pixels["train"].sum() == pytest.approx(3 / 12)
    start(tmp_path, class_names=two, ignore=255)  # if that is what was meant


def test_void_that_borders_the_object_is_void(tmp_path):
    values = [np.array([[0, 1, 255]]), np.array([[0, 1, 1]]), np.array([[0, 0, 255]])]
    masks = {f"{i}": Image.fromarray(v.astype(np.uint8)) for i, v in enumerate(values)}
    make(make(tmp_path, masks), {"v": masks["0"]}, "val")
    start(tmp_path, class_names=("ground", "crack"))


# --- pictures in two splits, first lines ------------------------------------------------------


def test_the_same_picture_to_train_and_to_validate_on(tmp_path):
    make_folder(tmp_path)
    shutil.copy(tmp_path / "images/train/site 1/001.jpg", tmp_path / "images/val/site 0/000.jpg")
    shutil.copy(tmp_path / "images/val/site 1/001.jpg", tmp_path / "unlabelled/copy.jpg")
    message = (
        "1 picture to evaluate on is also for training: "
        "images/train/site 1/001.jpg = images/val/site 0/000.jpg"
    )
    assert f"note: {message}" in start(tmp_path, class_names=THREE)
    report = check_dataset(FolderReader(tmp_path, THREE))
    assert report.problems == [message]
    assert any("also unlabelled: unlabelled/copy.jpg = " in note for note in report.notes)


def test_first_lines(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "images/train/site 0/photo.heic").touch()
    assert start(tmp_path, class_names=THREE, labelled_images=2) == [
        f"data: images in {tmp_path.resolve()}: 2 labelled (images/train/site 0), "
        "8 unlabelled (images/train, unlabelled/street), 3 validation (images/val)",
        "note: images/train: 1 .heic not read",
    ]
    synthetic = DatasetConfig("synthetic")
    reader = open_dataset(synthetic)
    split = make_split(reader, dataclasses.replace(synthetic, labelled_images=10))
    assert overview(reader, split, synthetic)[0].startswith("data: 10 labelled, 490 unlabelled, ")


def test_a_bad_mask_to_evaluate_on_is_found_before_training(tmp_path):
    make_folder(tmp_path)
    save_mask(tmp_path / "labels/val/site 1/001.png", make_mask([0, 9], 0))
    with pytest.raises(ValueError, match=r"labels/val/site 1/001.png: holds 9"):
        start(tmp_path, class_names=THREE)


def test_prepare_shows_what_it_understood(tmp_path, capsys, monkeypatch):
    masks = {
        "a": Image.fromarray((classes_of(0) > 0).astype(np.uint8) * 255),
        "b": Image.fromarray((classes_of(1) > 0).astype(np.uint8) * 7),
        "c": Image.fromarray((classes_of(2) > 1).astype(np.uint8) * 9),
    }
    make(make(tmp_path, masks), {"v": masks["a"]}, "val")
    config = tmp_path / "crack.yaml"
    config.write_text(
        "dataset: {name: folder, root: ., classes: {ground: 0, crack: [255, 7]}, ignore: 9}"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "folder", "--config", "crack.yaml"]) == 0
    printed = capsys.readouterr().out.splitlines()
    table = next(i for i, line in enumerate(printed) if line.startswith("class "))
    assert [line.split() for line in printed[table : table + 4]] == [
        ["class", "in", "the", "masks", "train", "val", "share", "of", "pixels"],
        ["ground", "0", "81.111%", "75.000%"],
        ["crack", "7,", "255", "15.833%", "25.000%"],
        ["(void)", "9", "3.056%", "0.000%"],
    ]
    assert "Look at: runs/crack_masks.png" in printed
    picture = np.asarray(Image.open(tmp_path / "runs/crack_masks.png"))
    # The third column shows the masks in the colours of the legend, void black.
    assert (picture == (230, 159, 0)).all(axis=2).sum() > 1000
    assert (picture == (0, 0, 0)).all(axis=2).sum() > 1000
    assert main(["prepare", "folder", "--config", "crack.yaml", "--masks-picture", "x.png"]) == 0
    assert (tmp_path / "x.png").is_file()


def test_a_wrong_table_is_one_problem(tmp_path):
    masks = {f"{i}": Image.fromarray(classes_of(i).astype(np.uint8) * 100) for i in range(7)}
    make(make(tmp_path, masks), {"v": masks["0"]}, "val")
    (problem,) = check_dataset(FolderReader(tmp_path, THREE)).problems
    assert problem.startswith("8 masks hold what is no class: 100 in 8 masks, 200 in 8 masks. They")
    assert problem.count(".png") == 6
    for path in sorted((tmp_path / "labels/train").iterdir())[:4]:
        make(tmp_path, {path.stem: with_palette(classes_of(0), [0, 1, 2])})
    assert len(check_dataset(FolderReader(tmp_path, THREE)).problems) == 4


def test_a_check_names_classes_that_no_mask_holds_as_the_run_does(tmp_path):
    """Classes 0 and 1 are named where the masks hold 0 and 255, which is void."""
    masks = {f"{i}": Image.fromarray((classes_of(i) > 0).astype(np.uint8) * 255) for i in range(4)}
    make(make(tmp_path, masks), {"v": masks["0"]}, "val")
    classes = {"ground": 0, "crack": 1}
    message = (
        r"no labelled mask holds crack.* The mask files hold 0, 255; .*\{ground: 0, crack: 255\}"
    )
    with pytest.raises(ValueError, match=message):
        start(tmp_path, classes=classes)
    report = check_dataset(FolderReader(tmp_path, classes=classes))
    (problem,) = [problem for problem in report.problems if "no labelled mask holds" in problem]
    assert re.search(message, problem)
    # In a resized copy the classes are those of the full-size masks, to both.
    of_full_size = {id: [0, 1] for id in FolderReader(tmp_path, classes=classes).ids("train")}
    (tmp_path / FULL_SIZE_CLASSES).write_text(json.dumps(of_full_size))
    start(tmp_path, classes=classes)
    problems = check_dataset(FolderReader(tmp_path, classes=classes)).problems
    assert not [problem for problem in problems if "no labelled mask holds" in problem]


# --- several pages ---------------------------------------------------------------------------


def save_pages(path: Path, *pages: np.ndarray, **settings) -> None:
    first, *others = [Image.fromarray(page) for page in pages]
    first.save(path, save_all=True, append_images=others, **settings)


@pytest.mark.parametrize("ending", [".tif", ".gif"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_mask_of_several_pages(tmp_path, ending, split):
    """As a stack of an object a page: the first would be taken for all."""
    make_folder(tmp_path)
    mask = sorted((tmp_path / f"labels/{split}").rglob("*.png"))[0]
    path = mask.with_suffix(ending)
    classes = np.array(Image.open(mask))
    save_pages(path, classes, classes[::-1].copy(), classes[:, ::-1].copy())
    mask.unlink()
    message = f"{path}: holds 3 pages, of which only the first"
    settings = {"class_names": ("a", "b", "c"), "labelled_images": "all"}
    with pytest.raises(ValueError, match=re.escape(message)):
        start(tmp_path, **settings)
    report = check_dataset(FolderReader(tmp_path, ("a", "b", "c")))
    assert [line.startswith(message) for line in report.problems] == [True]
    save_pages(path, classes)
    start(tmp_path, **settings)
    assert check_dataset(FolderReader(tmp_path, ("a", "b", "c"))).problems == []


def test_smaller_copies_in_a_mask_are_no_pages(tmp_path):
    """As GDAL adds overviews and a transparency, which has the mask's size."""
    tifffile = pytest.importorskip("tifffile")
    make_folder(tmp_path)
    mask = sorted((tmp_path / "labels/train").rglob("*.png"))[0]
    classes = np.array(Image.open(mask))
    with tifffile.TiffWriter(mask.with_suffix(".tif")) as file:
        file.write(classes, photometric="minisblack", metadata=None)
        file.write(classes[::2, ::2], photometric="minisblack", subfiletype=1, metadata=None)
        file.write(classes > 0, photometric="minisblack", subfiletype=4, metadata=None)
    mask.unlink()
    with tifffile.TiffFile(mask.with_suffix(".tif")) as file:
        assert len(file.pages) == 3
    report = check_dataset(FolderReader(tmp_path, ("a", "b", "c")))
    assert (report.problems, report.notes) == ([], [])
    with tifffile.TiffWriter(mask.with_suffix(".tif"), append=True) as file:
        file.write(classes, photometric="minisblack", metadata=None)
    assert count_pages(mask.with_suffix(".tif")) == 2


def test_images_of_several_pages_are_a_note(tmp_path):
    make_folder(tmp_path)
    for image in sorted((tmp_path / "unlabelled").rglob("*.jpg"))[:2]:
        pixels = np.array(Image.open(image))
        save_pages(image.with_suffix(".tif"), pixels, pixels)
        image.unlink()
    report = check_dataset(FolderReader(tmp_path, ("a", "b", "c")))
    assert report.problems == []
    (note,) = report.notes
    assert note.startswith("several pages in 2 images, such as ")
    assert note.endswith(".tif with 2: the first counts")


def test_pages_that_are_bands_are_one_image(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 20, 30), np.uint8), photometric="minisblack")
    assert Image.open(tmp_path / "a.tif").n_frames == 5
    assert count_pages(tmp_path / "a.tif", channels=5) == 1
    assert count_pages(tmp_path / "a.tif", channels=3) == 5
