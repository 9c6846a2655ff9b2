"""Files of ``folder`` data sets: patterns, lists, and files that are not read."""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from make_data import (
    make_cityscapes,
    make_folder,
    make_mask,
    make_pascal,
    save_image,
    save_mask,
    write_lines,
)
from PIL import Image

from reco.cli import main
from reco.config import ConfigError, DatasetConfig, load_config
from reco.data import open_dataset
from reco.data.checks.check_dataset import check_dataset
from reco.data.datasets.folder import FolderReader
from reco.data.finding.layout import Layout
from reco.data.finding.lists import NameIndex, read_ids
from reco.data.finding.patterns import Pattern
from reco.data.loading import TrainStream
from reco.data.prepare import resize_dataset
from reco.data.splits import make_split

TWO = ("no", "yes")


def put(root: Path, *paths: str) -> Path:
    """An image at each path, a mask where the name or folder says so."""
    for i, path in enumerate(paths):
        mask = make_mask((0, 1), i)
        is_mask = "mask" in path or "label" in path
        (save_mask if is_mask else save_image)(root / path, mask, *([] if is_mask else [i]))
    return root


def folder(root: Path, **layout) -> FolderReader:
    return FolderReader(root, TWO, layout=Layout(**layout))


def names_of(reader: FolderReader, split: str) -> dict[str, str]:
    """Mask of each image, both below the root."""
    return {
        files.image.relative_to(reader.root).as_posix(): ""
        if files.mask is None
        else files.mask.relative_to(reader.root).as_posix()
        for files in reader.listing(split).pairs.values()
    }


# --- patterns --------------------------------------------------------------------------------


def test_patterns():
    endings = frozenset({".png", ".jpg"})

    def match(pattern: str, path: str) -> dict[str, str] | None:
        return Pattern(pattern).match(path, endings)

    assert match("a/{stem}.*", "a/x.JPG") == {"stem": "x", "parent": ""}
    assert match("a/{stem}.*", "a/x.txt") is None
    assert match("a/{stem}.tif", "a/x.TIF") == {"stem": "x", "parent": ""}
    assert match("a/{stem}", "a/b/x.png") is None
    assert match("a/{parent}/{stem}", "a/x.png") == {"stem": "x", "parent": ""}
    assert match("a/{parent}/{stem}", "a/b/c/x.y.png") == {"stem": "x.y", "parent": "b/c"}
    assert match("a/**/*.png", "a/b/c/x.png") == {"stem": "x", "parent": "b/c"}
    assert match("{parent}/img/{stem}_sat.jpg", "p/q/img/7_sat.jpg") == {
        "stem": "7",
        "parent": "p/q",
    }
    assert match("{city}/{city}_{stem}.png", "ulm/ulm_1.png") == {
        "city": "ulm",
        "stem": "1",
        "parent": "ulm",
    }
    assert match("{city}/{city}_{stem}.png", "ulm/jena_1.png") is None
    assert match("a/*_sat.jpg", "a/7_sat.jpg") == {"stem": "7", "parent": ""}
    assert match("a/*_*.jpg", "a/7_sat.jpg") == {"stem": "7_sat", "parent": ""}
    assert match("**", "a/b/x.png") == {"stem": "x", "parent": "a/b"}
    assert Pattern("a/b/*.png").top == "a/b"
    for wrong in ("/a/*.png", "../*.png", "a/{}.png", "a/{st em}.png"):
        with pytest.raises(ValueError, match="expected a"):
            Pattern(wrong)


def test_masks_beside_images(tmp_path):
    put(tmp_path, "1.png", "1_mask.png", "2.png", "2_mask.png", "3.png", "9_mask.png")
    layout = {"images": "{stem}.png", "masks": "{stem}_mask.png"}
    reader = folder(tmp_path, **layout, unlabelled="{stem}.png")
    assert names_of(reader, "train") == {"1.png": "1_mask.png", "2.png": "2_mask.png"}
    assert reader.ids("train") == ["1", "2"]
    assert reader.unlabelled_ids() == ["3"]
    assert [str(p) for p in reader.listing("train").masks_alone] == [f"{tmp_path}/9_mask.png"]
    stars = folder(tmp_path, images="*.png", masks="*_mask.png", unlabelled="*.png")
    assert names_of(stars, "train") == names_of(reader, "train")
    with pytest.raises(ValueError, match=r"1 of 3 images without a mask: .*3.png.* dataset.unlab"):
        folder(tmp_path, **layout).ids("train")


def test_equal_names_in_nested_folders(tmp_path):
    put(tmp_path, *(f"{a}/{k}/1.png" for a in ("x", "y/z", "y/w") for k in ("photos", "labels")))
    layout = {"images": "{parent}/photos/{stem}.png"}
    reader = folder(tmp_path, **layout, masks="{parent}/labels/{stem}.png")
    assert names_of(reader, "train") == {
        "x/photos/1.png": "x/labels/1.png",
        "y/z/photos/1.png": "y/z/labels/1.png",
        "y/w/photos/1.png": "y/w/labels/1.png",
    }
    with pytest.raises(ValueError, match=r"1.png and .*1.png: two masks for one image"):
        folder(tmp_path, **layout, masks="*/*/labels/{stem}.png").ids("train")
    with pytest.raises(ValueError, match=r"x/photos/1.png and y.*two images for one mask, x/lab"):
        folder(tmp_path, **layout, masks="x/labels/{stem}.png").ids("train")
    with pytest.raises(ValueError, match=r"\{city\} is not in dataset.images"):
        folder(tmp_path, **layout, masks="{city}/labels/{stem}.png").ids("train")
    with pytest.raises(ValueError, match=r"tell images from masks"):
        folder(tmp_path, **layout, masks="**/*.png").ids("train")


@pytest.mark.parametrize(
    ("images", "masks", "pairs"),
    [
        (
            "images/img_{n}.jpg",
            "masks/mask_{n}.png",
            {"images/img_1.jpg": "masks/mask_1.png", "images/img_2.jpg": "masks/mask_2.png"},
        ),
        (
            "{tile}/photo.jpg",
            "{tile}/mask.png",
            {"A/photo.jpg": "A/mask.png", "B/photo.jpg": "B/mask.png"},
        ),
        (
            "**/photo.jpg",
            "**/mask.png",
            {"A/photo.jpg": "A/mask.png", "B/photo.jpg": "B/mask.png"},
        ),
        (
            "{tile}/t_{x}_{y}.jpg",
            "masks/{tile}-{y}-{x}.png",
            {"A/t_1_2.jpg": "masks/A-2-1.png", "A/t_2_1.jpg": "masks/A-1-2.png"},
        ),
        ("{n}/a_*_*.jpg", "masks/{n}/a_*_*.png", {"7/a_1_2.jpg": "masks/7/a_1_2.png"}),
    ],
)
def test_words_in_braces_pair_without_a_stem(tmp_path, images, masks, pairs):
    put(tmp_path, *pairs, *pairs.values())
    reader = folder(tmp_path, images=images, masks=masks)
    assert names_of(reader, "train") == pairs
    assert check_dataset(reader).notes == []


def test_words_that_do_not_tell_images_apart(tmp_path):
    put(tmp_path, "a_1.jpg", "b_1.jpg", "mask_1.png")
    with pytest.raises(ValueError, match=r"a_1.jpg and b_1.jpg: two images for one mask, mask_1"):
        folder(tmp_path, images="{who}_{n}.jpg", masks="mask_{n}.png").ids("train")
    with pytest.raises(ValueError, match=r"mask_\{n\}.png: \{n\} is not in dataset.images"):
        folder(tmp_path, images="a_{k}.jpg", masks="mask_{n}.png").ids("train")


def test_splits_by_folder_name(tmp_path):
    put(tmp_path, *(f"{s}/{k}/{s}.png" for s in ("train", "valid", "Test") for k in ("im", "mask")))
    reader = folder(tmp_path, images="{split}/im/*.png", masks="{split}/mask/*.png")
    assert reader.ids("train") == ["train/im/train"]
    assert reader.ids("val") == ["valid/im/valid"]
    assert reader.ids("test") == ["Test/im/Test"]


def test_folders_in_place_of_patterns(tmp_path):
    put(tmp_path, "photos/a/1.jpg", "my masks/a/1.png", "more/2.jpg")
    reader = folder(tmp_path, images="photos", masks="my masks", unlabelled="more/")
    assert names_of(reader, "train") == {"photos/a/1.jpg": "my masks/a/1.png"}
    assert reader.unlabelled_ids() == ["more/2"]
    with pytest.raises(FileNotFoundError, match=r"dataset.images = 'pictures': no such file, nor"):
        folder(tmp_path, images="pictures", masks="my masks").ids("train")
    with pytest.raises(ValueError, match=r"dataset.masks = null: expected where the masks"):
        folder(tmp_path, images="photos").ids("train")


def test_validation_share_pattern_and_list(tmp_path):
    put(tmp_path, *(f"{k}/{i:02d}.png" for i in range(20) for k in ("im", "mask")))
    layout = {"images": "im/*.png", "masks": "mask/*.png"}
    with pytest.raises(FileNotFoundError, match=r"no images for val; write dataset.validat"):
        folder(tmp_path, **layout).ids("val")
    reader = folder(tmp_path, **layout, validation=0.2)
    chosen = reader.ids("val")
    assert len(chosen) == 4
    assert set(chosen).isdisjoint(reader.ids("train"))
    assert len(reader.ids("train")) == 16
    assert folder(tmp_path, **layout, validation=0.2).ids("val") == chosen
    assert set(chosen) < set(folder(tmp_path, **layout, validation=0.5).ids("val"))
    pattern = folder(tmp_path, **layout, validation="im/0*.png")
    assert pattern.ids("val") == [f"im/0{i}" for i in range(10)]
    put(tmp_path, "im/more/1.png", "mask/more/1.png")
    nested = {"images": "im/{parent}/*.png", "masks": "mask/{parent}/*.png"}
    assert folder(tmp_path, **nested, validation="im/more").ids("val") == ["im/more/1"]
    write_lines(tmp_path / "val.txt", ["03", "im/04.png", "/elsewhere/im/05.png mask/05.png"])
    listed = folder(tmp_path, **layout, validation="val.txt", test="im/19*")
    assert listed.ids("val") == ["im/03", "im/04", "im/05"]
    for picture in ("im/07.png", str(tmp_path / "im/07.png")):
        assert folder(tmp_path, **layout, validation=picture).ids("val") == ["im/07"]
    (tmp_path / "val").write_bytes((tmp_path / "im/07.png").read_bytes())
    for wrong, message in (
        (0.99, "is 20 of 20 images"),
        ("im/x*", "takes none of the 20"),
        ("val", "dataset.validation: expected a list of images: .*val: not text in UTF-8"),
    ):
        with pytest.raises(ValueError, match=message):
            folder(tmp_path, **layout, validation=wrong).ids("train")


def test_a_mask_whose_name_differs_in_capital_letters_is_named(tmp_path):
    put(tmp_path, "im/IMG_1.JPG", "mask/img_10.png", "mask/img_1.png")
    with pytest.raises(ValueError, match=r"There is mask/img_1.png: give both the same upper and"):
        folder(tmp_path, images="im/*", masks="mask/*.png").ids("train")


@pytest.mark.parametrize("test", ["im/*1.png", "test.txt"])
def test_a_share_for_validation_takes_no_test_image(tmp_path, test):
    put(tmp_path, *(f"{k}/{i:02d}.png" for i in range(20) for k in ("im", "mask")))
    write_lines(tmp_path / "test.txt", ["im/01.png", "im/11.png"])
    layout = {"images": "im/*.png", "masks": "mask/*.png", "test": test}
    for share, count in ((0.5, 9), (0.9, 16)):
        reader = folder(tmp_path, **layout, validation=share)
        assert reader.ids("test") == ["im/01", "im/11"]
        assert len(reader.ids("val")) == count
        splits = [*reader.ids("train"), *reader.ids("val"), *reader.ids("test")]
        assert sorted(splits) == [f"im/{i:02d}" for i in range(20)]


@pytest.mark.parametrize(
    ("test", "validation"),
    [("im/*1.png", "im/1*.png"), ("im/1*.png", "val.txt"), ("val.txt", "im/11.png")],
)
def test_an_image_for_validation_and_for_test_is_named(tmp_path, test, validation):
    put(tmp_path, *(f"{k}/{i:02d}.png" for i in range(20) for k in ("im", "mask")))
    write_lines(tmp_path / "val.txt", ["03", "11"])
    layout = {"images": "im/*.png", "masks": "mask/*.png", "test": test}
    message = rf"dataset.validation = {re.escape(validation)}: takes im/11.png, which is for test"
    with pytest.raises(ValueError, match=message):
        folder(tmp_path, **layout, validation=validation).ids("train")


def test_test_images_that_leave_none_are_told_of(tmp_path):
    put(tmp_path, *(f"{k}/{i}.png" for i in range(3) for k in ("im", "mask")))
    layout = {"images": "im/*.png", "masks": "mask/*.png", "test": "im/*", "validation": 0.2}
    with pytest.raises(ValueError, match=r"dataset.test = im/\*: takes all 3 images with masks"):
        folder(tmp_path, **layout).ids("train")


def test_validation_share_of_the_usual_layout(tmp_path):
    make_folder(tmp_path, train=10, val=0)
    reader = FolderReader(tmp_path, ("a", "b", "c"), layout=Layout(validation=0.3))
    assert len(reader.ids("val")) == 3
    assert all(id.startswith("train/") for id in (*reader.ids("val"), *reader.ids("train")))
    make_folder(tmp_path, train=0, val=1)
    with pytest.raises(ValueError, match=r"validation = 0.3, but images such as images/val/site 0"):
        FolderReader(tmp_path, ("a", "b", "c"), layout=Layout(validation=0.3)).ids("val")


def test_copies_of_other_layouts(tmp_path):
    original = tmp_path / "original"
    put(original, *(f"{i}{k}.png" for i in range(6) for k in ("", "_mask")), "more/7.png")
    layout = Layout("{stem}.png", "{stem}_mask.png", "more/*", validation=0.3)
    reader = FolderReader(original, TWO, layout=layout)
    resize_dataset(reader, tmp_path / "copy", (18, 24))
    copy = FolderReader(tmp_path / "copy", TWO, layout=layout)
    for split in ("train", "val"):
        assert copy.ids(split) == reader.ids(split)
    assert copy.unlabelled_ids() == reader.unlabelled_ids() == ["more/7"]
    assert copy.label(copy.ids("train")[0]).size == (24, 18)
    with pytest.raises(ValueError, match=r"resized copy .* other values of dataset.classes"):
        FolderReader(tmp_path / "copy", ("a", "b", "c"), layout=layout)
    with pytest.raises(ValueError, match=r"resized copy .* other values of dataset.images"):
        FolderReader(tmp_path / "copy", TWO, layout=Layout("{stem}.png", "{stem}_mask.png"))


# --- lists -----------------------------------------------------------------------------------


def test_lists_of_pairs(tmp_path):
    put(tmp_path, "photos/a b.png", "photos/2.png", "x/mask 1.png", "x/mask 2.png", "photos/3.png")
    lines = ["photos/a b.png x/mask 1.png", "", "photos/2.png,x/mask 2.png"]
    (tmp_path / "train.txt").write_text("\r\n".join(lines), encoding="utf-16")
    write_lines(tmp_path / "rest.txt", ["3.png"])
    reader = folder(tmp_path, images="train.txt", unlabelled="rest.txt")
    assert names_of(reader, "train") == {
        "photos/a b.png": "x/mask 1.png",
        "photos/2.png": "x/mask 2.png",
    }
    assert reader.unlabelled_ids() == ["photos/3"]
    write_lines(tmp_path / "train.txt", ["photos/2.png nowhere.png"])
    with pytest.raises(FileNotFoundError, match=r"no mask nowhere.png"):
        folder(tmp_path, images="train.txt").ids("train")


def test_what_lines_of_a_list_mean(tmp_path):
    index = NameIndex({"a/1": "images/a/1.jpg", "b/1": "images/b/1.jpg", "a/2": "images/a/2.jpg"})
    assert index.find("a/1") == "a/1"
    assert index.find("/home/me/set/images/b/1.jpg") == "b/1"
    assert index.find("images\\a\\2.png") == "a/2"
    assert index.find("2") == "a/2"
    assert index.find("c/2") is None
    with pytest.raises(ValueError, match=r"1.jpg may be a/1, b/1: say the folder too"):
        index.find("1.jpg")
    write_lines(tmp_path / "list.txt", ["a/1", "a/3", "a/4 x"])
    with pytest.raises(ValueError, match=r"list.txt: 2 of 3 lines .*: a/3, a/4 x. They look like"):
        read_ids(tmp_path / "list.txt", index, "key")


@pytest.mark.parametrize("again", ["1.png", "photos/1.png", "1.png masks/2.png"])
def test_an_image_that_a_list_names_twice(tmp_path, again):
    """The last line won in silence, with another mask perhaps, and the images were fewer."""
    put(tmp_path, "photos/1.png", "photos/2.png", "masks/1.png", "masks/2.png")
    write_lines(tmp_path / "train.txt", ["1.png masks/1.png", "2.png masks/2.png", again])
    expected = f"train.txt: names photos/1.png twice, by '1.png masks/1.png' and '{again}': remove"
    with pytest.raises(ValueError, match=re.escape(expected)):
        folder(tmp_path, images="train.txt", masks="masks/{stem}.*").ids("train")
    layout = {"images": "photos", "masks": "masks/{stem}.*", "validation": "val.txt"}
    for second in (again, "1"):
        write_lines(tmp_path / "val.txt", ["1", second])
        with pytest.raises(ValueError, match=r"dataset.validation: .*val.txt: names photos/1.png"):
            folder(tmp_path, **layout).ids("val")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "lines",
    [
        ["2007_000032", "2008_000005"],
        [
            "JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png",
            "/VOC/JPEGImages/2008_000005.jpg",
        ],
        ["/JPEGImages/2007_000032.jpg\t/SegmentationClassAug/2007_000032.png", "2008_000005.jpg"],
    ],
)
def test_lists_for_pascal(tmp_path, lines, encoding):
    make_pascal(tmp_path)
    path = tmp_path / "labelled.txt"
    path.write_text("\n".join(lines), encoding=encoding)
    rest = tmp_path / "unlabelled.txt"
    rest.write_text("JPEGImages/2008_000002.jpg SegmentationClass/2008_000002.png\n")
    config = DatasetConfig("pascal", str(tmp_path), labelled_ids=str(path))
    split = make_split(open_dataset(config), config)
    assert split.labelled == ("2007_000032", "2008_000005")
    assert len(split.unlabelled) == 10
    config = DatasetConfig(
        "pascal", str(tmp_path), labelled_ids=str(path), unlabelled_ids=str(rest)
    )
    assert make_split(open_dataset(config), config).unlabelled == ("2008_000002",)


@pytest.mark.parametrize("behind", ["", " gtFine/train/aachen/{}_gtFine_labelTrainIds.png"])
@pytest.mark.parametrize(
    "start", ["leftImg8bit/train/aachen/{}_leftImg8bit.png", "{}", "aachen/{}"]
)
def test_lists_for_cityscapes(tmp_path, start, behind):
    make_cityscapes(tmp_path)
    id = "aachen_000002_000019"
    path = tmp_path / "labelled.txt"
    write_lines(path, [start.format(id) + behind.format(id)])
    config = DatasetConfig("cityscapes", str(tmp_path), labelled_ids=str(path))
    assert make_split(open_dataset(config), config).labelled == (id,)


def test_lists_for_a_folder(tmp_path):
    make_folder(tmp_path)
    path = tmp_path / "labelled.txt"
    write_lines(
        path, ["train/site 0/000", "images/train/site 0/002.jpg labels/train/site 0/002.png"]
    )
    config = DatasetConfig(
        "folder", str(tmp_path), labelled_ids=str(path), class_names=("a", "b", "c")
    )
    assert make_split(open_dataset(config), config).labelled == (
        "train/site 0/000",
        "train/site 0/002",
    )


def test_paths_in_a_yaml_are_relative_to_it(tmp_path, monkeypatch):
    put(tmp_path / "data", "1.png", "1_mask.png")
    write_lines(tmp_path / "lists/val.txt", ["1"])
    text = "dataset: {name: folder, root: ../data, class_names: [a, b], validation: val.txt}"
    (tmp_path / "lists/my.yaml").write_text(text)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    dataset = load_config("../lists/my.yaml").dataset
    assert os.path.samefile(dataset.root, tmp_path / "data")
    assert os.path.samefile(dataset.validation, tmp_path / "lists/val.txt")
    monkeypatch.chdir(tmp_path / "lists")
    (tmp_path / "lists/other.yaml").write_text("base: my.yaml\ndataset: {root: nowhere}")
    assert load_config("other.yaml").dataset.root == "nowhere"


@pytest.mark.parametrize("pattern", ["{stem}.jpg", "*.jpg", "{tile}/images/{stem}.*"])
def test_a_pattern_without_quotes(tmp_path, pattern):
    path = tmp_path / "my.yaml"
    path.write_text(f"dataset:\n  name: folder\n  images: {pattern}\n  root: .\n")
    with pytest.raises(
        ConfigError, match=r"my.yaml: not a YAML file: [\s\S]*a pattern needs quotes"
    ):
        load_config(path)


# --- nothing silent --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unlabeled", "Unlabelled", "images/unlabelled", "no_labels"])
def test_a_folder_called_nearly_unlabelled(tmp_path, name):
    make_folder(tmp_path, unlabelled=0)
    put(tmp_path, f"{name}/a/1.jpg", f"{name}/2.jpg")
    if (tmp_path / "unlabelled").exists():
        pytest.skip("a file system to which upper and lower case are one")
    reader = FolderReader(tmp_path, ("a", "b", "c"))
    with pytest.raises(ValueError, match=rf"{name}: 2 images in a folder .* rename it to"):
        reader.unlabelled_ids()
    reader = FolderReader(tmp_path, ("a", "b", "c"), layout=Layout(unlabelled=name))
    assert len(reader.unlabelled_ids()) == 2


def test_files_that_are_not_read_are_counted_and_named(tmp_path):
    make_folder(tmp_path)
    for name in ("a.jfif", "b.jfif", "c.heic", "d.jp2", "e.npy", ".hidden"):
        (tmp_path / "images/train/site 0" / name).write_text("")
    put(tmp_path, "old/x/1.jpg", "images/extra/1.jpg")
    (tmp_path / "notes").mkdir()
    reader = FolderReader(tmp_path, ("a", "b", "c"))
    assert reader.unread() == [
        "images/train: 2 .jfif, 1 .heic, 1 .jp2, 1 .npy not read",
        "images/extra/: 1 image in a folder that is not read",
        "old/: 1 image in a folder that is not read",
    ]
    forced = Layout(images="images/{split}/{parent}/{stem}.jfif", masks="labels")
    with pytest.raises(ValueError, match=r"2 of 2 images without a mask"):
        FolderReader(tmp_path, ("a", "b", "c"), layout=forced).ids("train")


def test_hidden_folders_and_circles_are_not_read(tmp_path):
    make_folder(tmp_path)
    put(tmp_path, "images/train/.ipynb_checkpoints/1.jpg", "unlabelled/.Trash-0/1.jpg")
    put(tmp_path / "far", "9.jpg")
    for link, target in (
        ("unlabelled/street/again", "unlabelled"),
        ("images/train/all", "."),
        ("unlabelled/linked", "far"),
    ):
        (tmp_path / link).symlink_to(tmp_path / target, target_is_directory=True)
    reader = FolderReader(tmp_path, ("a", "b", "c"))
    assert len(reader.ids("train")) == 6
    assert len(reader.unlabelled_ids()) == 5
    assert "unlabelled/linked/9" in reader.unlabelled_ids()


def link(place: Path, target: str) -> None:
    """A link to a folder, relative to where the link lies."""
    place.symlink_to(target, target_is_directory=True)


def test_folders_that_lead_to_each_other_count_once(tmp_path):
    make_folder(tmp_path, unlabelled=0)
    put(tmp_path, "unlabelled/A/1.jpg", "unlabelled/B/2.jpg", "unlabelled/3.jpg")
    for name, target in (("A/toB", "../B"), ("B/toA", "../A"), ("twice", "A"), ("all", ".")):
        link(tmp_path / "unlabelled" / name, target)
    for kind in ("images", "labels"):
        link(tmp_path / kind / "train/again", "site 0")
    reader = FolderReader(tmp_path, ("a", "b", "c"))
    assert reader.unlabelled_ids() == ["unlabelled/3", "unlabelled/A/1", "unlabelled/B/2"]
    assert len(reader.ids("train")) == 6
    assert not any("again" in id for id in reader.ids("train"))
    assert check_dataset(reader).problems == []


def test_links_of_two_splits_to_one_folder_of_masks(tmp_path):
    put(tmp_path, "images/train/1.jpg", "images/val/2.jpg", "all labels/1.png", "all labels/2.png")
    (tmp_path / "labels").mkdir()
    for split in ("train", "val"):
        link(tmp_path / "labels" / split, "../all labels")
    reader = FolderReader(tmp_path, TWO)
    assert names_of(reader, "train") == {"images/train/1.jpg": "labels/train/1.png"}
    assert names_of(reader, "val") == {"images/val/2.jpg": "labels/val/2.png"}
    assert reader.listing("train").masks_alone == ()


def test_a_split_that_is_a_link_to_another_is_reported(tmp_path):
    put(tmp_path, *(f"{kind}/train/{i}.png" for kind in ("images", "labels") for i in range(3)))
    for kind in ("images", "labels"):
        link(tmp_path / kind / "val", "train")
    reader = FolderReader(tmp_path, TWO)
    assert len(reader.ids("train")) == len(reader.ids("val")) == 3
    (problem,) = check_dataset(reader).problems
    assert problem.startswith("3 pictures to evaluate on are also for training")


def test_a_list_may_name_files_through_a_link(tmp_path):
    put(tmp_path, "2024/1.png", "mask/1.png")
    link(tmp_path / "current", "2024")
    write_lines(tmp_path / "train.txt", ["current/1.png mask/1.png"])
    reader = folder(tmp_path, images="train.txt")
    assert names_of(reader, "train") == {"current/1.png": "mask/1.png"}


def refuse_to_list(monkeypatch, locked: Path) -> None:
    """As an operating system does where a folder may not be read, even for root."""
    scandir = os.scandir

    def scandir_or_refuse(path):
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir_or_refuse)


@pytest.mark.parametrize("place", ["unlabelled/street", "unlabelled", "images/train/site 0"])
def test_a_folder_that_cannot_be_listed_stops_everything(tmp_path, monkeypatch, capsys, place):
    make_folder(tmp_path)
    locked = tmp_path / place
    assert locked.is_dir()
    refuse_to_list(monkeypatch, locked)
    message = f"{locked}: cannot be listed: Permission denied"
    settings = [f"dataset.root={tmp_path}", "dataset.class_names=[a, b, c]"]
    words = ["--config", "folder.yaml", "--set", *settings, f"output_dir={tmp_path / 'runs'}"]
    for command in (["prepare", "folder"], ["train"]):
        assert main([*command, *words]) == 1
        printed = "".join(capsys.readouterr())
        assert message in printed
        assert "no problems" not in printed


def test_a_folder_of_another_data_set_that_cannot_be_listed(tmp_path, monkeypatch):
    root = make_cityscapes(tmp_path)
    refuse_to_list(monkeypatch, root / "leftImg8bit/train/aachen")
    with pytest.raises(ValueError, match=r"train/aachen: cannot be listed: Permission denied"):
        open_dataset(DatasetConfig("cityscapes", str(root))).ids("train")


def test_folders_of_the_file_system_are_passed_over(tmp_path, monkeypatch):
    put(tmp_path, "1.png", "1_mask.png", "@eaDir/1.png", "@eaDir/1_mask.png")
    (tmp_path / "lost+found").mkdir()
    refuse_to_list(monkeypatch, tmp_path / "lost+found")
    reader = folder(tmp_path, images="{parent}/{stem}.png", masks="{parent}/{stem}_mask.png")
    assert reader.ids("train") == ["1"]


def test_both_ways_to_write_an_umlaut_are_one_name(tmp_path):
    for kind, form in (("images", "NFC"), ("labels", "NFD")):
        for split in ("train", "val"):
            put(tmp_path, unicodedata.normalize(form, f"{kind}/{split}/Straße ü/ä.png"))
    reader = FolderReader(tmp_path, TWO)
    assert reader.ids("train") == [unicodedata.normalize("NFC", "train/Straße ü/ä")]
    assert reader.label(reader.ids("val")[0]).size == (48, 36)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("labels/train/a/1_mask.png", '"labels/{split}/{parent}/{stem}_mask.png" it is the mask'),
        ("labels/train/1.png", '"labels/{split}/{stem}.png" it is the mask'),
        ("labels/train/a/1.npy", "labels/train/a/1.npy, which cannot be read as a mask: PNG can"),
    ],
)
def test_masks_that_lie_there_but_are_not_seen(tmp_path, mask, message):
    put(tmp_path, "images/train/a/1.jpg")
    path = put(tmp_path, "labels/train/0.png") / mask
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.touch if path.suffix == ".npy" else lambda: save_mask(path, make_mask((0, 1), 0)))()
    with pytest.raises(ValueError, match="1 of 1 images without a mask") as error:
        FolderReader(tmp_path, TWO).ids("train")
    assert message in str(error.value)
    image = tmp_path / "images/train/a/1.jpg"
    remedy = str(error.value).partition(f"{image}. ")[2]
    problems = check_dataset(FolderReader(tmp_path, TWO)).problems
    assert f"{image}: image without mask. {remedy}" in problems
    if '"' in message:
        pattern = message.split('"')[1]
        assert folder(tmp_path, masks=pattern).ids("train") == ["train/a/1"]


@pytest.mark.parametrize("ending", [".pgm", ".webp", ".tif"])
def test_other_endings_of_masks(tmp_path, ending):
    put(tmp_path, "images/train/1.jpg")
    mask = make_mask((0, 1), 0)
    (tmp_path / "labels/train").mkdir(parents=True)
    Image.fromarray(mask).convert("RGB" if ending == ".webp" else "L").save(
        tmp_path / f"labels/train/1{ending}", **({"lossless": True} if ending == ".webp" else {})
    )
    label = FolderReader(tmp_path, TWO).label("train/1")
    assert np.array_equal(np.asarray(label), mask)


def test_a_png_mask_goes_before_its_jpeg_preview(tmp_path):
    put(tmp_path, "images/train/1.jpg", "labels/train/1.png")
    Image.new("RGB", (48, 36), "red").save(tmp_path / "labels/train/1.jpg")
    assert names_of(folder(tmp_path), "train") == {"images/train/1.jpg": "labels/train/1.png"}


def test_cityscapes_with_train_ids_only(tmp_path):
    make_cityscapes(tmp_path)
    for path in [*tmp_path.rglob("*_labelIds.png")]:
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    with pytest.raises(ValueError, match="8 of 8 images without a mask") as error:
        open_dataset(DatasetConfig("cityscapes", str(tmp_path))).ids("train")
    assert "There is gtFine/train/aachen/aachen_000000_000019_gtFine_color.png" in str(error.value)
    images, masks = str(error.value).split('"')[1:4:2]
    reader = folder(tmp_path, images=images, masks=masks)
    assert len(reader.ids("train")) == 8
    assert len(reader.ids("val")) == 3


def test_a_broken_mask_of_an_unlabelled_image_stops_nothing(tmp_path):
    make_folder(tmp_path, train=8)
    broken = tmp_path / "labels/train/site 0/000.png"
    broken.write_bytes(b"no image")
    list_file = tmp_path / "labelled.txt"
    write_lines(list_file, ["train/site 1/001", "train/site 0/002"])
    folder = DatasetConfig(
        "folder", str(tmp_path), class_names=("a", "b", "c"), min_classes_per_image=3
    )
    configs = [
        replace(folder, split_seed=seed, **changes)
        for changes in ({"labelled_ids": str(list_file)}, {"labelled_images": 7})
        for seed in range(4)
    ]
    with pytest.warns(UserWarning, match=r"not chosen as a labelled image: .*site 0/000.png"):
        splits = [make_split(open_dataset(config), config) for config in configs]
    assert all("train/site 0/000" in split.unlabelled for split in splits)
    ids = splits[0].unlabelled
    crops = replace(configs[0], crop_size=(32, 32))
    stream = TrainStream(open_dataset(crops), ids, crops, stream="unlabelled", seed=0)
    assert all(stream[number].image.shape == (3, 32, 32) for number in range(len(ids)))
    with pytest.raises(ValueError, match=r"site 0/000.png: cannot be read as a mask"):
        make_split(open_dataset(folder), folder)
    assert any("000.png" in problem for problem in check_dataset(open_dataset(folder)).problems)
