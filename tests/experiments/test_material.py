"""Photographs and cut-outs are dealt out by their content, and no split shares one with another."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vivit.errors import UserError
from vivit.experiments.material import FEWEST_CUT_OUTS, SPLITS, Material, open_material


def save(path: Path, number: int, transparent: bool) -> None:
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (170, 180, 4 if transparent else 3), dtype=np.uint8)
    if transparent:
        pixels[..., 3] = 0
        pixels[20:120, 30:150, 3] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    pictures, objects = tmp_path / "photos", tmp_path / "objects"
    for number in range(10):
        save(pictures / f"{number}.png", number, transparent=False)
    shutil.copy(pictures / "3.png", pictures / "3 again.png")
    for number in range(FEWEST_CUT_OUTS):
        save(objects / "cup" / f"{number}.png", 100 + number, transparent=True)
        save(objects / "animals" / "cat" / f"{number}.png", 200 + number, transparent=True)
        save(objects / "photographs" / f"{number}.png", 300 + number, transparent=False)
    save(objects / "few" / "one.png", 400, transparent=True)
    return pictures, objects


def pixel_hashes(material: Material) -> dict[str, set[str]]:
    """split → a hash of each picture that its videos are made of."""
    found: dict[str, set[str]] = {}
    for split in SPLITS:
        pixels = [photograph.pixels() for photograph in material.photographs[split]]
        pixels += [cut_out.pixels() for one in material.cut_outs[split].values() for cut_out in one]
        found[split] = {hashlib.sha256(one.tobytes()).hexdigest() for one in pixels}
        assert len(found[split]) == len(pixels)
    return found


@pytest.mark.parametrize("made", [True, False])
def test_no_split_shares_a_picture_or_an_object_with_another(folders: tuple[Path, Path], made: bool) -> None:
    material = open_material(*folders) if made else open_material(None, None)
    train, val, test = pixel_hashes(material).values()
    assert not train & val and not train & test and not val & test
    assert all(material.cut_outs[split][noun] for split in SPLITS for noun in material.nouns)
    if made:
        assert material.nouns == ("cat", "cup")
        assert len(train | val | test) == 10 + 2 * FEWEST_CUT_OUTS  # the copy of a photograph is no other one


def test_the_split_of_a_file_does_not_depend_on_its_name_or_place(folders: tuple[Path, Path], tmp_path: Path) -> None:
    before = open_material(*folders)
    pixels = pixel_hashes(before)
    moved = [folder.rename(tmp_path / f"moved {folder.name}") for folder in folders]
    for file in (tmp_path / "moved photos").glob("*.png"):
        file.rename(file.with_name(f"renamed {file.name}"))
    after = open_material(*moved)
    assert after.digest == before.digest
    assert pixel_hashes(after) == pixels


def test_folders_with_too_little_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: has 0 photographs; a motion benchmark needs 3 or more"):
        open_material(tmp_path / "empty", None)
    shutil.rmtree(folders[1] / "cup")
    with pytest.raises(UserError, match=r"objects: has 1 folders with 12 cut-outs"):
        open_material(None, folders[1])
    with pytest.raises(UserError, match="no such folder"):
        open_material(tmp_path / "nowhere", None)
