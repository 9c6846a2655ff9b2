"""Checking an archive, resized copies, SBD's files, and the script over them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
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

from reco import cli
from reco.config import DatasetConfig
from reco.data import open_dataset
from reco.data.checks.check_dataset import CITIES, check_dataset
from reco.data.datasets import sbd
from reco.data.loading import EvalDataset
from reco.data.prepare import resize_dataset
from reco.data.splits import make_split


def reader_of(name: str, root: Path, **settings):
    return open_dataset(DatasetConfig(name=name, root=str(root), **settings))


def make_all_cities(root: Path) -> Path:
    make_cityscapes(root)
    for split, cities in CITIES.items():
        for i, city in enumerate(cities):
            mask = make_mask([7, 8, 11], i, size=(8, 16))
            stem = f"{city}_999999_000019"
            save_image(root / f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png", mask, i)
            save_mask(root / f"gtFine/{split}/{city}/{stem}_gtFine_labelIds.png", mask)
    return root


def run_prepare(*arguments: str | Path) -> int:
    return cli.main(["prepare", *map(str, arguments)])


def content(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    ("name", "make", "extra"),
    [
        ("camvid", make_camvid, {}),
        ("cityscapes", make_all_cities, {}),
        ("pascal", make_pascal, {}),
        ("sun", make_sun, {}),
        ("folder", make_folder, {"class_names": ("a", "b", "c")}),
    ],
)
def test_sound_archives_have_no_problems(tmp_path, name, make, extra):
    reader = reader_of(name, make(tmp_path), **extra)
    report = check_dataset(reader)
    assert report.problems == []
    # A test split that is not public, or that a folder does without, is nothing that is missing.
    assert not [note for note in report.notes if "no such folder" in note or "public" in note]
    for split in ("train", "val"):
        ids = reader.ids(split)
        assert report.images[split] == len(ids)
        labels = [np.array(reader.label(id)).ravel() for id in ids]
        expected = np.bincount(np.concatenate(labels), minlength=256)
        assert report.pixels[split].tolist() == expected.tolist()
    assert "no problems" in report.format()
    assert f"train: {len(reader.ids('train'))} images" in report.format()


def test_all_problems_of_a_bad_archive_are_reported_at_once(tmp_path, monkeypatch, capsys):
    root = make_all_cities(tmp_path / "city scapes")
    images, masks = root / "leftImg8bit", root / "gtFine"
    shutil.rmtree(images / "train/zurich")
    shutil.rmtree(masks / "train/zurich")
    shutil.rmtree(images / "val/munster")
    (masks / "train/ulm/ulm_999999_000019_gtFine_labelIds.png").unlink()
    broken = images / "train/aachen/aachen_000000_000019_leftImg8bit.png"
    broken.write_bytes(broken.read_bytes()[:-900])
    encoding = masks / "train/aachen/aachen_000002_000019_gtFine_labelIds.png"
    save_mask(encoding, make_mask([0, 200], 0))
    size = masks / "train/aachen/aachen_000004_000019_gtFine_labelIds.png"
    save_mask(size, make_mask([7], 0, size=(36, 47)))
    colour = masks / "val/frankfurt/frankfurt_000000_000019_gtFine_labelIds.png"
    save_image(colour, make_mask([7], 0), 0)

    assert run_prepare("cityscapes", "--root", root) == 1
    printed = capsys.readouterr().out
    problems = [line for line in printed.splitlines() if line.startswith("problem: ")]
    for expected in (
        "leftImg8bit/train/zurich: no such folder (city)",
        "gtFine/train/zurich: no such folder (city)",
        "leftImg8bit/val/munster: no such folder (city)",
        "munster_999999_000019_gtFine_labelIds.png: mask without image",
        "ulm_999999_000019_leftImg8bit.png: image without mask",
        f"{broken}: cannot be read as an image",
        f"{encoding}: holds 200, which is no class",
        f"{size} is 47 x 36 pixels",
        f"{colour}: is a colour image",
    ):
        assert len([line for line in problems if expected in line]) == 1, expected
    assert len(problems) == 9
    assert "9 problems" in printed


def test_links_to_nothing_are_problems_among_others(tmp_path, capsys):
    root = make_folder(tmp_path / "set")
    for name, target in (
        ("unlabelled/z.jpg", "/nowhere/u.jpg"),
        ("labels/val/site 0/v.png", "gone"),
    ):
        (root / name).symlink_to(target)
    image = next((root / "images/val/site 0").iterdir())
    shutil.copy(image, image.with_name("v.jpg"))
    broken = sorted((root / "images/train/site 0").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:40])
    settings = ["dataset.class_names=[a, b, c]", f"output_dir={tmp_path}"]
    assert run_prepare("folder", "--root", root, "--set", *settings) == 1
    printed = capsys.readouterr().out
    problems = [line for line in printed.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 3
    assert f"problem: {broken}: cannot be read as an image" in problems[0]
    assert problems[1:] == [
        f"problem: {root}/labels/val/site 0/v.png: is a link to gone, which is not there",
        f"problem: {root}/unlabelled/z.jpg: is a link to /nowhere/u.jpg, which is not there",
    ]


def test_missing_folders_are_all_named(tmp_path):
    make_camvid(tmp_path)
    for name in ("train", "trainannot", "valannot", "test"):
        shutil.rmtree(tmp_path / name)
    report = check_dataset(reader_of("camvid", tmp_path))
    assert [line.partition(": ")[0] for line in report.problems] == [
        str(tmp_path / name) for name in ("train", "trainannot", "valannot")
    ]
    assert report.problems[0].startswith(
        f"{tmp_path / 'train'}: no such folder. Expected: CamVid in the "
    )
    assert any("test: no such folder" in note for note in report.notes)  # worth a note only
    assert sum("Expected:" in problem for problem in report.problems) == 1


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("folder", make_folder, "images/test: no such folder"),
        ("pascal", make_pascal, "test: Pascal VOC's test labels are not public"),
    ],
)
def test_a_test_split_that_is_evaluated_has_to_be_there(tmp_path, capsys, name, make, message):
    root = make(tmp_path / name)
    classes = ["dataset.class_names=[a, b, c]"] if name == "folder" else []
    words = [name, "--root", root, "--set", f"output_dir={tmp_path}", *classes]
    assert run_prepare(*words) == 0
    assert message not in capsys.readouterr().out
    assert run_prepare(*words, "dataset.eval_split=test") == 1
    assert message in capsys.readouterr().out
    if name == "folder":  # half of it is there
        (root / "images/test").mkdir()
        assert run_prepare(*words) == 0
        assert "note: " + str(root / "labels/test: no such folder") in capsys.readouterr().out


def test_masks_of_other_splits_are_not_alone(tmp_path):
    """Lists that choose images leave masks over; only a mask whose image is nowhere is odd."""
    make_sun(tmp_path / "sun")
    write_lines(tmp_path / "sun/test_ids.txt", ["img-005052"])
    make_pascal(tmp_path / "voc")
    voc = tmp_path / "voc/VOCdevkit/VOC2012"
    write_lines(voc / "ImageSets/Segmentation/train_aug.txt", ["2007_000032"])
    save_mask(voc / "SegmentationClassAug/2011_000001.png", make_mask([1], 0))
    assert check_dataset(reader_of("sun", tmp_path / "sun")).problems == []
    (problem,) = check_dataset(reader_of("pascal", tmp_path / "voc")).problems
    assert problem.endswith("SegmentationClassAug/2011_000001.png: mask without image")


@pytest.mark.parametrize(
    ("name", "make"), [("cityscapes", make_cityscapes), ("sun", make_sun), ("camvid", make_camvid)]
)
def test_a_copy_gives_the_pixels_and_splits_of_the_original(tmp_path, name, make):
    size = (18, 24)
    original = reader_of(name, make(tmp_path / "original"))
    config = DatasetConfig(name=name, root="unused", labelled_images=3, min_classes_per_image=2)
    assert resize_dataset(original, tmp_path / "copy", size) > 0
    copy = reader_of(name, tmp_path / "copy")
    for split in ("train", "val"):
        ids = original.ids(split)
        assert copy.ids(split) == ids
        pairs = zip(EvalDataset(original, ids, size), EvalDataset(copy, ids, size), strict=True)
        for expected, sample in pairs:
            assert torch.equal(sample.image, expected.image)
            assert torch.equal(sample.label, expected.label)
    assert copy.unlabelled_ids() == original.unlabelled_ids()
    assert copy.label(copy.ids("train")[0]).size == (24, 18)
    assert make_split(copy, config) == make_split(original, config)


def test_a_class_that_vanishes_in_the_copy_still_counts_in_the_split(tmp_path):
    make_camvid(tmp_path / "original")
    mask = np.full((36, 48), 3, dtype=np.uint8)
    mask[1, 1] = 8
    save_mask(tmp_path / "original/trainannot/0001TP_006690.png", mask)
    resize_dataset(reader_of("camvid", tmp_path / "original"), tmp_path / "copy", (9, 12))
    copy = reader_of("camvid", tmp_path / "copy")
    assert set(np.unique(copy.label("0001TP_006690"))) == {3}
    assert copy.classes("0001TP_006690") == {3, 8}


def test_a_copy_follows_its_original(tmp_path):
    root, copy, size = make_camvid(tmp_path / "original"), tmp_path / "copy", (18, 24)
    number = resize_dataset(reader_of("camvid", root), copy, size)
    assert resize_dataset(reader_of("camvid", root), copy, size) == 0
    changed = root / "trainannot" / "0001TP_006690.png"
    save_mask(changed, np.full((36, 48), 5, dtype=np.uint8))
    os.utime(changed, (0, 0))  # as a mask that is put in its place from an older backup
    assert resize_dataset(reader_of("camvid", root), copy, size) == 1
    assert set(np.unique(reader_of("camvid", copy).label("0001TP_006690"))) == {5}
    assert reader_of("camvid", copy).classes("0001TP_006690") == {5}
    for name in ("train", "trainannot"):
        (root / name / "0001TP_006690.png").unlink()
    with pytest.raises(ValueError, match=r"copy: holds 2 files .*train/0001TP_006690\.png.*Delete"):
        resize_dataset(reader_of("camvid", root), copy, size)
    for name in ("train", "trainannot"):
        (copy / name / "0001TP_006690.png").unlink()
    assert resize_dataset(reader_of("camvid", root), copy, size) == 0
    assert len(reader_of("camvid", copy).listing("train").pairs) < number


def test_masks_of_large_values_survive(tmp_path):
    make_folder(tmp_path / "original", values=(0, 1))
    for path in (tmp_path / "original/labels").rglob("*.png"):
        Image.fromarray(np.array(Image.open(path)).astype(np.uint16) * 1000).save(path)
    settings = {"class_names": ("a", "b"), "label_map": {0: 0, 1000: 1}}
    original = reader_of("folder", tmp_path / "original", **settings)
    resize_dataset(original, tmp_path / "copy", (18, 24))
    copy = reader_of("folder", tmp_path / "copy", **settings)
    assert copy.ids("train") == original.ids("train")
    assert check_dataset(copy).problems == []


def test_second_run_does_nothing_and_a_hole_is_filled(tmp_path):
    original = reader_of("cityscapes", make_cityscapes(tmp_path / "original"))
    copy = tmp_path / "copy"
    written = resize_dataset(original, copy, (18, 24))
    assert written == 8 + 3 + 2
    before = content(copy)
    times = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    assert resize_dataset(original, copy, (18, 24)) == 0
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == times
    next((copy / "leftImg8bit/train/aachen").iterdir()).unlink()
    assert resize_dataset(original, copy, (18, 24)) == 1
    assert content(copy) == before


def test_copies_that_make_no_sense_are_refused(tmp_path):
    original = reader_of("camvid", make_camvid(tmp_path / "original"))
    with pytest.raises(ValueError, match="is the data set itself"):
        resize_dataset(original, tmp_path / "original", (18, 24))
    resize_dataset(original, tmp_path / "copy", (18, 24))
    with pytest.raises(ValueError, match="resized to 18x24, asked for 20x24"):
        resize_dataset(original, tmp_path / "copy", (20, 24))
    write_lines(tmp_path / "other/thesis.txt", ["years of work"])
    with pytest.raises(ValueError, match="not empty"):
        resize_dataset(original, tmp_path / "other", (18, 24))


def test_killed_half_way_it_leaves_no_broken_file_and_goes_on(tmp_path):
    original = reader_of("camvid", make_camvid(tmp_path / "original", train=40))
    size = (180, 240)
    code = (
        "import sys; from pathlib import Path; from reco.data.datasets.camvid import CamVidReader;"
        "from reco.data.prepare import resize_dataset;"
        f"resize_dataset(CamVidReader(sys.argv[1]), Path(sys.argv[2]), {size})"
    )
    copy = tmp_path / "copy"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(original.root), str(copy)], stderr=subprocess.DEVNULL
    )
    while process.poll() is None and len(list(copy.rglob("*.png"))) < 10:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    whole = [path for path in copy.rglob("*.png") if not path.name.startswith(".")]
    for path in whole:
        np.array(Image.open(path))  # decodes to the last byte
    # As if it had been killed in the middle of writing, which may or may not have happened.
    (copy / "train/.unfinished-1-1-0001TP_006690.png").write_bytes(b"half")
    written = resize_dataset(original, copy, size)
    assert 0 < written < 45
    resize_dataset(original, tmp_path / "undisturbed", size)
    assert content(copy) == content(tmp_path / "undisturbed")


def make_sbd(root: Path) -> None:
    """SBD's .mat files of the images that ``make_pascal`` gives PNGs."""
    scipy_io = pytest.importorskip("scipy.io")
    masks = root / "VOCdevkit/VOC2012/SegmentationClassAug"
    folder = root / "benchmark_RELEASE/dataset/cls"
    folder.mkdir(parents=True)
    for path in masks.iterdir():
        values = np.array(Image.open(path))
        record = np.empty((1, 1), dtype=[("Boundaries", object), ("Segmentation", object)])
        record["Boundaries"][0, 0] = np.zeros((20, 1))
        record["Segmentation"][0, 0] = values
        scipy_io.savemat(folder / f"{path.stem}.mat", {"GTcls": record})


@pytest.mark.parametrize("below", ["", "VOCdevkit/VOC2012"])
def test_sbd_conversion(tmp_path, below):
    make_pascal(tmp_path, sbd_lists=True)
    make_sbd(tmp_path)
    masks = tmp_path / "VOCdevkit/VOC2012/SegmentationClassAug"
    expected = {path.name: np.array(Image.open(path)) for path in masks.iterdir()}
    shutil.rmtree(masks)
    assert sbd.convert_sbd(tmp_path / below) == len(expected)
    for name, values in expected.items():
        image = Image.open(masks / name)
        assert image.mode == "P"
        assert (np.array(image) == values).all()
    assert sbd.convert_sbd(tmp_path / below) == 0
    assert len(reader_of("pascal", tmp_path).ids("train")) == 12
    (tmp_path / "benchmark_RELEASE/dataset/cls/2010_000001.mat").write_bytes(b"no matlab")
    with pytest.raises(ValueError, match=r"2010_000001\.mat: cannot be read as a mask of SBD"):
        sbd.convert_sbd(tmp_path)


def test_sbd_conversion_without_scipy_or_data(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no Pascal VOC here"):
        sbd.convert_sbd(tmp_path)
    make_pascal(tmp_path)
    with pytest.raises(FileNotFoundError, match="no SBD, expected one of"):
        sbd.convert_sbd(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match=r"scipy: pip install scipy$"):
        sbd.convert_sbd(tmp_path)


def test_download_asks_torchvision_for_what_is_not_there(tmp_path, monkeypatch):
    asked = []
    for name in ("VOCSegmentation", "SBDataset"):
        monkeypatch.setattr(sbd, name, lambda *a, name=name, **k: asked.append((name, a, k)))
    sbd.download_pascal(tmp_path)
    voc, masks = asked
    assert voc[:2] == ("VOCSegmentation", (tmp_path,))
    assert masks[:2] == ("SBDataset", (tmp_path / "benchmark_RELEASE/dataset",))
    assert voc[2]["download"]
    assert masks[2]["download"]
    make_pascal(tmp_path)
    (tmp_path / "benchmark_RELEASE/dataset/cls").mkdir(parents=True)
    sbd.download_pascal(tmp_path)
    assert len(asked) == 2


def test_a_copy_tells_which_images_it_leaves_out(tmp_path, caplog):
    root = make_camvid(tmp_path / "camvid")
    (root / "testannot/Seq05VD_f00030.png").unlink()
    with caplog.at_level("WARNING"):
        assert resize_dataset(reader_of("camvid", root), tmp_path / "copy", (18, 24)) == 12
    assert caplog.messages == ["test: 1 image has no mask and will not be in the copy"]


def test_command(tmp_path, capsys):
    root = make_camvid(tmp_path / "camvid")
    assert run_prepare("camvid", "--root", root) == 0
    assert "note: train holds 8 images, the official archive 367" in capsys.readouterr().out
    few = ("--set", "dataset.labelled_images=3", "dataset.image_size=[18, 24]")
    copy, split = tmp_path / "copy", tmp_path / "split.json"
    for expected in ("13 images written", "0 images written"):
        assert run_prepare("camvid", "--root", root, "--resize-to", copy, *few) == 0
        assert expected in capsys.readouterr().out
    assert run_prepare("camvid", "--root", copy, "--split", split, *few) == 0
    printed = capsys.readouterr().out
    assert "3 labelled, 5 unlabelled images" in printed
    assert "with bicyclist" in printed
    assert (
        make_split(
            reader_of("camvid", root),
            DatasetConfig(name="camvid", labelled_images=3, min_classes_per_image=9),
        ).hash
        in split.read_text()
    )
    picture = tmp_path / "budgets.png"
    assert run_prepare("camvid", "--root", root, "--picture", picture) == 0
    assert Image.open(picture).size[0] > 5 * 480
    assert run_prepare("camvid", "--root", tmp_path / "nowhere") == 1
    assert "error: " in capsys.readouterr().err
    assert run_prepare("camvid", "--convert-sbd") == 1


def test_masks_of_nothing_but_void_are_named(tmp_path):
    make_folder(tmp_path)
    void = tmp_path / "labels/train/site 0/000.png"
    save_mask(void, np.full_like(np.array(Image.open(void)), 255))
    report = check_dataset(reader_of("folder", tmp_path, class_names=("a", "b", "c")))
    assert report.notes == [f"nothing but void in 1 mask: {void}"]
    assert report.problems == []
