"""CVAT: "CVAT for images" (XML) and "Segmentation mask" (``labelmap.txt`` and colour masks).

Shapes of the XML are rasterised by ``z_order``, then in the order of the file, the later one on
top; polygons, boxes and ellipses by pycocotools, as in CVAT. Lines, points, cuboids and skeletons
enclose no area and are left out, with a line in the summary.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from reco.data.importers.coco import coco_masks, polygon_runs
from reco.data.importers.source import (
    Annotated,
    Annotations,
    AreaMask,
    Classes,
    Images,
    ImportOptions,
    Malformed,
    Rasterised,
    choose_classes,
    collect,
    colours_of,
    coordinates,
    find_images,
    labels_by_value,
    paint,
    reading,
    split_of,
)
from reco.data.reading.masks import read_mask
from reco.paths import read_lines
from reco.printing import join_first

_AREAS = ("polygon", "box", "ellipse", "mask")
_OTHER_SHAPES = ("polyline", "points", "cuboid", "skeleton")
_ELLIPSE_POINTS = 90
_EXPECTED = {
    "polygon": 'points="x,y;x,y;x,y"',
    "box": "numbers xtl, ytl, xbr, ybr",
    "ellipse": "numbers cx, cy, rx, ry",
    "mask": "whole numbers left, top, width, height, and rle of the box",
}


def read_cvat(source: Path, options: ImportOptions) -> Annotations:
    """An export of either kind: the XML file, or the folder that was unpacked.

    Raises:
        ValueError: neither of the two, an export for video, or one that cannot be read.
        ImportError: pycocotools, which the XML needs, is not installed.
    """
    labelmap = source / "labelmap.txt"
    if labelmap.is_file():
        return _read_masks(labelmap, options)
    files = sorted(source.glob("*.xml")) if source.is_dir() else [source]
    if not files:
        raise ValueError(
            f"{source}: expected annotations.xml (CVAT for images) or labelmap.txt (Segmentation "
            "mask), as CVAT exports them"
        )
    masks = coco_masks()
    root = source if source.is_dir() else source.parent
    images = Images(options.images or root)
    trees = {path: _read_xml(path) for path in files}
    declared = [
        (name.text or "").strip()
        for tree in trees.values()
        for name in tree.findall("./meta//labels/label/name")
    ]
    shapes = [shape for tree in trees.values() for shape in tree.iterfind("image/*")]
    used = {shape.get("label", "").strip() for shape in shapes if shape.tag in _AREAS} - {""}
    # Converters may write no <meta>; then the shapes alone say what there is.
    accepted = {*(declared or used), *(options.class_names or ())}
    names = [*declared, *sorted(used.difference(declared))]
    classes = choose_classes(
        [name for name in names if name in used & accepted],
        options,
        unused=declared,
        reasons=_why_few_classes(files, shapes, sorted(used - accepted)),
    )
    found: list[tuple[str, Annotated]] = []
    left_out: list[str] = []
    for path, tree in trees.items():
        for element in tree.iter("image"):
            name = element.get("name")
            if name is None:
                left_out.append(f"{path}: image {element.get('id')} has no name")
                continue
            split = split_of(Path(element.get("subset") or path.stem), root)
            image = images.find(name, split)
            if image is None:
                left_out.append(f"{name}: not in {images.folder}")
                continue
            rasterise = partial(_rasterise, element, classes, masks)
            where = f"{name} in {path}"
            item = Annotated(image, images.name(image), rasterise, split)
            found.append((where, item.sized(partial(_size, element, where))))
    return collect(found, classes, images, left_out)


def _why_few_classes(files: list[Path], shapes: list[Element], undeclared: list[str]) -> list[str]:
    """Lines for an error: what of the files becomes no class, though it has shapes."""
    where = join_first(files, 3)
    kinds = Counter(shape.tag for shape in shapes if shape.tag in _OTHER_SHAPES)
    lines = [
        f"{where}: {count} shapes of the kind {kind} enclose no area"
        for kind, count in kinds.items()
    ]
    if undeclared:
        lines.append(
            f"{where}: shapes are called {', '.join(undeclared)}, which the labels in <meta> do "
            "not declare: add them there, or give the names with --classes"
        )
    return lines


def _read_xml(path: Path) -> Element:
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: not an XML file: {error}") from error
    if root.tag != "annotations" or root.find("track") is not None:
        raise ValueError(
            f"{path}: expected annotations of single images: export the task as 'CVAT for images'"
        )
    return root


def _size(image: Element, where: str) -> tuple[int, int]:
    with reading(where, image.attrib, "whole numbers width, height"):
        return int(image.attrib["width"]), int(image.attrib["height"])


def _rasterise(
    image: Element, classes: Classes, masks: ModuleType, size: tuple[int, int]
) -> Rasterised:
    events: Counter[str] = Counter()
    shapes = [shape for shape in image if shape.tag in _AREAS]
    for shape in image:
        if shape.tag in _OTHER_SHAPES:
            events[f"shapes of the kind {shape.tag} left out: they enclose no area"] += 1
    with reading("z_order", [shape.get("z_order") for shape in shapes], "whole numbers"):
        shapes.sort(key=lambda shape: int(shape.get("z_order", 0)))  # stable: then as in the file

    def painted() -> Iterator[tuple[int, AreaMask]]:
        for shape in shapes:
            label = classes.of(shape.get("label", ""), events)
            with reading(shape.tag, shape.attrib, _EXPECTED[shape.tag]):
                if shape.tag == "mask":
                    mask = _run_lengths(shape, size, events)
                else:
                    points = coordinates(_outline(shape), size, events)
                    mask = masks.decode(polygon_runs(masks, [points], size)).astype(bool)
            yield label, mask

    rule = "the higher z_order, then the later one in the file, is on top"
    return paint(size, painted(), classes.uncovered, events, rule)


def _outline(shape: Element) -> list[float]:
    """x, y, x, y, … around a polygon, a box or an ellipse."""
    value = {key: float(text) for key, text in shape.attrib.items() if _is_number(text)}
    if shape.tag == "polygon":
        return [float(v) for point in shape.attrib["points"].split(";") for v in point.split(",")]
    if shape.tag == "box":
        left, top, right, bottom = (value[key] for key in ("xtl", "ytl", "xbr", "ybr"))
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        centre = ((left + right) / 2, (top + bottom) / 2)
    else:
        centre = (value["cx"], value["cy"])
        turns = (2 * math.pi * i / _ELLIPSE_POINTS for i in range(_ELLIPSE_POINTS))
        corners = [
            (centre[0] + value["rx"] * math.cos(t), centre[1] + value["ry"] * math.sin(t))
            for t in turns
        ]
    angle = math.radians(value.get("rotation", 0.0))
    cos, sin = math.cos(angle), math.sin(angle)
    turned = []
    for x, y in corners:
        dx, dy = x - centre[0], y - centre[1]
        turned += [centre[0] + dx * cos - dy * sin, centre[1] + dx * sin + dy * cos]
    return turned


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _run_lengths(shape: Element, size: tuple[int, int], events: Counter[str]) -> AreaMask:
    """A mask in its box: runs of outside and inside in turns, row by row."""
    left, top, width, height = (int(shape.attrib[k]) for k in ("left", "top", "width", "height"))
    coordinates([left, top, left + width, top + height], size, events, 2)
    if width * height > 4 * size[0] * size[1]:
        raise Malformed(f"a box of {width} x {height} pixels: expected one of the image's size")
    runs = [int(run) for run in shape.attrib["rle"].split(",")]
    if sum(runs) != width * height:
        raise Malformed(f"a mask of {sum(runs)} pixels in a box of {width} x {height}")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    inside = inside[max(0, -top) : max(0, size[1] - top), max(0, -left) : max(0, size[0] - left)]
    top, left = max(0, top), max(0, left)
    mask = np.zeros((size[1], size[0]), dtype=bool)
    mask[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return mask


def _read_masks(labelmap: Path, options: ImportOptions) -> Annotations:
    """The folder beside ``labelmap.txt``: ``JPEGImages`` and ``SegmentationClass``."""
    root = labelmap.parent
    colours = _read_labelmap(labelmap)
    classes = choose_classes(colours, options, adds_background=False)
    class_of = {colour: classes.class_of[name] for name, colour in colours.items()}
    folder = options.images or root / "JPEGImages"
    images = Images(folder) if folder.is_dir() else Images(root)
    mask_root = root / "SegmentationClass"
    by_name = {images.name(path): path for path in images.files}
    annotated, left_out = [], []
    for mask in find_images(mask_root):
        name = mask.relative_to(mask_root).with_suffix("")
        image = by_name.pop(images.name(images.folder / mask.relative_to(mask_root)), None)
        if image is None:
            left_out.append(f"{mask}: no image {name} in {images.folder}")
            continue
        split = _listed_split(root, name.as_posix())
        rasterise = partial(_rasterise_colours, mask, class_of)
        annotated.append(Annotated(image, images.name(image), rasterise, split))
    unlabelled = [(path, name) for name, path in by_name.items()]
    return Annotations(classes.names, annotated, unlabelled, classes.notes, left_out)


def _read_labelmap(path: Path) -> dict[str, int]:
    """Class name -> colour, from lines ``name:red,green,blue:parts:actions``."""
    colours: dict[str, int] = {}
    for line in read_lines(path):
        if line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        name = name.strip()
        values = rest.partition(":")[0].split(",")
        if len(values) != 3 or not all(v.strip().isdigit() for v in values):
            raise ValueError(f"{path}: {line!r}: expected name:red,green,blue:parts:actions")
        red, green, blue = map(int, values)
        colour = red << 16 | green << 8 | blue
        if colour in colours.values():
            raise ValueError(f"{path}: {line!r}: two classes have this colour")
        if colours.setdefault(name, colour) != colour:
            raise ValueError(f"{path}: {line!r}: this class has another colour above")
    return colours


def _listed_split(root: Path, name: str) -> str | None:
    """The split whose list in ``ImageSets/Segmentation`` names an image."""
    for path in sorted((root / "ImageSets" / "Segmentation").glob("*.txt")):
        if name in read_lines(path):
            return split_of(Path(path.stem), root)
    return None


def _rasterise_colours(path: Path, class_of: dict[int, int], _: tuple[int, int]) -> Rasterised:
    """A colour mask as labels; colours that ``labelmap.txt`` does not have are void."""
    stranger = "pixels of a colour that labelmap.txt does not have: void"
    return labels_by_value(colours_of(read_mask(path)), class_of, stranger)
