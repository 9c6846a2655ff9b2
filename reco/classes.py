"""Class names and colours of data sets."""

from __future__ import annotations

from dataclasses import dataclass

from torchvision.datasets import Cityscapes

from reco import IGNORE

Palette = tuple[tuple[int, int, int], ...]

# Okabe and Ito's colours, which colour-blind people can distinguish, with grey in place of black:
# class 0 is often the background, and black would hide the image below.
_OKABE_ITO: Palette = (
    (153, 153, 153),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


@dataclass(frozen=True)
class DatasetSpec:
    """Class names and one RGB colour (0..255) per class; label value = position.

    Raises:
        ValueError: more than 255 classes.
    """

    name: str
    class_names: tuple[str, ...]
    palette: Palette

    def __post_init__(self) -> None:
        if len(self.class_names) > IGNORE:
            raise ValueError(
                f"{self.name}: {len(self.class_names)} classes: expected at most {IGNORE}, since "
                f"labels are kept in 8 bits and {IGNORE} means void"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes, without void."""
        return len(self.class_names)


def voc_palette(num_classes: int) -> Palette:
    """Pascal VOC's colour map: bits 0, 3, 6, … of the class to red, 1, 4, 7, … to green, and so on.

    The lowest bits become the highest ones of the colour.
    """

    def channel(value: int, first_bit: int) -> int:
        return sum((value >> (first_bit + 3 * i) & 1) << (7 - i) for i in range(3))

    return tuple((channel(c, 0), channel(c, 1), channel(c, 2)) for c in range(num_classes))


def default_palette(num_classes: int) -> Palette:
    """A palette for any number of classes, readable for colour-blind people.

    The first eight are Okabe and Ito's. Further ones are the same hues in other lightnesses:
    half-way to black, half-way to white, a quarter, three quarters, and so on.
    """
    colours = []
    for index in range(num_classes):
        turn, hue = divmod(index, len(_OKABE_ITO))
        target = 0 if turn % 2 else 255
        share = _van_der_corput((turn + 1) // 2)
        red, green, blue = (round(v + share * (target - v)) for v in _OKABE_ITO[hue])
        colours.append((red, green, blue))
    return tuple(colours)


def _van_der_corput(n: int) -> float:
    """0, 1/2, 1/4, 3/4, 1/8, 5/8, …: each number far from those before it."""
    value, place = 0.0, 0.5
    while n:
        value += place * (n & 1)
        n, place = n >> 1, place / 2
    return value


CAMVID = DatasetSpec(
    name="camvid",
    class_names=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign_symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    palette=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
)

_CITYSCAPES_CLASSES = sorted(
    (c for c in Cityscapes.classes if not c.ignore_in_eval), key=lambda c: c.train_id
)
CITYSCAPES = DatasetSpec(
    name="cityscapes",
    class_names=tuple(c.name for c in _CITYSCAPES_CLASSES),
    palette=tuple(c.color for c in _CITYSCAPES_CLASSES),
)

PASCAL = DatasetSpec(
    name="pascal",
    class_names=(
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "dining table",
        "dog",
        "horse",
        "motorbike",
        "person",
        "potted plant",
        "sheep",
        "sofa",
        "train",
        "tv monitor",
    ),
    palette=voc_palette(21),
)

SUN = DatasetSpec(
    name="sun",
    class_names=(
        "wall",
        "floor",
        "cabinet",
        "bed",
        "chair",
        "sofa",
        "table",
        "door",
        "window",
        "bookshelf",
        "picture",
        "counter",
        "blinds",
        "desk",
        "shelves",
        "curtain",
        "dresser",
        "pillow",
        "mirror",
        "floor mat",
        "clothes",
        "ceiling",
        "books",
        "fridge",
        "tv",
        "paper",
        "towel",
        "shower curtain",
        "box",
        "whiteboard",
        "person",
        "night stand",
        "toilet",
        "sink",
        "lamp",
        "bathtub",
        "bag",
    ),
    # The files hold 0 for void and 1 to 37 for the classes: colour 0 is that of void.
    palette=voc_palette(38)[1:],
)
