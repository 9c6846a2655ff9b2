"""Synthetic street scenes, generated when they are read: a test that needs no download.

Eleven classes whose shares of the pixels differ by two orders of magnitude, thin and small objects,
and classes that are easily confused, as on real streets: a rider has the body of a person, and
differs below it; a van has the colours, wheels and size of a car, and another outline; pavement has
the road's colours and another texture. Light, season and the colours
of things change from scene to scene, so that a few labelled scenes do not show them all.

A scene depends on (seed, split, index) alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from reco.classes import DatasetSpec

SKY, BUILDING, ROAD, PAVEMENT, TREE, CAR, VAN, PERSON, RIDER, BICYCLE, POLE = range(11)

SPEC = DatasetSpec(
    "synthetic",
    (
        "sky",
        "building",
        "road",
        "pavement",
        "tree",
        "car",
        "van",
        "person",
        "rider",
        "bicycle",
        "pole",
    ),
    (
        (153, 204, 238),
        (170, 120, 100),
        (90, 90, 100),
        (190, 180, 195),
        (0, 130, 90),
        (0, 90, 190),
        (90, 200, 250),
        (220, 50, 40),
        (250, 160, 40),
        (110, 20, 90),
        (240, 228, 66),
    ),
)

SCENES = {"train": 500, "val": 60, "test": 120}
_HEIGHT, _WIDTH = 96, 128

# Strength of each class's fine and coarse texture, in grey levels.
_FINE = np.array([2, 8, 5, 9, 22, 4, 4, 8, 8, 6, 4], dtype=np.float32)
_COARSE = np.array([8, 10, 10, 8, 16, 6, 6, 6, 6, 2, 2], dtype=np.float32)

Colour = tuple[int, int, int]


class SyntheticReader:
    """The synthetic data set, a :class:`reco.data.datasets.reader.Reader`.

    Args:
        seed: of the scenes.
    """

    spec = SPEC
    label_comes_with_image = True

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def ids(self, split: str) -> list[str]:
        """``train-0000`` and so on.

        Raises:
            ValueError: no such split.
        """
        if split not in SCENES:
            raise ValueError(f"split = {split!r}: expected one of {', '.join(SCENES)}")
        return [f"{split}-{index:04d}" for index in range(SCENES[split])]

    def unlabelled_ids(self) -> list[str]:
        """None: every scene has labels."""
        return []

    def image(self, id: str) -> Image.Image:
        """The scene, RGB, 128 x 96."""
        return self._scene(id)[0]

    def label(self, id: str) -> Image.Image:
        """Its classes, mode ``L``."""
        return self._scene(id)[1]

    def _scene(self, id: str) -> tuple[Image.Image, Image.Image]:
        split, index = id.split("-")
        return paint_scene(self.seed, list(SCENES).index(split), int(index))


@lru_cache(maxsize=4)  # image and label of a scene are read one after the other
def paint_scene(seed: int, split: int, index: int) -> tuple[Image.Image, Image.Image]:
    """Image and labels of a scene."""
    random = np.random.default_rng([seed, split, index])
    scene = _Canvas(random)
    horizon = int(random.integers(38, 50))
    _paint_background(scene, horizon)
    things = _place_things(random, horizon)
    for bottom, paint, x in sorted(things, key=lambda thing: thing[0]):  # the far ones first
        paint(scene, x, bottom, (bottom - horizon) / (_HEIGHT - horizon))
    return scene.finish()


class _Canvas:
    """Paints every shape twice, as colour and as class."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.image = Image.new("RGB", (_WIDTH, _HEIGHT))
        self.label = Image.new("L", (_WIDTH, _HEIGHT))
        self._colours, self._classes = ImageDraw.Draw(self.image), ImageDraw.Draw(self.label)

    def box(self, box: tuple[float, float, float, float], colour: Colour, label: int) -> None:
        self._colours.rectangle(box, colour)
        self._classes.rectangle(box, label)

    def ellipse(self, box: tuple[float, float, float, float], colour: Colour, label: int) -> None:
        self._colours.ellipse(box, colour)
        self._classes.ellipse(box, label)

    def polygon(self, points: list[tuple[float, float]], colour: Colour, label: int) -> None:
        self._colours.polygon(points, colour)
        self._classes.polygon(points, label)

    def finish(self) -> tuple[Image.Image, Image.Image]:
        """Texture, light and sensor noise over the flat colours."""
        random = self.random
        labels = np.asarray(self.label)
        pixels = np.asarray(self.image, dtype=np.float32)
        pixels = (
            pixels
            + (_FINE[labels] * _noise(random, 2) + _COARSE[labels] * _noise(random, 16))[:, :, None]
        )
        rows = np.arange(_HEIGHT)[:, None, None] % 5 == 0
        tiles = rows & (labels == PAVEMENT)[:, :, None]  # joints between paving stones
        pixels = pixels - 16 * tiles
        slope = np.linspace(-1, 1, _WIDTH, dtype=np.float32)[None, :, None]
        light = random.uniform(0.55, 1.15) * (1 + random.uniform(-0.25, 0.25) * slope)
        tint = random.uniform(0.88, 1.12, 3).astype(np.float32)
        pixels = pixels * light * tint + random.normal(0, 4, (_HEIGHT, _WIDTH, 1))
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), self.label


# Paints one object with middle column x on a bottom row; its scale is 0 at the horizon and 1 at the
# front.
_Painter = Callable[[_Canvas, float, float, float], None]


def _paint_background(scene: _Canvas, horizon: int) -> None:
    random = scene.random
    sky = _pick(random, ((120, 170, 230), (200, 205, 215), (235, 190, 150), (90, 110, 150)), 15)
    scene.box((0, 0, _WIDTH, _HEIGHT), sky, SKY)
    x = -int(random.integers(0, 12))
    while x < _WIDTH:
        width = int(random.integers(14, 34))
        if random.random() < 0.85:
            _paint_building(scene, x, horizon - int(random.integers(8, 38)), width, horizon + 2)
        x += width
    # Pavement and road have similar colours: the texture differs.
    grey = _pick(random, ((115, 115, 120), (140, 135, 130), (95, 98, 108)), 12)
    scene.box((0, horizon, _WIDTH, _HEIGHT), _near(random, grey, 14), PAVEMENT)
    vanishing = _WIDTH / 2 + random.uniform(-25, 25)
    left, right = random.uniform(-30, 8), _WIDTH + random.uniform(-8, 30)
    far = random.uniform(4, 9)
    corners = [(vanishing - far, horizon), (vanishing + far, horizon), (right, _HEIGHT)]
    scene.polygon([*corners, (left, _HEIGHT)], grey, ROAD)


def _paint_building(scene: _Canvas, x: int, top: int, width: int, bottom: int) -> None:
    random = scene.random
    wall = _pick(random, ((150, 90, 75), (190, 175, 150), (120, 125, 135), (205, 200, 195)), 25)
    scene.box((x, top, x + width - 1, bottom), wall, BUILDING)
    glass = _near(random, (70, 80, 95), 20)
    step = int(random.integers(5, 8))
    for y in range(top + 3, bottom - 3, step):
        for left in range(x + 2, x + width - 4, step):
            scene.box((left, y, left + 2, y + step // 2), glass, BUILDING)


def _place_things(random: np.random.Generator, horizon: int) -> list[tuple[float, _Painter, float]]:
    """``(bottom row, what, middle column)`` of everything that stands in the scene."""
    things: list[tuple[float, _Painter, float]] = []

    def add(
        paint: _Painter, counts: tuple[int, int], depth: tuple[float, float], on_road: bool
    ) -> None:
        for _ in range(int(random.integers(*counts))):
            bottom = horizon + (_HEIGHT - horizon) * random.uniform(*depth)
            middle = random.uniform(30, 98) if on_road else _beside_road(random)
            things.append((bottom, paint, middle))

    add(_paint_tree, (0, 4), (0.08, 0.3), on_road=False)
    add(_paint_pole, (1, 4), (0.1, 0.5), on_road=False)
    add(_paint_car, (0, 3), (0.25, 0.85), on_road=True)
    add(_paint_van, (0, 2), (0.25, 0.7), on_road=True)
    add(_paint_person, (0, 4), (0.3, 0.9), on_road=False)
    add(_paint_rider, (0, 2), (0.35, 0.9), on_road=True)
    return things


def _beside_road(random: np.random.Generator) -> float:
    """A column in the left or right third."""
    return random.uniform(4, 40) if random.random() < 0.5 else random.uniform(88, 124)


def _paint_tree(scene: _Canvas, x: float, bottom: float, scale: float) -> None:
    random = scene.random
    height = 22 + 60 * scale
    scene.box((x - 1, bottom - height * 0.5, x + 1, bottom), (85, 60, 45), TREE)
    leaves = _pick(random, ((50, 110, 50), (95, 130, 45), (165, 110, 40), (90, 90, 75)), 18)
    for _ in range(4):
        radius = height * random.uniform(0.16, 0.26)
        cx = x + random.uniform(-0.5, 0.5) * radius
        cy = bottom - height * random.uniform(0.55, 0.85)
        box = (cx - radius, cy - radius, cx + radius, cy + radius)
        scene.ellipse(box, _near(random, leaves, 12), TREE)


def _paint_pole(scene: _Canvas, x: float, bottom: float, scale: float) -> None:
    top = bottom - (26 + 45 * scale)
    grey = _near(scene.random, (105, 108, 112), 25)
    scene.box((x, top, x + 1 + round(2 * scale), bottom), grey, POLE)
    if scene.random.random() < 0.5:  # a lamp
        scene.box((x - 5, top, x + 3, top + 1), grey, POLE)


_PAINT = (
    (185, 40, 40),
    (40, 70, 150),
    (225, 225, 225),
    (45, 45, 50),
    (150, 155, 160),
    (200, 170, 60),
)


def _paint_car(scene: _Canvas, x: float, bottom: float, scale: float) -> None:
    """Low at both ends, with a cabin in the middle."""
    half, height = 9 + 19 * scale, 7 + 15 * scale
    middle = bottom - 0.55 * height
    paint = _pick(scene.random, _PAINT, 18)
    scene.box((x - half, middle, x + half, bottom - 1), paint, CAR)
    cabin = [(x - 0.65 * half, middle), (x - 0.35 * half, bottom - height)]
    cabin += [(x + 0.35 * half, bottom - height), (x + 0.65 * half, middle)]
    scene.polygon(cabin, paint, CAR)
    window = (x - 0.3 * half, bottom - 0.9 * height, x + 0.3 * half, middle - 1)
    scene.box(window, (60, 70, 85), CAR)
    _paint_wheels(scene, x, bottom, half, height, CAR)


def _paint_van(scene: _Canvas, x: float, bottom: float, scale: float) -> None:
    """A car's paint, wheels and length, and one high box from end to end."""
    half, height = 9 + 19 * scale, 8 + 18 * scale
    scene.box(
        (x - half, bottom - height, x + half, bottom - 1), _pick(scene.random, _PAINT, 18), VAN
    )
    front = x + (half if scene.random.random() < 0.5 else -0.45 * half)
    window = (front - 0.5 * half, bottom - 0.9 * height, front - 1, bottom - 0.55 * height)
    scene.box(window, (60, 70, 85), VAN)
    _paint_wheels(scene, x, bottom, half, height, VAN)


def _paint_wheels(
    scene: _Canvas, x: float, bottom: float, half: float, height: float, label: int
) -> None:
    radius = 0.2 * height
    for cx in (x - 0.6 * half, x + 0.6 * half):
        box = (cx - radius, bottom - 1.6 * radius, cx + radius, bottom + 0.4 * radius)
        scene.ellipse(box, (28, 28, 30), label)


_CLOTHES = (
    (170, 60, 60),
    (60, 80, 140),
    (60, 110, 80),
    (220, 210, 190),
    (50, 50, 55),
    (200, 150, 60),
)


def _paint_body(scene: _Canvas, x: float, bottom: float, height: float, label: int) -> None:
    """Torso and head, the same for persons and riders; ``bottom`` is the hip."""
    skin = _pick(scene.random, ((225, 185, 160), (150, 105, 80), (95, 65, 50)), 8)
    half, radius = 0.3 * height, 0.2 * height
    torso = (x - half, bottom - 0.65 * height, x + half, bottom)
    scene.box(torso, _pick(scene.random, _CLOTHES, 18), label)
    head = (x - radius, bottom - height, x + radius, bottom - 0.62 * height)
    scene.ellipse(head, skin, label)


def _paint_person(scene: _Canvas, x: float, bottom: float, scale: float) -> None:
    height = 10 + 30 * scale
    trousers = _pick(scene.random, _CLOTHES, 18)
    for leg in (x - 0.13 * height, x + 0.03 * height):
        scene.box((leg, bottom - 0.45 * height, leg + 0.1 * height, bottom), trousers, PERSON)
    _paint_body(scene, x, bottom - 0.45 * height, 0.55 * height, PERSON)


def _paint_rider(scene: _Canvas, x: float, bottom: float, scale: float) -> None:
    height = 10 + 30 * scale
    radius = 0.2 * height
    steel = _near(scene.random, (45, 45, 48), 15)
    scene.box(
        (x - 1.3 * radius, bottom - 1.6 * radius, x + 1.3 * radius, bottom - radius), steel, BICYCLE
    )
    for cx in (x - 1.3 * radius, x + 1.3 * radius):
        scene.ellipse((cx - radius, bottom - 2 * radius, cx + radius, bottom), steel, BICYCLE)
    _paint_body(scene, x, bottom - 0.38 * height, 0.55 * height, RIDER)


def _pick(random: np.random.Generator, colours: tuple[Colour, ...], spread: int) -> Colour:
    """A random colour near one of ``colours``."""
    return _near(random, colours[int(random.integers(len(colours)))], spread)


def _near(random: np.random.Generator, colour: Colour, spread: int) -> Colour:
    r, g, b = (int(c) for c in np.clip(random.integers(-spread, spread + 1, 3) + colour, 0, 255))
    return r, g, b


def _noise(random: np.random.Generator, grain: int) -> npt.NDArray[np.float32]:
    """``(H, W)`` smooth noise of deviation 1 in patches of about ``grain`` pixels."""
    rows, columns = _HEIGHT // grain + 1, _WIDTH // grain + 1
    values = random.standard_normal((rows, columns), dtype=np.float32)
    smooth = Image.fromarray(values).resize((_WIDTH, _HEIGHT), Image.Resampling.BILINEAR)
    return np.asarray(smooth, dtype=np.float32)
