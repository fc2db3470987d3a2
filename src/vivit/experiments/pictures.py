"""Still pictures for the camera-motion videos: photographs and random textures.

The photographs come with scikit-image's wheel, so nothing is downloaded. Training and validation use different ones.
Textures never repeat exactly: over a repeating pattern, a moving camera can seem to stand still or move backwards.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from vivit.errors import UserError

Split = Literal["train", "val"]

# The two motorcycles are a stereo pair, so they must be in the same split.
PHOTOGRAPHS: dict[Split, tuple[str, ...]] = {
    "train": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "chelsea.png",
        "clock_motion.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "motorcycle_left.png",
        "motorcycle_right.png",
        "page.png",
    ),
    "val": ("coffee.png", "coins.png", "grass.png", "retina.jpg", "rocket.jpg", "text.png"),
}

TEXTURE_HEIGHT, TEXTURE_WIDTH = 288, 352


def photograph_folder() -> Path:
    """The folder of scikit-image's pictures. Raises UserError if scikit-image is not installed."""
    try:
        import skimage
    except ImportError:
        raise UserError(
            "the photographs of the camera-motion videos come with scikit-image: pip install 'vivit[demo]'"
        ) from None
    return Path(skimage.__file__).parent / "data"


@cache
def photograph(name: str) -> np.ndarray:
    """One of the PHOTOGRAPHS, (height, width, 3) uint8. Raises UserError if scikit-image is not installed."""
    path = photograph_folder() / name
    if not path.is_file():
        raise UserError(f"{path} is missing: install scikit-image again from its wheel")
    from skimage import io

    picture = io.imread(path)
    return np.stack([picture] * 3, axis=-1) if picture.ndim == 2 else picture


def draw_picture(rng: np.random.Generator, split: Split) -> np.ndarray:
    """A photograph of the split, perhaps with other colours, or a texture: (height, width, 3) uint8."""
    if rng.random() < 0.5:
        return draw_texture(rng)
    picture = photograph(PHOTOGRAPHS[split][rng.integers(len(PHOTOGRAPHS[split]))])
    if rng.random() < 0.5:
        picture = picture[..., rng.permutation(3)]
    if rng.random() < 0.2:
        picture = 255 - picture
    return picture


def draw_texture(rng: np.random.Generator) -> np.ndarray:
    """A random texture, (TEXTURE_HEIGHT, TEXTURE_WIDTH, 3) uint8."""
    draw = _TEXTURES[rng.integers(len(_TEXTURES))]
    texture = draw(rng)
    # Clouds over everything make any two tiles, and any two points of a plain area, differ.
    texture += rng.uniform(10, 50) * _clouds(rng, coarsest=4)[..., None]
    return texture.clip(0, 255).astype(np.uint8)


def _clouds(rng: np.random.Generator, coarsest: int) -> np.ndarray:
    """Smooth noise of several octaves with mean 0 and standard deviation 1; `coarsest` counts hills over the height."""
    octaves = [coarsest * 2**i for i in range(rng.integers(2, 5))]
    persistence = rng.uniform(0.4, 0.9)
    total = torch.zeros(1, 1, TEXTURE_HEIGHT, TEXTURE_WIDTH)
    for i, cells in enumerate(octaves):
        grid = rng.standard_normal((1, 1, cells, cells * TEXTURE_WIDTH // TEXTURE_HEIGHT), dtype=np.float32)
        total += persistence**i * F.interpolate(torch.from_numpy(grid), total.shape[-2:], mode="bilinear")
    clouds = total[0, 0].numpy()
    return (clouds - clouds.mean()) / clouds.std()


def _colours(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 3) float32 colours that differ in brightness, since hue alone is lost in compression."""
    brightness = rng.permutation(np.linspace(-70, 70, count))[:, None]
    return (128 + brightness + rng.uniform(-55, 55, (count, 3))).astype(np.float32)


def _positions(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """x and y of every pixel, (height, width) each, in heights, rotated at random and bent by smooth noise."""
    y, x = np.mgrid[0:TEXTURE_HEIGHT, 0:TEXTURE_WIDTH].astype(np.float32) / TEXTURE_HEIGHT
    bend = rng.uniform(0, 0.04)
    x, y = x + bend * _clouds(rng, coarsest=2), y + bend * _clouds(rng, coarsest=2)
    angle = rng.uniform(0, np.pi)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cosine * x - sine * y, sine * x + cosine * y


def _draw_clouds(rng: np.random.Generator) -> np.ndarray:
    """Smooth noise in a gradient of a few random colours."""
    colours = _colours(rng, int(rng.integers(3, 7)))
    height = _clouds(rng, coarsest=int(rng.integers(3, 12))).clip(-2, 2) / 4 + 0.5
    steps = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(height, steps, colours[:, c]) for c in range(3)], axis=-1).astype(np.float32)


def _draw_tiles(rng: np.random.Generator) -> np.ndarray:
    """A rotated and bent floor of coloured tiles, half the time laid like bricks."""
    x, y = _positions(rng)
    rows, columns = rng.uniform(4, 14, size=2)
    row = np.floor(y * rows).astype(np.int64)
    shift = 0.5 * (row % 2) if rng.random() < 0.5 else 0.0
    column = np.floor(x * columns + shift).astype(np.int64)
    colours = _colours(rng, int(rng.integers(2, 9)))
    table = rng.integers(len(colours), size=(64, 64))
    return colours[table[row % 64, column % 64]]


def _draw_weave(rng: np.random.Generator) -> np.ndarray:
    """Crossed stripes of uneven widths and colours, like a tartan."""
    x, y = _positions(rng)
    texture = np.zeros((*x.shape, 3), np.float32)
    for across in (x, y):
        edges = np.cumsum(rng.uniform(0.02, 0.16, size=40)) - 1.5
        texture += 0.5 * _colours(rng, 41)[np.searchsorted(edges, across)]
    return 128 + 1.5 * (texture - 128)


def _draw_discs(rng: np.random.Generator) -> np.ndarray:
    """Overlapping discs and boxes of many sizes on a gradient."""
    y, x = np.mgrid[0:TEXTURE_HEIGHT, 0:TEXTURE_WIDTH].astype(np.float32)
    texture = _gradient(rng)
    colours = _colours(rng, 8)
    boxes = rng.random()
    for _ in range(rng.integers(40, 120)):
        radius = rng.uniform(6, 30)
        aspect = rng.uniform(0.6, 1.6)
        centre_y, centre_x = rng.uniform(0, TEXTURE_HEIGHT), rng.uniform(0, TEXTURE_WIDTH)
        around = (
            slice(max(0, int(centre_y - radius)), int(centre_y + radius) + 1),
            slice(max(0, int(centre_x - radius * aspect)), int(centre_x + radius * aspect) + 1),
        )
        colour = colours[rng.integers(len(colours))]
        if rng.random() < boxes:
            texture[around] = colour
        else:
            inside = (y[around] - centre_y) ** 2 + ((x[around] - centre_x) / aspect) ** 2 < radius**2
            texture[around][inside] = colour
    return texture


def _draw_city(rng: np.random.Generator) -> np.ndarray:
    """Houses with lit and dark windows in front of a sky."""
    texture = _gradient(rng)
    for row in range(3):
        left = -int(rng.integers(0, 30))
        while left < TEXTURE_WIDTH:
            width = int(rng.integers(24, 64))
            top = int(TEXTURE_HEIGHT * rng.uniform(0.05, 0.4)) + 70 * row
            house = texture[top:, max(left, 0) : left + width]
            wall, lit, dark = _colours(rng, 3)
            house[:] = wall
            storey, bay = rng.integers(10, 18, size=2)
            for y in range(5, house.shape[0] - 6, storey):
                for x in range(4, house.shape[1] - 5, bay):
                    house[y : y + storey // 2, x : x + bay // 2] = lit if rng.random() < 0.5 else dark
            left += width + int(rng.integers(0, 20))
    return texture


def _draw_writing(rng: np.random.Generator) -> np.ndarray:
    """Lines of strokes of uneven lengths, like a page of writing."""
    texture = _gradient(rng)
    ink = _colours(rng, 4)
    line = int(rng.integers(9, 22))
    for y in range(2, TEXTURE_HEIGHT - line, line):
        x = int(rng.integers(0, 20))
        while x < TEXTURE_WIDTH:
            stroke = int(rng.integers(3, 30))
            height = int(line * rng.uniform(0.3, 0.8))
            texture[y : y + height, x : x + stroke] = ink[rng.integers(len(ink))]
            x += stroke + int(rng.integers(3, 16))
    return texture


def _gradient(rng: np.random.Generator) -> np.ndarray:
    """A gradient of two colours in a random direction."""
    y = np.linspace(0, 1, TEXTURE_HEIGHT, dtype=np.float32)[:, None, None]
    x = np.linspace(0, 1, TEXTURE_WIDTH, dtype=np.float32)[None, :, None]
    slant = np.float32(rng.random())
    first, second = _colours(rng, 2)
    return first + (slant * x + (1 - slant) * y) * (second - first)


_TEXTURES: tuple[Callable[[np.random.Generator], np.ndarray], ...] = (
    _draw_clouds,
    _draw_tiles,
    _draw_weave,
    _draw_discs,
    _draw_city,
    _draw_writing,
)
