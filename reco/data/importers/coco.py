"""COCO JSON: polygons, run lengths, crowds.

Masks are rasterised by pycocotools, which defines what they cover. Where areas of two classes
overlap, the smaller one is on top: COCO has no order, and small things mostly lie in front of large
ones. Crowd areas count as all others: tools (CVAT and datumaro among them) write every mask that is
no polygon as a crowd. Where an annotation has a box alone, the box is void, below all areas.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from operator import itemgetter
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from reco import IGNORE
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
    coordinates,
    failure,
    paint,
    reading,
    require,
    split_of,
)
from reco.optional_packages import import_extra

_BOX_ALONE = (
    "annotations have a box but no shape: the box is void; export polygons or masks for a class"
)
_EXPECTED = "polygons [[x, y, x, y, …], …], or run lengths with size and counts"


class _Area(NamedTuple):
    name: str  # of its category, "" for one that the file does not declare
    annotation: dict[str, Any]


def read_coco(source: Path, options: ImportOptions) -> Annotations:
    """A JSON file, or a folder with one for each split; images below it or in ``options.images``.

    Raises:
        ValueError: no COCO file, or one that contradicts itself.
        ImportError: pycocotools is not installed.
    """
    masks = coco_masks()
    files = sorted(source.rglob("*.json")) if source.is_dir() else [source]
    read = {path: _read(path, strict=source.is_file()) for path in files}
    contents = {path: content for path, content in read.items() if content is not None}
    if not contents:
        raise failure(
            f"{source}: no COCO file: expected JSON with images, annotations, ...",
            [],
            [f"{path}: JSON, but not COCO's of object instances" for path in files],
        )
    left_out: list[str] = []
    instances = [path for path in contents if path.name.startswith("instances")]
    for path in [path for path in contents if instances and path not in instances]:
        left_out.append(f"{path}: beside {instances[0].name}, which is taken")
        del contents[path]
    root = source if source.is_dir() else source.parent
    images = Images(options.images or _image_root(root))
    names = [_names(path, content) for path, content in contents.items()]
    left_out += [line for path, content in contents.items() for line in _strangers(path, content)]
    classes = choose_classes(
        [name for used, _ in names for name in used],
        options,
        unused=[name for _, unused in names for name in unused],
        reasons=[line for path, content in contents.items() for line in _undeclared(path, content)],
        left_out=left_out,
    )
    found = (
        item
        for path, content in contents.items()
        for item in _images_of(
            path, content, images, classes, masks, left_out, split_of(path, root)
        )
    )
    return collect(found, classes, images, left_out)


def coco_masks() -> ModuleType:
    """pycocotools' mask functions.

    Raises:
        ImportError: it is not installed.
    """
    module: ModuleType = import_extra("pycocotools.mask", "this format")
    return module


def polygon_runs(masks: ModuleType, polygons: list[list[float]], size: tuple[int, int]) -> Any:
    """The union of polygons, as ``coordinates`` gives them, in pycocotools' run lengths."""
    width, height = size
    return masks.merge(masks.frPyObjects(polygons, height, width))


def _read(path: Path, *, strict: bool) -> dict[str, Any] | None:
    """The content of a COCO file with instances; ``None`` for other JSON unless ``strict``."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file: {error}") from error
    keys = ("images", "annotations", "categories")
    lists = isinstance(content, dict) and all(isinstance(content.get(k), list) for k in keys)
    # Panoptic files name mask files; captions and key points have no areas.
    instances = lists and all(
        isinstance(a, dict) and "category_id" in a for a in content["annotations"][:1]
    )
    if instances and content["categories"]:
        for key in keys:
            for number, item in enumerate(content[key], 1):
                with reading(f"{path}: {key}, item {number}", item, "an object, its ids no lists"):
                    hash((item.get("id"), item.get("image_id"), item.get("category_id")))
        found: dict[str, Any] = content
        return found
    if strict:
        raise ValueError(
            f"{path}: expected a COCO file of object instances: lists {', '.join(keys)}, and in "
            "each annotation category_id and segmentation"
        )
    return None


def _names(path: Path, content: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Categories that have annotations, in the order of their ids, and the names of the others."""
    names: dict[int, str] = {}
    for category in content["categories"]:
        name = require(category, "name", str, f"{path}: categories").strip()
        id = require(category, "id", int, f"{path}: categories")
        if names.setdefault(id, name) != name:
            raise ValueError(f"{path}: categories: id {id} is both {names[id]} and {name}")
    categories = sorted(content["categories"], key=lambda c: int(c["id"]))
    used = {annotation.get("category_id") for annotation in content["annotations"]}
    return (
        [c["name"] for c in categories if c["id"] in used],
        [c["name"] for c in categories if c["id"] not in used],
    )


def _strangers(path: Path, content: dict[str, Any]) -> list[str]:
    """A line about annotations of images that the file does not list."""
    known = {image.get("id") for image in content["images"]}
    found = [
        annotation.get("image_id")
        for annotation in content["annotations"]
        if annotation.get("category_id") is not None and annotation.get("image_id") not in known
    ]
    if not found:
        return []
    text = f"{path}: {len(found)} annotations of images that the file does not list"
    return [text + _other_type("image_id", found, known)]


def _undeclared(path: Path, content: dict[str, Any]) -> list[str]:
    """A line about annotations of categories that the file does not declare."""
    known = {category["id"] for category in content["categories"]}
    ids = [annotation.get("category_id") for annotation in content["annotations"]]
    found = [id for id in ids if id not in known]
    if not found:
        return []
    text = f"{path}: {len(found)} annotations of categories that the file does not declare"
    return [text + _other_type("category_id", found, known)]


def _other_type(key: str, found: Iterable[Any], known: Iterable[Any]) -> str:
    """What to do where an id is among the known ones but for its type; else nothing."""
    by_text = {str(id): id for id in known}
    for id in found:
        if str(id) in by_text:
            return f" ({key} {id!r} is listed as {by_text[str(id)]!r}: write both as numbers)"
    return ""


def _image_root(root: Path) -> Path:
    """COCO's layout has ``annotations`` beside the folders of images."""
    return root.parent if root.name == "annotations" else root


def _images_of(
    path: Path,
    content: dict[str, Any],
    images: Images,
    classes: Classes,
    masks: ModuleType,
    left_out: list[str],
    split: str | None,
) -> Iterator[tuple[str, Annotated]]:
    """Images with annotations, and where they stand."""
    category = {c["id"]: c["name"] for c in content["categories"]}
    areas: dict[Any, list[_Area]] = defaultdict(list)
    for annotation in content["annotations"]:
        if annotation.get("category_id") is not None:
            name = category.get(annotation["category_id"], f"id {annotation['category_id']!r}")
            areas[annotation.get("image_id")].append(_Area(name, annotation))
    known = Counter(image.get("id") for image in content["images"])
    for image in content["images"]:
        id = image.get("id")
        where = f"{path}: image {id!r}"
        file_name = image.get("file_name")
        if not isinstance(file_name, str):
            left_out.append(f"{where}: file_name = {file_name!r}: expected a str")
            continue
        found = images.find(file_name, split)
        if found is None:
            left_out.append(f"{file_name}: not in {images.folder}")
            continue
        rasterise = partial(_rasterise, areas[id], classes, masks)
        item = Annotated(found, images.name(found), rasterise, split)
        item = item.sized(partial(_size, image, where))
        if known[id] > 1:
            item = item.unusable(f"{where}: {known[id]} images have this id, expected one")
        yield f"{file_name} in {path}", item


def _size(image: dict[str, Any], where: str) -> tuple[int, int]:
    return require(image, "width", int, where), require(image, "height", int, where)


def _rasterise(
    areas: list[_Area], classes: Classes, masks: ModuleType, size: tuple[int, int]
) -> Rasterised:
    events: Counter[str] = Counter()

    def painted() -> Iterator[tuple[int, AreaMask]]:
        for _, label, mask in sorted(
            _masks(areas, classes, masks, size, events), key=itemgetter(0)
        ):
            yield label, masks.decode(mask).astype(bool)

    rule = "the smaller area is on top"
    return paint(size, painted(), classes.uncovered, events, rule)


def _masks(
    areas: list[_Area],
    classes: Classes,
    masks: ModuleType,
    size: tuple[int, int],
    events: Counter[str],
) -> Iterator[tuple[tuple[int, int], int, Any]]:
    """Order from the bottom, class and compressed mask of each area."""
    for name, annotation in areas:
        segmentation, label = annotation.get("segmentation"), classes.of(name, events)
        rank = 1
        with reading(f"annotation {annotation.get('id')!r}", segmentation, _EXPECTED):
            if isinstance(segmentation, dict):
                mask = _checked_runs(masks, segmentation, size)
            else:
                polygons = [p for p in segmentation or [] if len(p) >= 6]
                if len(polygons) < len(segmentation or []):
                    events["polygons with fewer than three points left out"] += 1
                if not polygons:
                    events[_BOX_ALONE] += 1
                    rank, label = 0, IGNORE
                    polygons = [_box(annotation.get("bbox") or (0, 0, 0, 0))]
                checked = [coordinates(polygon, size, events) for polygon in polygons]
                mask = polygon_runs(masks, checked, size)
        if annotation.get("iscrowd"):
            events["crowd areas count as areas of their class"] += 1
        yield (rank, -int(masks.area(mask))), label, mask


def _box(box: Any) -> list[float]:
    with reading("bbox", box, "[x, y, width, height]"):
        x, y, w, h = box
        return [x, y, x + w, y, x + w, y + h, x, y + h]


def _checked_runs(masks: ModuleType, segmentation: dict[str, Any], size: tuple[int, int]) -> Any:
    """Run lengths that cover an image of (width, height), as pycocotools takes them.

    Raises:
        Malformed: they are for another size, or cover less or more.
    """
    width, height = size
    if list(segmentation["size"]) != [height, width]:
        raise Malformed(
            f"run lengths for size {segmentation['size']}, the image is {[height, width]} "
            "(height, width)"
        )
    counts = segmentation["counts"]
    runs = [int(run) for run in counts] if isinstance(counts, list) else _unpacked(counts)
    if min(runs) < 0 or sum(runs) != height * width:
        raise Malformed(
            f"run lengths of {sum(runs)} pixels, the least {min(runs)}: expected {height * width} "
            "pixels and none below 0"
        )
    return masks.frPyObjects({"size": [height, width], "counts": runs}, height, width)


def _unpacked(packed: str) -> list[int]:
    """The run lengths in COCO's compressed string.

    A character holds five bits of a number, the lowest first, and whether another follows. From the
    fourth on, a number is the difference to the run length two before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in packed:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise Malformed(f"{character!r} in compressed run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            negative = bits & 16
            value -= (1 << shift) if negative else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise Malformed("compressed run lengths end within a number")
    return runs
