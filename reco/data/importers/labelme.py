"""LabelMe JSON, one file an image. Areas are rasterised as labelme's ``shapes_to_label`` does.

That is in the order of the file, the later one on top; a circle, a rectangle, a line ten pixels
wide and a point five pixels in radius count as areas; ``_background_`` cuts a hole, ``__ignore__``
is void. Images without a JSON file are unlabelled.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from reco.data.finding.patterns import IMAGE_ENDINGS
from reco.data.importers.source import (
    OUTSIDE,
    Annotated,
    Annotations,
    AreaMask,
    Classes,
    Images,
    ImportOptions,
    Rasterised,
    choose_classes,
    paint,
    reaches_outside,
    require,
    split_of,
)

_LINE_WIDTH, _POINT_RADIUS = 10, 5
_KINDS = {"polygon": 3, "rectangle": 2, "oriented_rectangle": 4, "circle": 2, "mask": 2} | {
    "line": 2,
    "linestrip": 2,
    "point": 1,
    "points": 1,
}


def read_labelme(source: Path, options: ImportOptions) -> Annotations:
    """A folder with JSON files and images, in sub-folders too.

    Raises:
        ValueError: no LabelMe file there, or one that cannot be read; it is named.
    """
    if not source.is_dir():
        raise ValueError(f"{source}: expected the folder with LabelMe's JSON files and the images")
    images = Images(options.images or source)
    contents: dict[Path, dict[str, Any]] = {}
    left_out: list[str] = []
    for path in sorted(source.rglob("*.json")):
        content = _read(path)
        if content is None:
            left_out.append(f"{path}: JSON, but not LabelMe's (no shapes and imagePath)")
        else:
            contents[path] = content
    if not contents:
        raise ValueError(f"{source}: no LabelMe file: expected JSON with shapes and imagePath")
    # Sorted: the order in the files depends on the order of annotation.
    found = sorted({shape["label"] for c in contents.values() for shape in c["shapes"]})
    classes = choose_classes(found, options)
    annotated: dict[Path, Annotated] = {}
    for path, content in contents.items():
        image = _image_of(path, content, images)
        embedded = None
        if image is None and content["imageData"]:
            image, embedded = path, partial(_embedded_image, path)
        if image is None:
            left_out.append(f"{path}: its image {content['imagePath']} is not there")
            continue
        if image in annotated:
            left_out.append(f"{path}: a second file for {image}")
            continue
        size = (content.get("imageWidth"), content.get("imageHeight"))
        root = source if embedded else images.folder
        annotated[image] = Annotated(
            image,
            PurePosixPath(image.relative_to(root).with_suffix("").as_posix()),
            (int(size[0]), int(size[1])) if size[0] and size[1] else None,
            partial(_rasterise, path, content["shapes"], classes),
            split_of(image.parent, root),
            embedded,
        )
    notes = classes.notes
    unlabelled = images.without(annotated, notes)
    return Annotations(classes.names, [*annotated.values()], unlabelled, notes, left_out)


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a LabelMe file, ``None`` for others; ``imageData`` becomes a bool."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file: {error}") from error
    if not (isinstance(content, dict) and {"shapes", "imagePath"} <= content.keys()):
        return None
    content["imageData"] = bool(content.get("imageData"))  # megabytes, read again when written
    for number, shape in enumerate(require(content, "shapes", list, str(path)), 1):
        where = f"{path}: shape {number}"
        require(shape, "label", str, where)
        kind = shape.setdefault("shape_type", "polygon") or "polygon"
        points = require(shape, "points", list, where)
        if kind not in _KINDS:
            raise ValueError(f"{where}: shape_type = {kind!r}: expected {', '.join(_KINDS)}")
        if len(points) < _KINDS[kind]:
            raise ValueError(f"{where}: {kind} of {len(points)} points: expected {_KINDS[kind]}")
        shape["shape_type"] = kind
    return content


def _image_of(path: Path, content: dict[str, Any], images: Images) -> Path | None:
    """The image of a JSON file: by ``imagePath``, else by the name of the JSON file."""
    name = str(content["imagePath"]).replace("\\", "/")
    at = [path.parent / name, *(path.with_suffix(ending) for ending in sorted(IMAGE_ENDINGS))]
    found = (images.at(candidate) for candidate in at)
    return next((image for image in found if image is not None), None) or images.find(name)


def _embedded_image(path: Path) -> bytes:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    return base64.b64decode(content["imageData"])


def _rasterise(
    path: Path, shapes: list[dict[str, Any]], classes: Classes, size: tuple[int, int]
) -> Rasterised:
    events: Counter[str] = Counter()

    def painted() -> Iterator[tuple[int, AreaMask]]:
        for shape in shapes:
            points = [value for point in shape["points"] for value in point]
            events[OUTSIDE] += reaches_outside(points, size)
            if shape["shape_type"] in ("line", "linestrip", "point", "points"):
                events["lines and points painted as labelme does, 10 pixels wide"] += 1
            yield classes.of(shape["label"], events), _mask(path, shape, size)

    rule = "the later one in the file is on top"
    return paint(size, painted(), classes.uncovered, events, rule)


def _mask(path: Path, shape: dict[str, Any], size: tuple[int, int]) -> AreaMask:
    """The pixels of one shape in an image of (width, height)."""
    canvas = Image.new("L", size)
    draw = ImageDraw.Draw(canvas)
    points: list[tuple[float, float]] = [(x, y) for x, y in shape["points"]]
    kind = shape["shape_type"]
    if kind in ("polygon", "oriented_rectangle"):
        draw.polygon(points, fill=1, outline=1)
    elif kind == "rectangle":
        (x0, y0), (x1, y1) = points
        draw.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), fill=1, outline=1)
    elif kind == "circle":
        (x, y), on_it = points
        _circle(draw, x, y, math.dist((x, y), on_it))
    elif kind in ("line", "linestrip"):
        draw.line(points, fill=1, width=_LINE_WIDTH)
    elif kind == "mask":
        canvas.paste(_embedded_mask(path, shape), (int(points[0][0]), int(points[0][1])))
    else:
        for x, y in points:
            _circle(draw, x, y, _POINT_RADIUS)
    return np.asarray(canvas, dtype=bool)


def _circle(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1, outline=1)


def _embedded_mask(path: Path, shape: dict[str, Any]) -> Image.Image:
    """The PNG inside a shape of the kind ``mask``."""
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(shape["mask"])))
        return Image.fromarray(np.asarray(picture).astype(bool).astype(np.uint8))
    except (KeyError, TypeError, OSError, binascii.Error) as error:
        raise ValueError(f"{path}: a shape of the kind mask without a readable mask") from error
