"""The benchmark of token dropping trains on the tokens that it says, for the time that it says."""

import shutil
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import token_dropping
from benchmarks.token_dropping import Trainer, random_batch, recipe_of, seconds_of_updates
from vivit.config import SUFFIXES
from vivit.data import loader
from vivit.data.readers.listing import open_data
from vivit.model.encoder import Encoder
from vivit.training.optim import learning_rate
from vivit.training.recipes import RECIPES

TIMES, PLACES = 2, 16  # of the toy


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("fraction", "places"), [(1.0, 16), (0.5, 8), (0.25, 4)])
def test_an_update_sees_the_share_of_the_tokens_that_is_kept(suffix: str, fraction: float, places: int) -> None:
    recipe = recipe_of(suffix, small=False, quick=True)
    trainer, seen = Trainer(recipe, [str(number) for number in range(400)]), []

    def look(block: nn.Module, args: tuple[Tensor, int]) -> None:
        seen.append(tuple(args[0].shape[:-1]))

    encoder = next(module for module in trainer.model.modules() if isinstance(module, Encoder))
    encoder.blocks[0].register_forward_pre_hook(look)
    before = [parameter.detach().clone() for parameter in trainer.model.heads.parameters()]
    assert seconds_of_updates(trainer, repeat(random_batch(recipe, 3)), 2, fraction) > 0
    expected = {"": (3, 1 + TIMES * places), "fe": (3 * TIMES, 1 + places)}.get(suffix, (3, TIMES, places))
    assert seen == [expected, expected]
    after = list(trainer.model.heads.parameters())
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("fraction", [1.0, 0.25])
def test_flops_are_those_worked_out_by_hand(fraction: float) -> None:
    # The embedding sees all tokens, the two layers those that are kept and a class token: D 48, MLP 96.
    seen = round(fraction * TIMES * PLACES) + 1
    embedding, head = TIMES * PLACES * 3 * 2 * 16 * 16 * 48, 48 * 400
    layer = seen * (4 * 48 * 48 + 2 * 48 * 96) + 2 * seen * seen * 48
    expected = 2 * (embedding + 2 * layer + head)
    assert token_dropping.flops(recipe_of("", small=False, quick=True), fraction) == expected


def test_ratios_are_those_of_each_round() -> None:
    recipe = recipe_of("", small=False, quick=True)
    _, row = token_dropping.time_rows(recipe, 1, {1.0: [1.0, 2.0, 10.0], 0.5: [0.5, 1.6, 2.0]})
    assert row.split(" | ")[:5] == ["| vivit-b-16x2", "1", "50%", "1.6", "0.50"]


def test_each_way_has_as_many_updates_as_fit_into_the_same_time(
    bright_dark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    updates: list[tuple[float, float]] = []
    update = Trainer.update

    def counted(self: Trainer, batch: Any, step: int, rate: float) -> None:
        updates.append((1 - self.droppings[0].rate, rate))
        update(self, batch, step, rate)

    def copied(folder: Path, **_: int) -> None:
        shutil.copytree(bright_dark, folder)

    monkeypatch.setattr(token_dropping, "generate", copied)
    monkeypatch.setattr(token_dropping, "time_on_videos", lambda *_: {1.0: [0.3, 0.2, 9.0], 0.5: [0.1]})
    monkeypatch.setattr(Trainer, "update", counted)
    token_dropping.take_accuracy(0.5, seconds=0.9, rounds=1, videos=9, seeds=2, folder=tmp_path)
    each = [1.0] * 3 + [0.5] * 9
    assert [fraction for fraction, _ in updates] == 2 * each
    # Either way the cosine ends with the last update, after a warm-up of a sixth.
    assert updates[2][1] == pytest.approx(learning_rate(2, 1e-3, 3 / 6, 3))
    assert updates[11][1] == pytest.approx(learning_rate(8, 1e-3, 9 / 6, 9))
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[-2:]]
    assert [row[:3] for row in rows] == [["| 100%", "0.300", "3"], ["| 50%", "0.100", "9"]]


def test_updates_on_videos_are_timed_without_decoding(bright_dark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = open_data(bright_dark).split("train")
    recipe = RECIPES["demo"].model_copy(update={"token_dropping": 0.5, "batch_size": 4})
    decoded: list[int] = []  # in each turn
    turn, read = token_dropping.seconds_of_updates, loader.read_whole

    def turn_begun(*args: Any) -> float:
        decoded.append(0)
        return turn(*args)

    def counted(*args: Any) -> Tensor:
        decoded[-1] += 1
        return read(*args)

    monkeypatch.setattr(token_dropping, "seconds_of_updates", turn_begun)
    monkeypatch.setattr(loader, "read_whole", counted)
    taken = token_dropping.time_on_videos(videos, recipe, (1.0, 0.5), 2)
    assert decoded == [8, 0, 0, 0, 0, 0]
    assert [len(seconds) for seconds in taken.values()] == [2, 2]
