"""Photographs and cut-outs that share nothing between train, val and test.

Files are assigned by their content, so their names, locations and order do not matter.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vivit.errors import UserError
from vivit.experiments.drawings import KINDS, draw
from vivit.experiments.pictures import PHOTOGRAPHS, photograph_folder

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
HELD_OUT = 0.2  # the fraction for val, and for test

PHOTOGRAPH_SIDE = 480  # the shorter side of a photograph in memory
SMALLEST_PHOTOGRAPH = 160
CUT_OUT_SIDE = 160  # the longer side of a cut-out in memory
SMALLEST_CUT_OUT = 56
FEWEST_CUT_OUTS = 12  # of a class
MOST_CLASSES = 12
DRAWINGS = 24  # of each kind

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Photograph:
    path: Path

    @lru_cache(maxsize=600)  # noqa: B019, photographs live as long as the process
    def pixels(self) -> np.ndarray:
        """(height, width, 3) uint8."""
        with Image.open(self.path) as image:
            image.draft("RGB", (PHOTOGRAPH_SIDE * 2, PHOTOGRAPH_SIDE * 2))
            scale = min(1.0, PHOTOGRAPH_SIDE / min(image.size))
            size = (round(image.width * scale), round(image.height * scale))
            return np.array(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))


@dataclass(frozen=True)
class CutOut:
    """An object without background: a picture with transparency, or a drawing."""

    noun: str
    path: Path | None = None
    number: int = 0
    """Of a drawing."""

    @lru_cache(maxsize=600)  # noqa: B019
    def pixels(self) -> np.ndarray:
        """(height, width, 4) uint8, cropped to the visible part."""
        if self.path is None:
            image = draw(self.noun, self.number)
        else:
            with Image.open(self.path) as opened:
                image = opened.convert("RGBA")
        image = image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > 32)).getbbox())
        return np.array(ImageOps.contain(image, (CUT_OUT_SIDE, CUT_OUT_SIDE), Image.Resampling.LANCZOS))


@dataclass(frozen=True)
class Material:
    """The photographs and cut-outs to make videos from."""

    photographs: Mapping[Split, Sequence[Photograph]]
    cut_outs: Mapping[Split, Mapping[str, Sequence[CutOut]]]
    """split → noun → its cut-outs; the nouns are the same in each split."""
    digest: str
    """Identifies these files."""

    @property
    def nouns(self) -> tuple[str, ...]:
        return tuple(self.cut_outs["train"])


def open_material(pictures: Path | None, objects: Path | None) -> Material:
    """Assign photographs and cut-outs to splits.

    Args:
        pictures: a folder of photographs, at any depth. None: scikit-image's.
        objects: a folder with a folder of cut-outs (PNG or WebP with transparency) for each noun; subfolders of a
            noun's folder belong to the noun. The nouns with the most cut-outs are used. None: drawings.

    Raises:
        UserError: a folder is missing or holds too little, or scikit-image is not installed.
    """
    if pictures is None:
        names = {name for names in PHOTOGRAPHS.values() for name in names} - {"motorcycle_right.png"}
        files = [photograph_folder() / name for name in sorted(names)]
    else:
        files = [path for path in _files(pictures) if _is_photograph(path)]
    dealt, hashes = _deal(files)
    if not all(dealt.values()):
        raise UserError(f"{pictures}: has {len(hashes)} photographs; a motion benchmark needs 3 or more")
    photographs = {split: tuple(map(Photograph, dealt[split])) for split in SPLITS}
    if objects is None:
        cut_outs = {split: {noun: _drawings(noun, split) for noun in KINDS} for split in SPLITS}
    else:
        cut_outs = {split: {} for split in SPLITS}
        for noun, paths in _nouns(objects).items():
            dealt, more = _deal(paths)
            hashes += more
            for split in SPLITS:
                cut_outs[split][noun] = tuple(CutOut(noun, path) for path in dealt[split])
    return Material(photographs, cut_outs, hashlib.sha256("".join(hashes).encode()).hexdigest()[:16])


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS and path.is_file())


def _deal(files: Iterable[Path]) -> tuple[dict[Split, list[Path]], list[str]]:
    """Assign files to splits by the hash of their content, equal ones once; also return all hashes, sorted."""
    by_hash = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in files}
    hashes = sorted(by_hash)
    order = [by_hash[one] for one in hashes]
    each = max(1, round(HELD_OUT * len(order)))
    return {"val": order[:each], "test": order[each : 2 * each], "train": order[2 * each :]}, hashes


def _is_photograph(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return min(image.size) >= SMALLEST_PHOTOGRAPH and "A" not in image.getbands()
    except (OSError, UnidentifiedImageError):
        return False


def _nouns(objects: Path) -> dict[str, list[Path]]:
    """noun → its files. A noun is a folder, or a subfolder of one that holds only folders."""
    found: dict[str, list[Path]] = {}
    for path in _files(objects):
        parts = path.relative_to(objects).parts[:-1]
        # Drawing programs keep a mirrored copy beside some pictures.
        if parts and not path.stem.endswith(("_mirror", "_flip")) and _is_cut_out(path):
            found.setdefault("/".join(parts[:2]), []).append(path)
    enough = {noun: files for noun, files in found.items() if len(files) >= FEWEST_CUT_OUTS}
    largest = sorted(enough, key=lambda noun: (-len(enough[noun]), noun))[:MOST_CLASSES]
    if len(largest) < 2:
        raise UserError(
            f"{objects}: has {len(largest)} folders with {FEWEST_CUT_OUTS} cut-outs (PNG or WebP with transparency, "
            f"{SMALLEST_CUT_OUT} pixels or more); a motion benchmark needs 2 or more, one for each noun"
        )
    last = [noun.rsplit("/", 1)[-1] for noun in largest]
    names = {noun: name if last.count(name) == 1 else noun for noun, name in zip(largest, last, strict=True)}
    return {names[noun]: enough[noun] for noun in sorted(largest, key=lambda noun: names[noun])}


def _is_cut_out(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            if max(image.size) < SMALLEST_CUT_OUT or not ("A" in image.getbands() or "transparency" in image.info):
                return False
            alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    except (OSError, UnidentifiedImageError):
        return False
    return bool(0.1 < (alpha > 128).mean() < 0.95)


def _drawings(noun: str, split: Split) -> tuple[CutOut, ...]:
    each = round(HELD_OUT * DRAWINGS)
    numbers = {"val": range(each), "test": range(each, 2 * each), "train": range(2 * each, DRAWINGS)}[split]
    return tuple(CutOut(noun, number=number) for number in numbers)
