"""The benchmark of the frozen spatial encoder starts its models as its table says, and prints a row for each."""

import shutil
from pathlib import Path

import pytest
import torch

from benchmarks import frozen_spatial
from benchmarks.frozen_spatial import BEFORE, FROM_SCRATCH, FROZEN, NEW, WAYS_OF_NEW, Way, only, start_of
from tests.support import random_weights
from vivit.data.datasets import LabelledVideo, VideoSet
from vivit.data.loader import label_tensors
from vivit.labels import LabelSpace
from vivit.model.vivit import ViViT
from vivit.training.recipes import RECIPES


def trained_before() -> ViViT:
    recipe = RECIPES["demo"]
    model = ViViT(recipe.build_config({"classes": len(BEFORE)}), preprocessing=recipe.build_preprocessing())
    return random_weights(model, std=1.0)


@pytest.mark.parametrize("way", WAYS_OF_NEW, ids=lambda way: way.words)
def test_each_way_starts_from_what_it_names(way: Way) -> None:
    before = trained_before()
    state, kept = start_of(way, before, NEW, RECIPES["demo"]).state_dict(), before.state_dict()
    same = {name for name, value in state.items() if name in kept and torch.equal(value, kept[name])}
    spatial, temporal = (
        {name for name in kept if name.startswith(parts)}
        for parts in (("embedding.", "encoder.spatial."), ("encoder.temporal.",))
    )
    assert same == (spatial if way.spatial_kept else set()) | (temporal if way.temporal == "kept" else set())


def test_only_some_classes_are_numbered_anew() -> None:
    names = ("a", "b", "c")
    videos = tuple(LabelledVideo(Path(name), {"classes": (name,)}) for name in "cabc")
    chosen = only(VideoSet(videos, LabelSpace({"classes": names}), "videos"), ("c", "a"))
    assert [str(video.source) for video in chosen.videos] == ["c", "a", "c"]
    assert [int(label_tensors(chosen, index)["classes"]) for index in range(3)] == [0, 1, 0]


def test_the_quick_form_prints_a_row_for_every_way(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(frozen_spatial, "generated", lambda size: shutil.copy(video, tmp_path / "video.mp4"))
    frozen_spatial.main(clips=4, quick=True, folder=tmp_path)
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows == [
        *("trained", "all", "what follows the frozen spatial encoder"),
        *("trained", FROM_SCRATCH.words, *(way.words for way in FROZEN)),
        *("trained", *(way.words for way in WAYS_OF_NEW)),
    ]
