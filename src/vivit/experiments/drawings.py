"""Drawn objects: many drawings of each kind, with different proportions, colours and patterns."""

import numpy as np
from PIL import Image, ImageChops, ImageDraw

SIDE = 160
_SMOOTH = 2  # drawn at this many times the size

Point = tuple[float, float]


def _polygon(rng: np.random.Generator, corners: int, inner: float) -> list[Point]:
    """A star with this many points, or a regular polygon if `inner` is 1; the first point is at the top."""
    radii = np.where(np.arange(2 * corners) % 2 == 0, 1.0, inner)
    angles = np.pi * np.arange(2 * corners) / corners
    return [(r * np.sin(a), -r * np.cos(a)) for r, a in zip(radii, angles, strict=True)]


def _star(rng: np.random.Generator) -> list[list[Point]]:
    return [_polygon(rng, int(rng.integers(4, 8)), rng.uniform(0.35, 0.55))]


def _arrow(rng: np.random.Generator) -> list[list[Point]]:
    shaft, head = rng.uniform(0.15, 0.3), rng.uniform(-0.4, 0.1)
    return [[(0, -1), (0.8, head), (shaft, head), (shaft, 1), (-shaft, 1), (-shaft, head), (-0.8, head)]]


def _cross(rng: np.random.Generator) -> list[list[Point]]:
    arm, at = rng.uniform(0.15, 0.3), rng.uniform(-0.35, 0.0)
    across = rng.uniform(0.6, 0.9)
    return [
        [(-arm, -1), (arm, -1), (arm, 1), (-arm, 1)],
        [(-across, at - arm), (across, at - arm), (across, at + arm), (-across, at + arm)],
    ]


def _heart(rng: np.random.Generator) -> list[list[Point]]:
    t = np.linspace(0, 2 * np.pi, 60)
    wide, deep = rng.uniform(0.85, 1.0), rng.uniform(0.8, 1.1)
    x = wide * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 15 * deep
    return [list(zip(x.tolist(), y.tolist(), strict=True))]


def _house(rng: np.random.Generator) -> list[list[Point]]:
    wall, eaves = rng.uniform(0.55, 0.8), rng.uniform(-0.2, 0.2)
    roof = min(1.0, wall + rng.uniform(0.05, 0.25))
    return [[(-wall, eaves), (wall, eaves), (wall, 1), (-wall, 1)], [(0, -1), (roof, eaves), (-roof, eaves)]]


def _tree(rng: np.random.Generator) -> list[list[Point]]:
    trunk, tiers = rng.uniform(0.1, 0.2), int(rng.integers(2, 5))
    shapes: list[list[Point]] = [[(-trunk, 0.3), (trunk, 0.3), (trunk, 1), (-trunk, 1)]]
    for tier in range(tiers):
        top, width = -1 + 1.2 * tier / tiers, 0.4 + 0.5 * (tier + 1) / tiers
        shapes.append([(0, top), (width, top + 1.6 / tiers), (-width, top + 1.6 / tiers)])
    return shapes


def _boat(rng: np.random.Generator) -> list[list[Point]]:
    deck, keel, mast = rng.uniform(0.35, 0.5), rng.uniform(0.5, 0.75), rng.uniform(-0.3, 0.1)
    return [
        [(-1, deck), (1, deck), (keel, 1), (-keel, 1)],
        [(mast, -1), (mast, deck - 0.1), (min(1, mast + rng.uniform(0.6, 0.9)), deck - 0.1)],
        [(mast - 0.08, -0.8), (mast - 0.08, deck - 0.1), (mast - rng.uniform(0.4, 0.6), deck - 0.1)],
    ]


def _letter(strokes: tuple[tuple[float, float, float, float], ...], rng: np.random.Generator) -> list[list[Point]]:
    """Strokes from one point to another, of a random width."""
    half = rng.uniform(0.14, 0.26)
    shapes = []
    for x0, y0, x1, y1 in strokes:
        along = np.array([x1 - x0, y1 - y0]) / np.hypot(x1 - x0, y1 - y0) * half
        across = np.array([-along[1], along[0]])
        a, b = np.array([x0, y0]) - along, np.array([x1, y1]) + along
        shapes.append([(float(p[0]), float(p[1])) for p in (a + across, b + across, b - across, a - across)])
    return shapes


def _letter_f(rng: np.random.Generator) -> list[list[Point]]:
    middle = rng.uniform(-0.15, 0.15)
    return _letter(((-0.5, -0.8, -0.5, 0.8), (-0.5, -0.8, 0.6, -0.8), (-0.5, middle, 0.35, middle)), rng)


def _letter_a(rng: np.random.Generator) -> list[list[Point]]:
    bar = rng.uniform(0.1, 0.4)
    return _letter(((-0.6, 0.8, 0, -0.8), (0.6, 0.8, 0, -0.8), (-0.4, bar, 0.4, bar)), rng)


def _ring(rng: np.random.Generator) -> list[list[Point]]:
    t = np.linspace(0, 2 * np.pi, 60)
    tall, hole = rng.uniform(0.7, 1.0), rng.uniform(0.45, 0.65)
    outer = [(float(np.sin(a)), float(-tall * np.cos(a))) for a in t]
    return [outer + [(hole * x, hole * y) for x, y in reversed(outer)]]


def _moon(rng: np.random.Generator) -> list[list[Point]]:
    t = np.linspace(-0.75, 0.75, 40) * np.pi
    bite = rng.uniform(0.2, 0.5)
    outer = [(-float(np.cos(a)), float(np.sin(a))) for a in t]
    inner = [(x * (1 - bite) + 0.7 * bite, y * 0.95) for x, y in reversed(outer)]
    return [outer + inner]


KINDS = {
    "arrow": _arrow,
    "boat": _boat,
    "cross": _cross,
    "heart": _heart,
    "house": _house,
    "letter_a": _letter_a,
    "letter_f": _letter_f,
    "moon": _moon,
    "ring": _ring,
    "star": _star,
    "tree": _tree,
}


def draw(kind: str, number: int) -> Image.Image:
    """One of the drawings of a kind, RGBA of SIDE × SIDE."""
    rng = np.random.default_rng([list(KINDS).index(kind), number])
    shapes = KINDS[kind](rng)
    large = SIDE * _SMOOTH
    colours = [tuple(int(value) for value in rng.integers(30, 256, 3)) for _ in range(4)]
    tilt = np.radians(rng.uniform(-10, 10))
    cosine, sine, half, reach = np.cos(tilt), np.sin(tilt), large / 2, large * 0.42
    image = Image.new("RGBA", (large, large))
    pen = ImageDraw.Draw(image)
    for index, shape in enumerate(shapes):
        corners = [(half + reach * (cosine * x - sine * y), half + reach * (sine * x + cosine * y)) for x, y in shape]
        pen.polygon(corners, fill=colours[index % 3])
    stripes = Image.new("RGBA", (large, large))
    pen = ImageDraw.Draw(stripes)
    width = int(rng.integers(large // 16, large // 6))
    for x in range(0, large, 2 * width):
        pen.rectangle((x, 0, x + width, large), fill=(*colours[3], 255))
    stripes = stripes.rotate(rng.uniform(0, 180))
    stripes.putalpha(ImageChops.multiply(stripes.getchannel("A"), image.getchannel("A")))
    if rng.random() < 0.6:
        image.alpha_composite(stripes)
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
