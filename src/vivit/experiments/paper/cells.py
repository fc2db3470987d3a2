"""The comparisons: tables of rows, the claims they test, and the cells (training runs) that a row needs."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, TypeVar

from vivit.training.recipe import PretrainRecipe, Recipe
from vivit.weights.image_vit import TubeletInit

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


@dataclass(frozen=True)
class Scale:
    """The size of a run of all tables."""

    name: str
    seeds: int
    rates: int
    """How many of each row's learning rates to try."""
    benchmark: Mapping[str, Any]
    """Fields of BenchmarkSettings."""
    steps: float = 1.0
    """The fraction of each row's steps to train."""
    smaller: Mapping[str, Any] | None = None
    """Fields of ModelConfig for rows from scratch, in a test."""


@dataclass(frozen=True)
class ImageStart:
    """The first layers of a real image ViT."""

    tubelet_init: TubeletInit | None
    """How to initialise the tubelets' kernel; None leaves all initialisation to `vivit train --init`."""
    layers: int

    @property
    def settings(self) -> dict[str, Any]:
        return vars(self)


@dataclass(frozen=True)
class Pretrained:
    """The row's model after pretraining on all training videos, without their labels."""

    recipe: PretrainRecipe
    """Its seed is replaced by the cell's."""

    @property
    def settings(self) -> dict[str, Any]:
        return {"pretrained": self.recipe.model_dump(mode="json", exclude_defaults=True)}

    @cached_property
    def key(self) -> str:
        return _hash(self.settings)

    def at(self, scale: Scale, seed: int) -> Self:
        changed = _scaled(self.recipe, scale, from_scratch=True)
        return replace(self, recipe=changed.model_copy(update={"seed": seed}))


@dataclass(frozen=True)
class Row:
    """One model of a table."""

    name: str
    recipe: Recipe
    """Its learning rate and seed are replaced."""
    rates: tuple[float, ...]
    """The learning rates to choose from, the most promising first."""
    paper: str = ""
    """The paper's result for it."""
    start: ImageStart | Pretrained | None = None
    """None trains from scratch."""
    fraction: float = 1.0
    """The fraction of the training videos to use."""
    views: tuple[str, ...] = ("1x1",)
    """The views of a test video to score it with; the first are used in comparisons."""


@dataclass(frozen=True)
class Claim:
    """The claim that one row of a table is better than another."""

    better: str
    worse: str
    why: str
    """Why it may fail here; shown if it does not hold."""
    views: tuple[str, str] = ("1x1", "1x1")
    """The views to score each of them with."""

    def __str__(self) -> str:
        names = [
            name if views == "1x1" else f"{name} with {views} views"
            for name, views in zip((self.better, self.worse), self.views, strict=True)
        ]
        return " > ".join(names)


@dataclass(frozen=True)
class Table:
    key: str
    """Its name in commands and files."""
    title: str
    question: str
    paper: str
    """The paper's result, in a sentence."""
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...]
    measure: str = "verb"
    """The accuracy to compare and to choose the learning rate by: verb, noun or action."""
    delay: int = 0
    """How many rounds later its cells run than those of the most informative tables."""

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)


@dataclass(frozen=True)
class Cell:
    """One training run and its scores."""

    label: str
    """The table and row that first asked for it."""
    recipe: Recipe
    start: ImageStart | Pretrained | None
    fraction: float
    views: tuple[str, ...]
    scale: Scale

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything except the code that its result depends on, as JSON; equal settings mean the same cell."""
        changed = self.recipe.model_dump(mode="json", exclude_defaults=True)
        return {
            "recipe": changed,
            "start": self.start.settings if self.start else None,
            "fraction": self.fraction,
            "views": list(self.views),
            "benchmark": dict(self.scale.benchmark),
        }

    @cached_property
    def key(self) -> str:
        return _hash(self.settings)

    @property
    def name(self) -> str:
        """The name of its files."""
        words = "".join(letter if letter.isalnum() else "-" for letter in self.label).strip("-")
        return f"{words}-rate{self.recipe.learning_rate:g}-seed{self.recipe.seed}-{self.key}"


def _hash(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]


def cell(table: Table, row: Row, rate: float, seed: int, scale: Scale) -> Cell:
    """The training run of a row with a learning rate and a seed."""
    recipe = _scaled(row.recipe, scale, from_scratch=not isinstance(row.start, ImageStart))
    recipe = recipe.model_copy(update={"learning_rate": rate, "seed": seed})
    start = row.start.at(scale, seed) if isinstance(row.start, Pretrained) else row.start
    return Cell(f"{table.key}-{row.name}", recipe, start, row.fraction, row.views, scale)


def _scaled(recipe: AnyRecipe, scale: Scale, from_scratch: bool) -> AnyRecipe:
    change: dict[str, Any] = {"min_steps": max(1, round(recipe.min_steps * scale.steps))}
    if scale.smaller and from_scratch:
        change["architecture"] = {**recipe.architecture, **scale.smaller}
    return recipe.model_copy(update=change)


Results = Mapping[str, Mapping[str, Any]]
"""Cell key → the values of its record."""


def tried_rates(row: Row, scale: Scale) -> tuple[float, ...]:
    """The learning rates that a run of this scale tries."""
    return row.rates[: scale.rates]


def validation(table: Table, row: Row, scale: Scale, results: Results) -> dict[float, float]:
    """Learning rate → validation score at seed 0, for the rates tried so far."""
    cells = {rate: cell(table, row, rate, 0, scale) for rate in tried_rates(row, scale)}
    return {rate: results[one.key]["val"][table.measure] for rate, one in cells.items() if one.key in results}


def best_rate(table: Table, row: Row, scale: Scale, results: Results) -> float | None:
    """The rate with the best validation score so far, the first of equals; None if none has been tried."""
    found = validation(table, row, scale, results)
    return max(found, key=lambda rate: found[rate], default=None)


def waiting(tables: Sequence[Table], scale: Scale, results: Results) -> list[Cell]:
    """The cells that can run now, the most informative first, without those that have a result.

    A row goes through rounds: one learning rate at seed 0, the other rates, then one more seed in each round at the
    rate with the best validation score. A table's rows go through a round together, because a comparison needs them
    all. The most important tables are `delay` rounds ahead of the others: if time runs out, they have their intervals,
    and the others at least a first answer.
    """
    found: dict[str, tuple[tuple[int, int], Cell]] = {}
    for place, table in enumerate(tables):
        for row in table.rows:
            for turn, one in _next_rounds(table, row, scale, results):
                order = (turn + table.delay, place)
                if one.key not in results and (one.key not in found or order < found[one.key][0]):
                    found[one.key] = (order, one)
    return [one for _, one in sorted(found.values(), key=lambda entry: entry[0])]


def _next_rounds(table: Table, row: Row, scale: Scale, results: Results) -> Iterator[tuple[int, Cell]]:
    rates = tried_rates(row, scale)
    for place, rate in enumerate(rates):
        yield min(place, 1), cell(table, row, rate, 0, scale)
    best = best_rate(table, row, scale, results)
    if best is not None and len(validation(table, row, scale, results)) == len(rates):
        for seed in range(1, scale.seeds):
            yield 1 + seed, cell(table, row, best, seed, scale)


def number_of_cells(tables: Sequence[Table], scale: Scale) -> int:
    """The number of cells in a complete run; rows shared by tables count once."""
    rows = {cell(table, row, row.rates[0], 0, scale).key: row for table in tables for row in table.rows}
    return sum(len(tried_rates(row, scale)) + scale.seeds - 1 for row in rows.values())


def scores(
    table: Table, row: Row, scale: Scale, results: Results, views: str = "1x1", measure: str | None = None
) -> dict[int, float]:
    """Seed → test accuracy at the row's best learning rate so far; empty until one has been tried.

    Args:
        measure: by default the table's.
    """
    rate = best_rate(table, row, scale, results)
    if rate is None:
        return {}
    cells = {seed: cell(table, row, rate, seed, scale) for seed in range(scale.seeds)}
    return {
        seed: results[one.key]["test"][views][measure or table.measure]
        for seed, one in cells.items()
        if one.key in results
    }
