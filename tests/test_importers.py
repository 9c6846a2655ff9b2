"""Annotation files of other tools become a folder that trains.

Files are written by hand, so that every pixel is known, and once for each tool by the library of
the tool, where it is installed (datumaro, labelme, pycocotools).
"""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reco.cli import main
from reco.config import load_config
from reco.data import open_dataset
from reco.data.checks.check_dataset import check_dataset
from reco.data.datasets.reader import FileReader
from reco.data.importers import ImportOptions, import_dataset

SIZE = (30, 20)  # (width, height)


def picture(path: Path, size: tuple[int, int] = SIZE, *, turn: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = turn
    random = np.random.default_rng(zlib.crc32(str(path).encode()))  # no two pictures are the same
    noise = random.integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(path, exif=exif)
    return path


def save_mask(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def box(left: int, top: int, right: int, bottom: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros((size[1], size[0]), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def corners(left: int, top: int, right: int, bottom: int) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


class Imported:
    """The folder after the import, read as training reads it."""

    def __init__(self, format: str, source: Path, target: Path, **options: object) -> None:
        self.summary = import_dataset(format, source, target, ImportOptions(**options))
        self.text = self.summary.format()
        self.config = load_config(self.summary.config)
        reader = open_dataset(self.config.dataset)
        assert isinstance(reader, FileReader)
        self.reader = reader
        problems = check_dataset(reader).problems  # a few small images may lack a class
        assert [problem for problem in problems if "no labelled mask holds" not in problem] == []
        self.names = list(reader.spec.class_names)

    def label(self, name: str) -> np.ndarray:
        (id,) = [i for s in ("train", "val") for i in self.reader.ids(s) if i.endswith(f"/{name}")]
        return np.array(self.reader.label(id))


def coco(root: Path, areas: list[dict], *, names=("cat", "dog"), images=("a", "b")) -> Path:
    """A COCO file whose image a has ``areas``; b has one cat."""
    for name in images:
        picture(root / "images" / f"{name}.png")
    files = [
        {"id": i, "file_name": f"{name}.png", "width": SIZE[0], "height": SIZE[1]}
        for i, name in enumerate(images)
    ]
    last = {"image_id": 1, "category_id": 7, "segmentation": [corners(0, 0, 9, 9)]}
    content = {
        "images": files,
        "categories": [{"id": 7 + i, "name": name} for i, name in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": 0, "iscrowd": 0, **area} for i, area in enumerate([*areas, last])
        ],
    }
    path = root / "annotations.json"
    path.write_text(json.dumps(content))
    return path


def run_lengths(mask: np.ndarray) -> dict:
    """COCO's uncompressed form: runs of 0 and 1 in turns, column by column."""
    runs, value = [0], False
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return {"counts": runs, "size": list(mask.shape)}


def test_coco_polygons_run_lengths_holes_and_overlaps(tmp_path):
    pytest.importorskip("pycocotools")
    ring = box(12, 2, 28, 18) & ~box(16, 6, 20, 10)
    areas = [
        {"category_id": 8, "segmentation": [corners(2, 2, 6, 6), corners(8, 2, 9, 6)]},
        {"category_id": 7, "segmentation": [corners(0, 0, 12, 12)]},  # the larger one, below
        {"category_id": 8, "segmentation": run_lengths(ring), "iscrowd": 1},
    ]
    done = Imported("coco", coco(tmp_path, areas), tmp_path / "out")
    expected = np.zeros(SIZE[::-1], np.uint8)
    expected[box(0, 0, 12, 12)] = 1
    expected[box(2, 2, 6, 6) | box(8, 2, 9, 6) | ring] = 2
    assert done.names == ["background", "cat", "dog"]
    np.testing.assert_array_equal(done.label("a"), expected)
    assert "20 pixels lie in areas of two classes: the smaller area is on top" in done.text
    assert "1 crowd areas count as areas of their class" in done.text
    assert done.summary.left_out == []


def test_coco_what_is_not_as_it_should_be_is_told(tmp_path):
    pytest.importorskip("pycocotools")
    areas = [
        {"category_id": 7, "segmentation": [corners(20, 10, 80, 90)]},  # out of the image
        {"category_id": 8, "segmentation": [], "bbox": [0, 0, 5, 5]},
        {"category_id": 99, "segmentation": [corners(6, 6, 9, 9)]},
        {"category_id": 8, "segmentation": [corners(2, 2, 4, 4), [1, 1, 2, 2]]},
        {"category_id": 8, "segmentation": [corners(2, 2, 4, 4)], "image_id": 55},
    ]
    path = coco(tmp_path, areas, images=("a", "b", "c", "d"))
    (tmp_path / "images" / "d.png").unlink()
    picture(tmp_path / "images" / "more" / "e.png")
    done = Imported("coco", path, tmp_path / "out")
    expected = np.zeros(SIZE[::-1], np.uint8)
    expected[box(20, 10, 30, 20)] = 1
    expected[box(0, 0, 5, 5) | box(6, 6, 9, 9)] = 255
    expected[box(2, 2, 4, 4)] = 2
    np.testing.assert_array_equal(done.label("a"), expected)
    assert (done.label("c") == 0).all()
    for text in (
        "1 areas reach beyond their image: cut off at its border",
        "1 annotations have a box but no shape: the box is void",
        "1 areas of 'id 99', which the annotations do not declare: void",
        "1 polygons with fewer than three points left out",
        "1 annotated images without any area are background as a whole",
        "d.png: not in",
        "1 annotations of images that the file does not list",
        "1 unlabelled",
    ):
        assert text in done.text
    again = Imported("coco", path, tmp_path / "again", empty="unlabelled", uncovered="void")
    assert again.names == ["cat", "dog"]
    assert set(np.unique(again.label("a"))) == {0, 1, 255}
    assert len(again.reader.unlabelled_ids()) == 2


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[0, 0, float("nan"), 5, 5, 5]], "coordinate nan: expected numbers up to 10 times"),
        ([[0, 0, 9, 0, float("inf"), 9]], "coordinate inf: expected"),
        ([[0, 0, 9, 0, 9, 1e12]], r"coordinate 1e\+12: expected"),
        ([[0, 0, 9, 0, 9, 9, 9]], "7 coordinates: expected x, y of at least 3 points"),
        ([[0, 0, 9, 0, 9, "9"]], r"\[\[0, 0, 9, 0, 9, '9'\]\]: expected polygons"),
        ([0, 0, 9, 0, 9, 9], r"\[0, 0, 9, 0, 9, 9\]: expected polygons"),
        ({"counts": [100, 200], "size": [20, 30]}, "run lengths of 300 pixels.* expected 600"),
        ({"counts": [700, -100], "size": [20, 30]}, "the least -100"),
        ({"counts": "zzzz", "size": [20, 30]}, "'z' in compressed run lengths"),
        ({"counts": "P", "size": [20, 30]}, "compressed run lengths end within a number"),
        ({"counts": "44", "size": [20, 30]}, "run lengths of 8 pixels"),
        ({"counts": [600]}, "expected polygons"),
        ({"counts": [600], "size": [30, 20]}, "run lengths for size"),
    ],
)
def test_a_coco_image_with_a_broken_area_is_left_out(tmp_path, segmentation, message):
    pytest.importorskip("pycocotools")
    areas = [
        {"category_id": 8, "segmentation": segmentation},
        {"category_id": 7, "segmentation": [corners(0, 0, 9, 9)], "image_id": 2},
    ]
    path = coco(tmp_path, areas, images=("a", "b", "c"))
    done = Imported("coco", path, tmp_path / "out")
    (left_out,) = done.summary.left_out
    assert re.search(rf"a\.png: annotation 0: .*{message}", left_out), left_out
    assert done.names == ["background", "cat"]
    assert len(done.reader.ids("train")) == len(done.reader.ids("val")) == 1
    assert done.reader.unlabelled_ids() == []


def change(path: Path, key: str, index: int, **values: object) -> Path:
    """A COCO file with other values in one of its items."""
    content = json.loads(path.read_text())
    content[key][index] |= values
    path.write_text(json.dumps(content))
    return path


def test_coco_images_that_are_not_as_they_should_be_are_left_out(tmp_path):
    pytest.importorskip("pycocotools")
    names = [*"abcdefghi"]
    cats = [
        {"category_id": 7, "segmentation": [corners(0, 0, 9, 9)], "image_id": i} for i in range(9)
    ]
    path = coco(tmp_path, cats, images=names)
    change(path, "images", 2, width="30")
    change(path, "images", 3, file_name="e.png")  # the same as the next
    change(path, "images", 5, file_name=None)
    change(path, "images", 6, width=10**9, height=10**9)
    change(path, "images", 7, id=1)
    done = Imported("coco", path, tmp_path / "out")
    reasons = "\n".join(done.summary.left_out)
    for text in (
        "c.png: .*width = '30': expected a int",
        "e.png: annotated 2 times, expected once: e.png in .*, e.png in ",
        "image 5: file_name = None: expected a str",
        "g.png: annotated at 1000000000 x 1000000000 pixels, but the image is 30 x 20",
        "b.png: .* 2 images have this id, expected one",
        "h.png: .* 2 images have this id, expected one",
    ):
        assert re.search(text, reasons), reasons


def test_coco_ids_that_contradict_each_other_stop_the_import(tmp_path):
    pytest.importorskip("pycocotools")
    path = change(coco(tmp_path, []), "categories", 1, id=7)
    with pytest.raises(ValueError, match="categories: id 7 is both cat and dog"):
        import_dataset("coco", path, tmp_path / "out")
    path = change(coco(tmp_path, []), "annotations", 0, image_id=[1])
    with pytest.raises(ValueError, match=r"annotations, item 1: .*expected an object"):
        import_dataset("coco", path, tmp_path / "out")


def test_more_classes_than_a_mask_can_hold_are_an_error(tmp_path):
    pytest.importorskip("pycocotools")
    names = [f"k{number}" for number in range(254)]
    areas = [
        {"category_id": 7 + number, "segmentation": [corners(0, 0, 9, 9)]} for number in range(254)
    ]
    with pytest.raises(ValueError, match=r"255 classes, expected at most 254: .* --classes"):
        import_dataset("coco", coco(tmp_path, areas, names=names), tmp_path / "out")


def test_an_image_in_another_folder_than_its_annotation_says_is_told(tmp_path):
    """Not where the folders of another machine come before those here, or a name has none."""
    pytest.importorskip("pycocotools")
    areas = [{"category_id": 7, "segmentation": [corners(0, 0, 9, 9)], "image_id": 2}]
    path = coco(tmp_path, areas, images=("a", "b", "c"))
    change(path, "images", 0, file_name="/home/x/images/a.png")
    change(path, "images", 1, file_name="set2/b.png")
    done = Imported("coco", path, tmp_path / "out")
    assert "1 images are from other folders than their annotations say" in done.text
    assert "say: images/b.png for set2/b.png" in done.text
    picture(tmp_path / "p" / "a" / "one.png")
    labelme(tmp_path / "p" / "b" / "one.json", [square("cat", 1, 1, 5, 5)])
    picture(tmp_path / "p" / "two.png")
    labelme(tmp_path / "p" / "two.json", [square("cat", 1, 1, 5, 5)])
    done = Imported("labelme", tmp_path / "p", tmp_path / "labelme")
    assert "1 images are from other folders" in done.text
    assert "say: a/one.png for b/one.png" in done.text


def test_coco_splits_of_roboflow_and_of_datumaro(tmp_path):
    pytest.importorskip("pycocotools")
    for split in ("train", "valid"):
        path = coco(tmp_path / "in" / split, [], names=("things", "cat"), images=("a", "b"))
        content = json.loads(path.read_text())
        content["categories"][1]["supercategory"] = "things"
        for annotation in content["annotations"]:
            annotation["category_id"] = 8
        path.with_name("_annotations.coco.json").write_text(json.dumps(content))
        path.unlink()
    done = Imported("coco", tmp_path / "in", tmp_path / "out")
    assert done.names == ["background", "cat"]
    assert "no classes, since they have no areas: things" in done.text
    assert done.reader.ids("train") == ["train/a", "train/b"]
    assert done.reader.ids("val") == ["val/a", "val/b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a JSON file"),
        ("[]", "expected a COCO file of object instances"),
        ('{"images": [], "annotations": [{"segments_info": []}], "categories": [1]}', "expected a"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1}]}',
            "categories: name = None: expected a str",
        ),
    ],
)
def test_other_json_is_refused_by_name(tmp_path, content, message):
    pytest.importorskip("pycocotools")
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=rf"x\.json.*{message}"):
        import_dataset("coco", tmp_path / "x.json", tmp_path / "out")


def labelme(path: Path, shapes: list[dict], *, size=SIZE, image: str | None = None, data=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "version": "5.0.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": image or f"{path.stem}.png",
        "imageData": data,
        "imageHeight": size[1],
        "imageWidth": size[0],
    }
    path.write_text(json.dumps(content))


def shape(label: str, points: list[list[float]], kind: str = "polygon", **more: object) -> dict:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, **more}


def square(label: str, left: int, top: int, right: int, bottom: int) -> dict:
    return shape(label, [[left, top], [right, top], [right, bottom], [left, bottom]])


def test_labelme_order_holes_and_void(tmp_path):
    png = io.BytesIO()
    Image.fromarray(np.eye(3, dtype=np.uint8) * 255).save(png, "PNG")
    mask = base64.b64encode(png.getvalue()).decode()
    shapes = [
        square("dog", 0, 0, 10, 10),
        square("cat", 5, 5, 15, 15),  # the later one on top
        square("_background_", 7, 7, 8, 8),
        square("__ignore__", 12, 12, 13, 13),
        shape("dog", [[20, 0], [22, 2]], "mask", mask=mask),
        shape("dog", [[28, 18], [40, 50]], "rectangle"),
    ]
    picture(tmp_path / "photos" / "a.png")
    labelme(tmp_path / "photos" / "a.json", shapes)
    for name in ("b", "sub/c"):
        picture(tmp_path / "photos" / f"{name}.png")
        labelme(tmp_path / "photos" / f"{name}.json", [shape("cat", [[4, 4], [9, 4]], "circle")])
    picture(tmp_path / "photos" / "without.jpg")
    picture(tmp_path / "photos" / "masks" / "a.png")  # not a photo
    labelme(tmp_path / "photos" / "gone.json", [])
    done = Imported("labelme", tmp_path / "photos", tmp_path / "out")
    # labelme includes borders: a polygon to 10 covers the pixels 0 to 10.
    expected = np.zeros(SIZE[::-1], np.uint8)
    expected[box(0, 0, 11, 11)] = 2
    expected[box(5, 5, 16, 16)] = 1
    expected[box(7, 7, 9, 9)] = 0
    expected[box(12, 12, 14, 14)] = 255
    expected[[0, 1, 2], [20, 21, 22]] = 2
    expected[box(28, 18, 30, 20)] = 2
    assert done.names == ["background", "cat", "dog"]
    np.testing.assert_array_equal(done.label("a"), expected)
    assert done.reader.unlabelled_ids() == ["unlabelled/without"]
    assert "gone.json: its image gone.png is not there" in done.text
    assert "1 images in folders named masks are masks by their name" in done.text
    assert "void are the areas of __ignore__" in done.text
    chosen = Imported("labelme", tmp_path / "photos", tmp_path / "dogs", class_names=("dog",))
    assert chosen.names == ["background", "dog"]
    assert (chosen.label("a") == np.choose(np.minimum(expected, 3), [0, 255, 1, 255])).all()
    assert "void are the areas of __ignore__, cat" in chosen.text


def test_labelme_with_embedded_images_alone(tmp_path):
    for name in ("a", "b"):
        data = picture(tmp_path / "elsewhere" / f"{name}.png").read_bytes()
        text = base64.b64encode(data).decode()
        labelme(
            tmp_path / "json" / f"{name}.json",
            [square("cat", 1, 1, 5, 5)],
            image=f"..\\photos\\{name}.png",
            data=text,
        )
    done = Imported("labelme", tmp_path / "json", tmp_path / "out")
    (id,) = done.reader.ids("train")
    original = Image.open(tmp_path / "elsewhere" / f"{id[-1]}.png")
    assert (np.array(done.reader.image(id)) == np.array(original)).all()


def test_photos_that_exif_turns(tmp_path):
    """Annotated upright, or as stored (then masks are turned), or at neither size."""
    picture(tmp_path / "p" / "upright.jpg", (20, 30), turn=6)
    labelme(tmp_path / "p" / "upright.json", [square("cat", 25, 1, 29, 3)], image="upright.jpg")
    picture(tmp_path / "p" / "stored.jpg", (20, 30), turn=6)
    labelme(
        tmp_path / "p" / "stored.json",
        [square("cat", 1, 25, 3, 29)],
        size=(20, 30),
        image="stored.jpg",
    )
    picture(tmp_path / "p" / "small.jpg", (15, 10))
    labelme(tmp_path / "p" / "small.json", [square("cat", 1, 1, 3, 3)], image="small.jpg")
    done = Imported("labelme", tmp_path / "p", tmp_path / "out")
    np.testing.assert_array_equal(done.label("upright"), box(25, 1, 30, 4))
    # A quarter to the right: the lower left corner comes to the upper left.
    np.testing.assert_array_equal(done.label("stored"), box(0, 1, 5, 4))
    assert "small.jpg: annotated at 30 x 20 pixels, but the image is 15 x 10" in done.text
    assert "1 photos that EXIF turns, annotated as stored: masks are turned too" in done.text


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (shape("cat", [[float("nan"), 10], [12, 12], [5, 8]]), "coordinate nan: expected numbers"),
        (shape("cat", [[1e9, 10], [12, 12], [5, 8]]), r"coordinate 1e\+09: expected numbers"),
        (
            shape("cat", [["5", 10], [12, 12], [5, 8]]),
            r"\[\['5', 10\].*expected numbers \[\[x, y\]",
        ),
        (shape("cat", [[None, 10], [12, 12], [5, 8]]), "expected numbers"),
        (shape("cat", [[1, 2], [3, 4]]), "4 coordinates: expected x, y of at least 3 points"),
        (shape("cat", [[1, 2], [3, 4], [5, 6]], "rectangle"), "expected .*two pairs for a rect"),
        (shape("cat", [[1, 2], [3, 4]], "sphere"), "sphere: expected as shape_type one of polygon"),
        (
            shape("cat", [[1, 2], [3, 4]], "mask", mask="?"),
            "mask: '?.*: expected a PNG file in base",
        ),
        ({"label": "cat"}, "0 coordinates: expected"),
        ({"points": []}, "label = None: expected a str"),
        (5, "label = None: expected a str"),
    ],
)
def test_a_labelme_image_with_a_broken_shape_is_left_out(tmp_path, broken, message):
    for name in "abc":
        picture(tmp_path / "p" / f"{name}.png")
        labelme(tmp_path / "p" / f"{name}.json", [square("dog", 1, 1, 5, 5)])
    labelme(tmp_path / "p" / "a.json", [square("cat", 1, 1, 5, 5), broken])
    done = Imported("labelme", tmp_path / "p", tmp_path / "out")
    (left_out,) = done.summary.left_out
    assert re.search(rf"a\.png: shape 2 of a\.json: .*{message}", left_out), left_out
    assert "no classes, since no mask holds them: cat" in done.text
    assert done.names == ["background", "dog"]
    np.testing.assert_array_equal(done.label("b"), box(1, 1, 6, 6))


def test_labelme_files_that_cannot_be_read_are_left_out(tmp_path):
    for name in "abcdefg":
        picture(tmp_path / "p" / f"{name}.png")
        labelme(tmp_path / "p" / f"{name}.json", [square(" dog ", 1, 1, 5, 5)])
    labelme(tmp_path / "p" / "a.json", [square("dog", 1, 1, 5, 5)])
    (tmp_path / "p" / "c.json").write_text("{")
    labelme(tmp_path / "p" / "d.json", "shapes")
    labelme(tmp_path / "p" / "e.json", [], size=("x", 20))
    labelme(tmp_path / "p" / "f.json", [], image="g.png")
    labelme(tmp_path / "p" / "h.json", [], data="junk")
    done = Imported("labelme", tmp_path / "p", tmp_path / "out")
    assert done.names == ["background", "dog"]
    reasons = "\n".join(done.summary.left_out)
    for text in (
        "c.json: not a JSON file",
        "d.json: shapes = 'shapes': expected a list",
        "e.png: .*imageWidth, imageHeight: \\('x', 20\\): expected whole numbers",
        "g.png: annotated 2 times, expected once: .*f.json, .*g.json",
        "h.json: imageData: 'junk': expected an image file in base64",
    ):
        assert re.search(text, reasons), reasons


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><job><labels>
<label><name>cat</name></label><label><name>dog</name></label></labels></job></meta>
<image id="0" name="a.png" width="30" height="20">
<box label="dog" xtl="2" ytl="2" xbr="8" ybr="8" z_order="1"/>
<polygon label="cat" points="0,0;12,0;12,12;0,12" z_order="0"/>
<mask label="dog" rle="0, 1, 2, 3" left="20" top="10" width="3" height="2" z_order="0"/>
<box label="cat" xtl="18" ytl="1" xbr="20" ybr="7" rotation="90" z_order="0"/>
<ellipse label="cat" cx="25" cy="16" rx="2" ry="1" z_order="0"/>
<polyline label="cat" points="0,0;5,5" z_order="0"/>
<polygon label="bird" points="13,13;15,13;15,15;13,15" z_order="0"/>
</image>
<image id="1" name="b.png" width="30" height="20"/>
</annotations>"""


def test_cvat_xml(tmp_path):
    pytest.importorskip("pycocotools")
    source = tmp_path / "in"
    picture(source / "images" / "a.png")
    picture(source / "images" / "b.png")
    (source / "annotations.xml").write_text(CVAT)
    done = Imported("cvat", source, tmp_path / "out")
    labels = done.label("a")
    expected = np.zeros(SIZE[::-1], np.uint8)
    expected[box(0, 0, 12, 12)] = 1
    expected[box(2, 2, 8, 8)] = 2
    expected[10, 20] = expected[11, 20:23] = 2  # rows 100 and 111
    expected[box(16, 3, 22, 5)] = 1
    expected[box(13, 13, 15, 15)] = 255
    ellipse = labels[14:18, 22:28] == 1
    assert 4 <= ellipse.sum() <= 8
    assert (labels[15:17, 23:27] == 1).sum() == ellipse.sum()
    expected[14:18, 22:28] = labels[14:18, 22:28]
    np.testing.assert_array_equal(labels, expected)
    assert "1 shapes of the kind polyline left out: they enclose no area" in done.text
    assert "import with --uncovered void" not in done.text
    assert "1 areas of 'bird', which the annotations do not declare: void" in done.text
    (source / "annotations.xml").write_text("<annotations><track/></annotations>")
    with pytest.raises(ValueError, match="export the task as 'CVAT for images'"):
        import_dataset("cvat", source, tmp_path / "other")


POLYGON = '<polygon label="cat" points="0,0;9,0;9,9"/>'


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ('width="30" height="20"><polygon label="cat" points="5,5;9,9"/>', "4 coordinates"),
        ('width="30" height="20"><polygon label="cat" points=""/>', "expected points="),
        ('width="30" height="20"><polygon label="cat" points="nan,0;9,0;9,9"/>', "coordinate nan"),
        ('width="30" height="20"><box label="cat" xtl="1"/>', "expected numbers xtl, ytl, xbr"),
        ('width="30" height="20"><box label="cat" z_order="a"/>', "z_order: .* whole numbers"),
        (
            'width="30" height="20"><mask label="cat" rle="3" left="0" top="0" width="2" '
            'height="1"/>',
            "a mask of 3 pixels in a box of 2 x 1",
        ),
        (
            'width="30" height="20"><mask label="cat" rle="90000" left="0" top="0" width="300" '
            'height="300"/>',
            "a box of 300 x 300 pixels: expected",
        ),
        (f'height="20">{POLYGON}', "expected whole numbers width, height"),
    ],
)
def test_a_cvat_image_with_a_broken_shape_is_left_out(tmp_path, image, message):
    pytest.importorskip("pycocotools")
    for name in "abc":
        picture(tmp_path / "in" / f"{name}.png")
    sound = [f'<image name="{n}.png" width="30" height="20">{POLYGON}</image>' for n in "bc"]
    (tmp_path / "in" / "annotations.xml").write_text(
        "<annotations><meta><job><labels><label><name> cat</name></label></labels></job></meta>"
        f'<image name="a.png" {image}</image>{"".join(sound)}</annotations>'
    )
    done = Imported("cvat", tmp_path / "in", tmp_path / "out")
    (left_out,) = done.summary.left_out
    assert re.search(rf"a\.png: .*{message}", left_out), left_out
    assert done.names == ["background", "cat"]


def test_cvat_annotations_that_share_an_image_are_left_out(tmp_path):
    pytest.importorskip("pycocotools")
    for name in "abc":
        picture(tmp_path / "in" / f"{name}.png")
    names = ("t1/a", "t2/a", "b", "c")
    images = [f'<image name="{n}.png" width="30" height="20">{POLYGON}</image>' for n in names]
    (tmp_path / "in" / "annotations.xml").write_text(
        "<annotations><meta><job><labels><label><name>cat</name></label></labels></job></meta>"
        f"{''.join(images)}<image/></annotations>"
    )
    done = Imported("cvat", tmp_path / "in", tmp_path / "out")
    assert "a.png: annotated 2 times, expected once: t1/a.png in " in done.text
    assert "image None has no name" in done.text
    assert done.reader.unlabelled_ids() == []


def test_cvat_masks_over_the_border_are_cut_off(tmp_path):
    pytest.importorskip("pycocotools")
    box_of = 'label="cat" rle="0,12" width="4" height="3"'
    for name in "ab":
        picture(tmp_path / "in" / f"{name}.png")
    images = [
        f'<image name="{n}.png" width="30" height="20"><mask {box_of} left="-2" top="-1"/>'
        f'<mask {box_of} left="28" top="18"/></image>'
        for n in "ab"
    ]
    (tmp_path / "in" / "annotations.xml").write_text(
        "<annotations><meta><job><labels><label><name>cat</name></label></labels></job></meta>"
        f"{''.join(images)}</annotations>"
    )
    done = Imported("cvat", tmp_path / "in", tmp_path / "out")
    np.testing.assert_array_equal(done.label("a"), box(0, 0, 2, 2) | box(28, 18, 30, 20))


def test_cvat_segmentation_masks(tmp_path):
    root = tmp_path / "export"
    values = np.zeros((20, 30, 3), np.uint8)
    values[2:5, 2:5] = (250, 50, 83)
    values[10:12, 2:5] = (1, 2, 3)  # of no class
    for name in ("a", "b"):
        picture(root / "JPEGImages" / f"{name}.png")
        save_mask(root / "SegmentationClass" / f"{name}.png", values)
        save_mask(root / "SegmentationObject" / f"{name}.png", values)
    picture(root / "JPEGImages" / "without.png")
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\n"
    )
    done = Imported("cvat", root, tmp_path / "out")
    expected = np.zeros((20, 30), np.uint8)
    expected[2:5, 2:5], expected[10:12, 2:5] = 1, 255
    np.testing.assert_array_equal(done.label("a"), expected)
    assert done.reader.unlabelled_ids() == ["unlabelled/without"]
    assert "12 pixels of a colour that labelmap.txt does not have: void" in done.text


def test_instances(tmp_path):
    root = tmp_path / "stage1_train"
    for name in ("aa", "bb", "cc"):
        picture(root / name / "images" / f"{name}.png")
        save_mask(root / name / "masks" / "1.png", box(1, 1, 5, 5).astype(np.uint8) * 255)
        save_mask(root / name / "masks" / "2.png", box(4, 4, 9, 9).astype(np.uint8) * 255)
    picture(tmp_path / "stage1_test" / "dd" / "images" / "dd.png")
    save_mask(root / "cc" / "masks" / "3.png", np.zeros((3, 3), np.uint8))
    done = Imported("instances", tmp_path, tmp_path / "out", class_names=("background", "nucleus"))
    assert done.names == ["background", "nucleus"]
    np.testing.assert_array_equal(done.label("aa"), box(1, 1, 5, 5) | box(4, 4, 9, 9))
    assert len(done.reader.unlabelled_ids()) == 1
    assert "3.png is 3 x 3 pixels, its image 30 x 20" in done.text
    assert "two classes" not in done.text


def in_mode(mode: str, inside: np.ndarray) -> Image.Image:
    """A mask of black and white, or of 0 and 300 where ``mode`` holds it, opaque everywhere."""
    if mode == "I;16":
        return Image.fromarray(inside.astype(np.uint16) * 300)
    if mode == "I":
        return Image.fromarray(inside.astype(np.int32) * 300)
    if mode == "F":
        return Image.fromarray(inside.astype(np.float32))
    if mode in ("P", "PA"):
        image = Image.fromarray((~inside).astype(np.uint8)).convert("P")
        image.putpalette([255, 255, 255, 0, 0, 0])  # the object has index 0
        return image.convert(mode)
    return Image.fromarray(inside.astype(np.uint8) * 255).convert(mode)


MODES = ["1.png", "L.png", "LA.png", "P.png", "RGB.png", "RGBA.png", "I;16.png"]
MODES += ["1.tif", "L.tif", "LA.tif", "P.tif", "PA.tif", "RGB.tif", "RGBA.tif", "I;16.tif"]
MODES += ["I.tif", "F.tif", "CMYK.tif", "L.bmp", "P.bmp", "RGBA.webp", "L.gif", "L.pgm"]


@pytest.mark.parametrize("kind", MODES)
def test_instances_in_every_mode(tmp_path, kind):
    """An alpha channel is no object."""
    mode, _, ending = kind.rpartition(".")
    for name in ("aa", "bb"):
        picture(tmp_path / "in" / name / "images" / f"{name}.png")
        path = tmp_path / "in" / name / "masks" / f"1.{ending}"
        path.parent.mkdir(parents=True)
        lossless = {"lossless": True} if ending == "webp" else {}
        in_mode(mode, box(1, 1, 5, 5)).save(path, **lossless)
    done = Imported("instances", tmp_path / "in", tmp_path / "out")
    np.testing.assert_array_equal(done.label("aa"), box(1, 1, 5, 5))


def test_instances_with_a_mask_of_no_whole_numbers_are_left_out(tmp_path):
    for name in ("aa", "bb", "cc"):
        picture(tmp_path / "in" / name / "images" / f"{name}.png")
        save_mask(tmp_path / "in" / name / "masks" / "1.png", box(1, 1, 5, 5))
    soft = np.full(SIZE[::-1], 0.25, np.float32)
    save_mask(tmp_path / "in" / "cc" / "masks" / "2.tif", soft)
    done = Imported("instances", tmp_path / "in", tmp_path / "out")
    (left_out,) = done.summary.left_out
    assert "2.tif: holds floating-point numbers from 0.25 to 0.25" in left_out


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1"])
def test_cvat_segmentation_masks_in_every_mode(tmp_path, mode):
    root = tmp_path / "export"
    for name in ("a", "b"):
        picture(root / "JPEGImages" / f"{name}.png")
        path = root / "SegmentationClass" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        in_mode(mode, box(1, 1, 5, 5)).save(path)
    (root / "labelmap.txt").write_text("background:0,0,0::\ncat:255,255,255::\n")
    done = Imported("cvat", root, tmp_path / "out")
    np.testing.assert_array_equal(done.label("a"), box(1, 1, 5, 5))


def test_cvat_masks_with_values_beyond_8_bit_have_no_colour(tmp_path):
    root = tmp_path / "export"
    values = np.zeros(SIZE[::-1], np.uint16)
    values[box(1, 1, 5, 5)], values[box(8, 8, 9, 9)] = 255, 65535
    for name in ("a", "b"):
        picture(root / "JPEGImages" / f"{name}.png")
        save_mask(root / "SegmentationClass" / f"{name}.png", values)
    (root / "labelmap.txt").write_text("background:0,0,0::\ncat:255,255,255::\n")
    done = Imported("cvat", root, tmp_path / "out")
    expected = box(1, 1, 5, 5).astype(np.uint8)
    expected[box(8, 8, 9, 9)] = 255
    np.testing.assert_array_equal(done.label("a"), expected)
    assert "2 pixels of a colour that labelmap.txt does not have: void" in done.text


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_roboflow_masks_in_every_mode(tmp_path, mode):
    values = np.zeros(SIZE[::-1], np.uint8)
    values[2:5, 2:5] = 2
    mask = Image.fromarray(values.astype(np.uint16) if mode == "I;16" else values).convert(mode)
    for name in "ab":
        picture(tmp_path / "in" / f"{name}.jpg")
        mask.save(tmp_path / "in" / f"{name}_mask.png")
    (tmp_path / "in" / "_classes.csv").write_text("Pixel Value, Class\n0, background\n2, cat\n")
    done = Imported("roboflow", tmp_path / "in", tmp_path / "out")
    np.testing.assert_array_equal(done.label("a"), values // 2)


def test_a_roboflow_mask_of_colours_is_left_out(tmp_path):
    values = np.zeros(SIZE[::-1], np.uint8)
    values[2:5, 2:5] = 2
    for name in "abc":
        picture(tmp_path / "in" / f"{name}.jpg")
        save_mask(tmp_path / "in" / f"{name}_mask.png", values)
    save_mask(tmp_path / "in" / "c_mask.png", np.stack([values, 0 * values, values], axis=2))
    (tmp_path / "in" / "_classes.csv").write_text("Pixel Value, Class\n0, background\n2, cat\n")
    done = Imported("roboflow", tmp_path / "in", tmp_path / "out")
    (left_out,) = done.summary.left_out
    assert "c_mask.png: is a mask of colours, expected the values of _classes.csv" in left_out


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "I;16"])
def test_labelme_masks_in_every_mode(tmp_path, mode):
    image = in_mode(mode, np.eye(3, dtype=bool))
    if mode in ("RGB", "RGBA"):
        red = np.array(image)
        red[..., 1:3] = 0
        image = Image.fromarray(red)
    png = io.BytesIO()
    image.save(png, "PNG")
    mask = base64.b64encode(png.getvalue()).decode()
    for name in "ab":
        picture(tmp_path / "p" / f"{name}.png")
        shapes = [shape("dog", [[20, 0], [22, 2]], "mask", mask=mask)]
        labelme(tmp_path / "p" / f"{name}.json", shapes)
    done = Imported("labelme", tmp_path / "p", tmp_path / "out")
    expected = np.zeros(SIZE[::-1], np.uint8)
    expected[[0, 1, 2], [20, 21, 22]] = 1
    np.testing.assert_array_equal(done.label("a"), expected)


def test_roboflow_masks(tmp_path):
    values = np.zeros((20, 30), np.uint8)
    values[2:5, 2:5], values[8, 8], values[9, 9] = 2, 9, 1
    for split in ("train", "valid"):
        (tmp_path / "in" / split).mkdir(parents=True)
        (tmp_path / "in" / split / "_classes.csv").write_text(
            "Pixel Value, Class\n0, background\n1, cat\n2, dog\n"
        )
        picture(tmp_path / "in" / split / "a_jpg.rf.12.jpg")
        save_mask(tmp_path / "in" / split / "a_jpg.rf.12_mask.png", values)
    picture(tmp_path / "in" / "train" / "without.jpg")
    done = Imported("roboflow", tmp_path / "in", tmp_path / "out")
    assert done.names == ["background", "cat", "dog"]
    assert done.reader.ids("val") == ["val/a_jpg.rf.12"]
    values[8, 8] = 255
    np.testing.assert_array_equal(np.array(done.reader.label("val/a_jpg.rf.12")), values)
    assert done.reader.unlabelled_ids() == ["unlabelled/train/without"]
    assert "2 pixels of a value that _classes.csv does not have: void" in done.text


def test_roboflow_tables(tmp_path):
    values = np.zeros((20, 30), np.uint8)
    values[2:5, 2:5] = 2
    for name in "ab":
        picture(tmp_path / "in" / f"{name}.jpg")
        save_mask(tmp_path / "in" / f"{name}_mask.png", values)
    table = tmp_path / "in" / "_classes.csv"
    table.write_text('Pixel Value, Class\n0, background\n1, never\n2, "dog, big"\n')
    done = Imported("roboflow", tmp_path / "in", tmp_path / "out")
    assert done.names == ["background", "dog, big"]
    assert "no classes, since no mask holds them: never" in done.text
    np.testing.assert_array_equal(done.label("a"), values // 2)
    assert done.summary.pixels[[0, 1, 2, 255]].tolist() == [2 * 591, 18, 0, 0]
    table.write_text("Pixel Value, Class\n0, background\n2, cat\n2, dog\n")
    with pytest.raises(ValueError, match=r"_classes.csv: value 2 is both cat and dog"):
        import_dataset("roboflow", tmp_path / "in", tmp_path / "other")
    table.write_text("Pixel Value, Class\n0, background\n1, cat\n")
    with pytest.raises(ValueError, match="classes without a pixel in any mask: cat"):
        import_dataset("roboflow", tmp_path / "in", tmp_path / "third")


def test_an_image_that_alone_holds_a_class_stays_in_training(tmp_path):
    names = "abcdefghij"
    for number, rare in enumerate(names[:4]):
        for name in names:
            picture(tmp_path / str(number) / f"{name}.png")
            label = "dog" if name == rare else "cat"
            labelme(tmp_path / str(number) / f"{name}.json", [square(label, 1, 1, 5, 5)])
        done = Imported("labelme", tmp_path / str(number), tmp_path / f"out{number}")
        assert f"train/{rare}" in done.reader.ids("train")
        assert len(done.reader.ids("val")) == 2
    for name in "ab":  # each alone
        picture(tmp_path / "two" / f"{name}.png")
        labelme(tmp_path / "two" / f"{name}.json", [square(name, 1, 1, 5, 5)])
    text = import_dataset("labelme", tmp_path / "two", tmp_path / "out").format()
    assert re.search("no training image holds [ab], which stops a run", text)


def test_validation_images_depend_on_names_alone(tmp_path):
    for name in "abcdefghij":
        picture(tmp_path / "p" / f"{name}.png")
        labelme(tmp_path / "p" / f"{name}.json", [square("cat", 1, 1, 5, 5)])
    first = Imported("labelme", tmp_path / "p", tmp_path / "one")
    picture(tmp_path / "p" / "k.png")
    labelme(tmp_path / "p" / "k.json", [square("cat", 1, 1, 5, 5)])
    second = Imported("labelme", tmp_path / "p", tmp_path / "two", copy=True)
    assert len(first.reader.ids("val")) == len(second.reader.ids("val")) == 2
    assert len({*first.reader.ids("val")} & {*second.reader.ids("val")}) >= 1
    assert all(not p.is_symlink() for p in (tmp_path / "two").rglob("*"))
    assert any(p.is_symlink() for p in (tmp_path / "one").rglob("*"))


def test_areas_that_cover_all_but_slivers_are_pointed_out(tmp_path):
    for name in "ab":
        picture(tmp_path / "p" / f"{name}.png", (60, 50))
        shapes = [square("sky", 0, 0, 59, 30), square("road", 0, 31, 59, 49)]
        shapes.append(square("_background_", 0, 0, 0, 0))
        labelme(tmp_path / "p" / f"{name}.json", shapes, size=(60, 50))
    told = import_dataset("labelme", tmp_path / "p", tmp_path / "one").format()
    assert "background, the pixels of no area, fills 0.033%" in told
    options = {"uncovered": "void", "void_names": ("_background_",)}
    done = Imported("labelme", tmp_path / "p", tmp_path / "two", **options)
    assert done.names == ["road", "sky"]
    assert "import with --uncovered void" not in done.text


def test_the_command(tmp_path, capsys):
    for name in "abc":
        picture(tmp_path / "p" / f"{name}.png")
    for name in "ab":
        labelme(tmp_path / "p" / f"{name}.json", [square("cat", 1, 1, 5, 5)])
    picture(tmp_path / "more" / "a.jpg")

    def run(*words: object) -> int:
        return main(["prepare", "import", *map(str, words)])

    arguments = ("labelme", tmp_path / "p", "--to", tmp_path / "out", "--unlabelled")
    assert run(*arguments, tmp_path / "more") == 0
    assert "1 train, 1 val, 2 unlabelled images" in capsys.readouterr().out
    assert run(*arguments, tmp_path / "more") == 1
    assert f"{tmp_path / 'out'}: is not empty" in capsys.readouterr().err
    # One that fails after it wrote masks leaves nothing that would be in the way of the next.
    (tmp_path / "empty").mkdir()
    for target in ("empty", "new", "deep/new"):
        again = ("labelme", tmp_path / "p", "--to", tmp_path / target)
        for name in "ab":  # without a pixel of background
            labelme(tmp_path / "p" / f"{name}.json", [square("cat", 0, 0, *SIZE)])
        assert run(*again) == 1
        assert (tmp_path / target).exists() == (target == "empty")
        assert "classes without a pixel in any mask: background" in capsys.readouterr().err
        labelme(tmp_path / "p" / "b.json", [])
        assert run(*again) == 0
    assert run("coco", tmp_path / "nothing", "--to", tmp_path / "x") == 1
    assert "nothing: no such file or folder" in capsys.readouterr().err


def test_files_that_datumaro_wrote(tmp_path):
    datumaro = pytest.importorskip("datumaro")
    pytest.importorskip("pycocotools")
    ring = box(12, 2, 28, 18) & ~box(16, 6, 20, 10)
    small = box(16, 6, 18, 8)
    random = np.random.default_rng(0)
    items = [
        datumaro.DatasetItem(
            id=id,
            subset=subset,
            media=datumaro.components.media.Image.from_numpy(
                random.integers(0, 255, (20, 30, 3), np.uint8)
            ),
            annotations=[
                datumaro.Polygon(corners(0, 0, 12, 12), label=0, z_order=0),
                datumaro.Mask(ring, label=1, z_order=1),
                datumaro.Mask(small, label=0, z_order=2),
            ],
        )
        for id, subset in (("sub/a", "train"), ("b", "val"))
    ]
    dataset = datumaro.Dataset.from_iterable(items, categories=["cat", "dog"])
    expected = np.zeros((20, 30), np.uint8)
    expected[box(0, 0, 12, 12) | small], expected[ring] = 1, 2
    for kind, format in (("coco", "coco"), ("coco_instances", "coco"), ("cvat", "cvat")):
        dataset.export(str(tmp_path / kind), kind, save_media=True)
        done = Imported(format, tmp_path / kind, tmp_path / f"{kind}-out")
        assert done.names == ["background", "cat", "dog"]
        assert done.reader.ids("train") == ["train/sub/a"]
        np.testing.assert_array_equal(done.label("sub/a"), expected)
        np.testing.assert_array_equal(done.label("b"), expected)


def test_files_that_labelme_wrote(tmp_path):
    """With the masks of labelme's ``shapes_to_label``, for each kind of shape that it can write."""
    label_file = pytest.importorskip("labelme._label_file")
    from labelme.utils import shape as labelme_shape

    shapes = [
        shape("cat", [[1.5, 1.2], [12.7, 3.1], [7.4, 11.9]]),
        shape("dog", [[15.0, 3.0], [25.3, 12.8]], "rectangle"),
        shape("cat", [[20.2, 12.0], [23.0, 14.0]], "circle"),
        shape("dog", [[2.0, 17.0], [12.0, 18.0], [14.0, 15.0]], "linestrip"),
        shape("cat", [[27.0, 4.0]], "point"),
    ]
    for name in ("a", "b"):
        picture(tmp_path / "p" / f"{name}.jpg", turn=3)
        label_file.LabelFile().save(
            filename=str(tmp_path / "p" / f"{name}.json"),
            shapes=[{**s, "flags": {}, "description": "", "mask": None} for s in shapes],
            image_path=f"{name}.jpg",
            image_height=SIZE[1],
            image_width=SIZE[0],
            image_data=label_file.LabelFile.load_image_file(str(tmp_path / "p" / f"{name}.jpg")),
        )
    done = Imported("labelme", tmp_path / "p", tmp_path / "out")
    read = label_file.LabelFile(str(tmp_path / "p" / "a.json")).shapes
    values = {"cat": 1, "dog": 2}
    expected, _ = labelme_shape.shapes_to_label((SIZE[1], SIZE[0]), read, values)
    np.testing.assert_array_equal(done.label("a"), expected)


def test_run_lengths_that_pycocotools_wrote(tmp_path):
    masks = pytest.importorskip("pycocotools.mask")
    ring = box(12, 2, 28, 18) & ~box(16, 6, 20, 10)
    packed = masks.encode(np.asfortranarray(ring.astype(np.uint8)))
    packed["counts"] = packed["counts"].decode()
    areas = [{"category_id": 8, "segmentation": packed, "iscrowd": 0}]
    done = Imported("coco", coco(tmp_path, areas), tmp_path / "out")
    np.testing.assert_array_equal(done.label("a"), np.where(ring, 2, 0))


def failed(format: str, source: Path, **options: object) -> str:
    """The error of an import that fails."""
    target = source.parent / "failed"
    shutil.rmtree(target, ignore_errors=True)
    with pytest.raises(ValueError, match=r"expected|not in") as error:
        import_dataset(format, source, target, ImportOptions(**options))
    return str(error.value)


def alike(*names: str) -> str:
    """The note on such names."""
    return f"note: {', '.join(names)} differ only in capital letters, _, - or blanks, and count"


def test_names_that_are_spelled_nearly_alike_are_told(tmp_path):
    for image, names in (("a", ("Disc", "traffic light")), ("b", ("disc", "traffic_light"))):
        picture(tmp_path / "p" / f"{image}.png")
        shapes = [square(name, 8 * i, 1, 8 * i + 5, 5) for i, name in enumerate((*names, "cup"))]
        labelme(tmp_path / "p" / f"{image}.json", shapes)
    text = import_dataset("labelme", tmp_path / "p", tmp_path / "out").format()
    assert alike("Disc", "disc") in text
    assert alike("traffic light", "traffic_light") in text
    assert text.count("rename them in the annotation tool, and import again") == 2
    chosen = ImportOptions(class_names=("disc", "cup"))
    text = import_dataset("labelme", tmp_path / "p", tmp_path / "chosen", chosen).format()
    assert alike("Disc", "disc") in text
    assert "void are the areas of Disc, traffic light, traffic_light" in text
    assert alike("Disc", "disc") in failed("labelme", tmp_path / "p", class_names=("Cup",))


def test_names_for_the_background_are_one_name(tmp_path):
    for name in "ab":
        picture(tmp_path / "p" / f"{name}.png")
        shapes = [square("Background", 1, 1, 5, 5), square("_background_", 1, 1, 5, 5)]
        labelme(tmp_path / "p" / f"{name}.json", [*shapes, square("cat", 8, 8, 9, 9)])
    done = Imported("labelme", tmp_path / "p", tmp_path / "out")
    assert done.names == ["background", "cat"]
    assert "differ only" not in done.text


def test_names_that_are_spelled_nearly_alike_are_told_in_other_formats(tmp_path):
    pytest.importorskip("pycocotools")
    areas = [{"category_id": 8, "segmentation": [corners(12, 12, 16, 16)]}]
    path = coco(tmp_path / "coco", areas, names=("cat", "Cat"))
    assert alike("cat", "Cat") in import_dataset("coco", path, tmp_path / "1").format()
    cvat = CVAT.replace("dog", "cat-")
    for name in "ab":
        picture(tmp_path / "cvat" / f"{name}.png")
    (tmp_path / "cvat" / "annotations.xml").write_text(cvat)
    text = import_dataset("cvat", tmp_path / "cvat", tmp_path / "2").format()
    assert alike("cat", "cat-") in text
    values = np.zeros(SIZE[::-1], np.uint8)
    values[2:5, 2:5], values[8:9, 8:9] = 1, 2
    for name in "ab":
        picture(tmp_path / "roboflow" / f"{name}.jpg")
        save_mask(tmp_path / "roboflow" / f"{name}_mask.png", values)
    (tmp_path / "roboflow" / "_classes.csv").write_text("Value, Class\n0, void\n1, a b\n2, A B\n")
    text = import_dataset("roboflow", tmp_path / "roboflow", tmp_path / "3").format()
    assert alike("a b", "A B") in text


def test_coco_ids_of_another_type_are_told(tmp_path):
    pytest.importorskip("pycocotools")
    path = coco(tmp_path, [{"category_id": 8, "segmentation": [corners(2, 2, 6, 6)]}])
    for index in (0, 1):
        change(path, "annotations", index, image_id=str(index))
    error = failed("coco", path)
    assert "classes without a pixel in any mask: cat, dog; expected two or more" in error
    assert f"{path}: 2 annotations of images that the file does not list" in error
    assert "(image_id '0' is listed as 0: write both as numbers)" in error
    for index in (0, 1):
        change(path, "annotations", index, image_id=index, category_id="7")
    error = failed("coco", path)
    assert "the source has the class background alone: expected at least two" in error
    assert f"{path}: 2 annotations of categories that the file does not declare" in error
    assert "(category_id '7' is listed as 7: write both as numbers)" in error
    assert "no classes, since they have no areas: cat, dog" in error
    change(path, "annotations", 0, category_id=8)
    text = import_dataset("coco", path, tmp_path / "out").format()
    assert "1 areas of \"id '7'\", which the annotations do not declare: void" in text


def test_a_failed_coco_import_tells_what_was_left_out(tmp_path):
    pytest.importorskip("pycocotools")
    path = coco(tmp_path, [], images=("a", "b", "c"))
    change(path, "annotations", 0, image_id=55)
    change(path, "images", 1, width=31)
    error = failed("coco", path)
    assert "left out (2): " in error
    assert "1 annotations of images that the file does not list" in error
    assert "b.png: annotated at 31 x 20 pixels, but the image is 30 x 20" in error
    assert "2 annotated images without any area are background as a whole" in error


def test_coco_boxes_alone_are_told(tmp_path):
    pytest.importorskip("pycocotools")
    areas = [{"category_id": 8, "segmentation": [], "bbox": [0, 0, 5, 5]}]
    path = coco(tmp_path, areas)
    content = json.loads(path.read_text())
    content["annotations"][1] = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [2, 2, 5, 5]}
    path.write_text(json.dumps(content))
    error = failed("coco", path)
    assert "classes without a pixel in any mask: cat, dog" in error
    assert "2 annotations have a box but no shape: the box is void; export polygons" in error


def test_a_failed_import_shows_the_first_of_many_reasons(tmp_path):
    pytest.importorskip("pycocotools")
    areas = [
        {"category_id": 99 + number, "segmentation": [corners(0, 0, 9, 9)]} for number in range(20)
    ]
    path = coco(tmp_path, areas)
    change(path, "annotations", 20, image_id=55)
    error = failed("coco", path)
    assert error.count("areas of 'id ") == 7
    assert "note: no classes, since they have no areas: dog" in error
    assert "note: 14 more notes" in error


def test_a_folder_without_files_of_the_format_tells_what_is_there(tmp_path):
    pytest.importorskip("pycocotools")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.json").write_text("[]")
    assert "left out (1): " in (error := failed("coco", tmp_path / "in"))
    assert "x.json: JSON, but not COCO's of object instances" in error
    assert "x.json: JSON, but not LabelMe's" in failed("labelme", tmp_path / "in")
    for name in "ab":
        picture(tmp_path / "in" / "images" / f"{name}.png")
    assert "2 images in " in failed("instances", tmp_path / "in")


def test_a_failed_labelme_import_tells_what_was_left_out(tmp_path):
    picture(tmp_path / "p" / "a.png")
    labelme(tmp_path / "p" / "a.json", [])
    (tmp_path / "p" / "b.json").write_text("{")
    error = failed("labelme", tmp_path / "p")
    assert "the source has the class background alone: expected at least two" in error
    assert "left out (1): " in error
    assert "b.json: not a JSON file" in error


def cvat_without_labels(root: Path, shapes: str, meta: str = "") -> Path:
    """CVAT's XML as converters write it, with the same shapes in two images."""
    images = []
    for name in "ab":
        picture(root / f"{name}.png")
        images.append(f'<image name="{name}.png" width="30" height="20">{shapes}</image>')
    (root / "annotations.xml").write_text(f"<annotations>{meta}{''.join(images)}</annotations>")
    return root


TWO_BOXES = (
    '<box label="disc" xtl="2" ytl="2" xbr="8" ybr="8"/>'
    '<box label="box" xtl="12" ytl="2" xbr="18" ybr="8"/>'
)


def test_cvat_xml_that_declares_no_labels(tmp_path):
    """The names of the shapes are the classes, in alphabetical order."""
    pytest.importorskip("pycocotools")
    source = cvat_without_labels(tmp_path / "in", TWO_BOXES)
    done = Imported("cvat", source, tmp_path / "out")
    expected = np.zeros(SIZE[::-1], np.uint8)
    expected[box(2, 2, 8, 8)], expected[box(12, 2, 18, 8)] = 2, 1
    assert done.names == ["background", "box", "disc"]
    np.testing.assert_array_equal(done.label("a"), expected)
    assert "do not declare" not in done.text
    done = Imported("cvat", source, tmp_path / "chosen", class_names=("disc", "box"))
    assert done.names == ["background", "disc", "box"]
    assert "classes cup: not in the source, which has box, disc" in failed(
        "cvat", source, class_names=("cup",)
    )


def test_cvat_names_that_are_not_declared(tmp_path):
    pytest.importorskip("pycocotools")
    meta = "<meta><task><labels><label><name>cup</name></label></labels></task></meta>"
    source = cvat_without_labels(tmp_path / "in", TWO_BOXES, meta)
    error = failed("cvat", source)
    assert "the source has the class background alone: expected at least two" in error
    assert "annotations.xml: shapes are called box, disc, which the labels in <meta> do" in error
    assert "no classes, since they have no areas: cup" in error
    done = Imported("cvat", source, tmp_path / "out", class_names=("disc",))
    assert done.names == ["background", "disc"]
    expected = np.zeros(SIZE[::-1], np.uint8)
    expected[box(2, 2, 8, 8)], expected[box(12, 2, 18, 8)] = 1, 255
    np.testing.assert_array_equal(done.label("a"), expected)
    assert "2 areas of 'box', which the annotations do not declare: void" in done.text


def test_cvat_lines_alone_are_told(tmp_path):
    pytest.importorskip("pycocotools")
    source = cvat_without_labels(tmp_path / "in", '<polyline label="cat" points="0,0;5,5"/>')
    error = failed("cvat", source)
    assert "annotations.xml: 2 shapes of the kind polyline enclose no area" in error


def test_the_command_to_go_on_with_is_quoted_for_the_shell(tmp_path):
    for name in "ab":
        picture(tmp_path / "p" / f"{name}.png")
        labelme(tmp_path / "p" / f"{name}.json", [square("cat", 1, 1, 5, 5)])
    text = import_dataset("labelme", tmp_path / "p", tmp_path / "out 2").format()
    *_, config = shlex.split(text.splitlines()[-1])
    assert config == str(tmp_path / "out 2" / "data.yaml")
