"""LabelMe JSON, one file an image. Areas are rasterised as labelme's ``shapes_to_label`` does.

That is in the order of the file, the later one on top; a circle, a rectangle, a line ten pixels
wide and a point five pixels in radius count as areas; ``_background_`` cuts a hole, ``__ignore__``
is void. Images without a JSON file are unlabelled.
"""

from __future__ import annotations

import base64
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
        ValueError: no LabelMe file there.
    """
    if not source.is_dir():
        raise ValueError(f"{source}: expected the folder with LabelMe's JSON files and the images")
    images = Images(options.images or source)
    contents: dict[Path, dict[str, Any]] = {}
    left_out: list[str] = []
    for path in sorted(source.rglob("*.json")):
        try:
            content = _read(path)
        except Malformed as error:
            left_out.append(str(error))
            continue
        if content is None:
            left_out.append(f"{path}: JSON, but not LabelMe's (no shapes and imagePath)")
        else:
            contents[path] = content
    if not contents:
        text = f"{source}: no LabelMe file: expected JSON with shapes and imagePath"
        raise failure(text, [], left_out)
    # Sorted: the order in the files depends on the order of annotation.
    shapes = [s for c in contents.values() for s in c["shapes"] if isinstance(s, dict)]
    labels = {s["label"] for s in shapes if isinstance(s.get("label"), str)}
    classes = choose_classes(sorted(labels), options, left_out=left_out)
    found: list[tuple[str, Annotated]] = []
    for path, content in contents.items():
        image = _image_of(path, content, images, source)
        embedded = None
        if image is None and content["imageData"]:
            image, embedded = path, partial(_embedded_image, path)
        if image is None:
            left_out.append(f"{path}: its image {content['imagePath']} is not there")
            continue
        root = source if embedded else images.folder
        item = Annotated(
            image,
            PurePosixPath(image.relative_to(root).with_suffix("").as_posix()),
            partial(_rasterise, path, content["shapes"], classes),
            split_of(image.parent, root),
            embedded,
        )
        found.append((str(path), item.sized(partial(_size, path, content))))
    return collect(found, classes, images, left_out)


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a LabelMe file, ``None`` for others; ``imageData`` becomes a bool.

    Raises:
        Malformed: no JSON, or its shapes are no list.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise Malformed(f"{path}: not a JSON file: {error}") from error
    if not (isinstance(content, dict) and {"shapes", "imagePath"} <= content.keys()):
        return None
    content["imageData"] = bool(content.get("imageData"))  # megabytes, read again when written
    require(content, "shapes", list, str(path))
    return content


def _image_of(path: Path, content: dict[str, Any], images: Images, source: Path) -> Path | None:
    """The image of a JSON file: by ``imagePath``, else by the name of the JSON file."""
    name = str(content["imagePath"]).replace("\\", "/")
    at = [path.parent / name, *(path.with_suffix(ending) for ending in sorted(IMAGE_ENDINGS))]
    found = (images.at(candidate) for candidate in at)
    below = PurePosixPath(path.parent.relative_to(source).as_posix()) / name
    return next((image for image in found if image is not None), None) or images.find(str(below))


def _embedded_image(path: Path) -> bytes:
    data = json.loads(path.read_text(encoding="utf-8-sig"))["imageData"]
    with reading("imageData", data, "an image file in base64"):
        decoded = base64.b64decode(data)
        Image.open(io.BytesIO(decoded)).close()
    return decoded


def _size(path: Path, content: dict[str, Any]) -> tuple[int, int] | None:
    size = (content.get("imageWidth"), content.get("imageHeight"))
    with reading(f"{path}: imageWidth, imageHeight", size, "whole numbers"):
        return (int(size[0]), int(size[1])) if size[0] and size[1] else None


def _rasterise(
    path: Path, shapes: list[dict[str, Any]], classes: Classes, size: tuple[int, int]
) -> Rasterised:
    events: Counter[str] = Counter()

    def painted() -> Iterator[tuple[int, AreaMask]]:
        for number, shape in enumerate(shapes, 1):
            where = f"shape {number} of {path.name}"
            label = classes.of(require(shape, "label", str, where), events)
            kind = shape.get("shape_type") or "polygon"
            if kind in ("line", "linestrip", "point", "points"):
                events["lines and points painted as labelme does, 10 pixels wide"] += 1
            points = shape.get("points")
            expected = "numbers [[x, y], …], two pairs for a rectangle or a circle"
            with reading(f"{where}: {kind}", points, expected):
                if kind not in _KINDS:
                    raise Malformed(f"expected as shape_type one of {', '.join(_KINDS)}")
                values = [value for x, y in points or () for value in (x, y)]
                values = coordinates(values, size, events, _KINDS[kind])
                pairs = list(zip(values[::2], values[1::2], strict=True))
                mask = _mask(kind, pairs, shape, size)
            yield label, mask

    rule = "the later one in the file is on top"
    return paint(size, painted(), classes.uncovered, events, rule)


def _mask(
    kind: str, points: list[tuple[float, float]], shape: dict[str, Any], size: tuple[int, int]
) -> AreaMask:
    """The pixels of one shape in an image of (width, height)."""
    canvas = Image.new("L", size)
    draw = ImageDraw.Draw(canvas)
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
        canvas.paste(_embedded_mask(shape), (int(points[0][0]), int(points[0][1])))
    else:
        for x, y in points:
            _circle(draw, x, y, _POINT_RADIUS)
    return np.asarray(canvas, dtype=bool)


def _circle(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1, outline=1)


def _embedded_mask(shape: dict[str, Any]) -> Image.Image:
    """The PNG inside a shape of the kind ``mask``: 1 where it is not 0, whatever its alpha."""
    with reading("mask", shape.get("mask"), "a PNG file in base64"):
        picture = Image.open(io.BytesIO(base64.b64decode(shape["mask"])))
        bands = np.atleast_3d(np.asarray(picture))
        opaque = [number for number, band in enumerate(picture.getbands()) if band != "A"]
        return Image.fromarray(bands[..., opaque].any(2).astype(np.uint8))
