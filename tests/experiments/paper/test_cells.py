"""Which cells run, in which order, and what made-up results say of the claims."""

from collections.abc import Callable
from typing import Any

import pytest

from vivit.experiments.paper.cells import Claim, Row, Scale, Table, cell, number_of_cells, scores, waiting
from vivit.experiments.paper.comparisons import FULL, SHRUNKEN, all_tables
from vivit.experiments.paper.tables import fill_page, judged, table_lines
from vivit.training.recipe import Recipe

SCALE = Scale("made up", seeds=3, rates=2, benchmark={})
LARGE, SMALL = Recipe(architecture={"hidden_size": 64}), Recipe(architecture={"hidden_size": 32})
RATES = (0.1, 0.2, 0.4)
TABLE = Table(
    "one", "One", "?", ".", (Row("large", LARGE, RATES), Row("small", SMALL, RATES)), (Claim("large", "small", "few."),)
)
LATER = Table("two", "Two", "?", ".", (Row("other", Recipe(epochs=3), RATES), Row("large", LARGE, RATES)), (), delay=2)


def result(cell_: Any, val: float, test: float) -> dict[str, Any]:
    return {
        "key": cell_.key,
        "scale": SCALE.name,
        "settings": cell_.settings,
        "val": {"verb": val, "noun": 0.5, "action": val / 2},
        "test": {"1x1": {"verb": test, "noun": 0.5, "action": test / 2}},
        "parameters": 10**6,
        "multiply_adds": 10**8,
        "train_cpu_seconds": 60.0,
    }


def finish(accuracy: Callable[[str, float, int], float]) -> tuple[list[tuple[str, float, int]], dict[str, Any]]:
    """Run what waits, one after another, until nothing does; returns the order and the results.

    Args:
        accuracy: of a label, a rate and a seed.
    """
    order: list[tuple[str, float, int]] = []
    results: dict[str, Any] = {}
    while cells := waiting([LATER, TABLE], SCALE, results):
        first = cells[0]
        at = (first.label, first.recipe.learning_rate, first.recipe.seed)
        order.append(at)
        results[first.key] = result(first, accuracy(*at), accuracy(*at))
    return order, results


def test_telling_tables_run_first_and_seeds_follow_the_best_rate() -> None:
    best = {"one-large": 0.2, "one-small": 0.1, "two-other": 0.2}
    order, results = finish(lambda label, rate, seed: 0.8 if rate == best[label] else 0.3)
    one, two = ([at for at in order if at[0].startswith(name)] for name in ("one", "two"))
    assert one[:2] == [("one-large", 0.1, 0), ("one-small", 0.1, 0)]
    assert one[2:4] == [("one-large", 0.2, 0), ("one-small", 0.2, 0)]
    assert one[4:] == [(name, best[name], seed) for seed in (1, 2) for name in ("one-large", "one-small")]
    # Two rounds later than the first table; the row that both have runs once.
    assert order.index(two[0]) == 4 and len(order) == number_of_cells([LATER, TABLE], SCALE) == 12
    assert scores(TABLE, TABLE.rows[0], SCALE, results) == {0: 0.8, 1: 0.8, 2: 0.8}
    assert scores(LATER, LATER.rows[1], SCALE, results) == scores(TABLE, TABLE.rows[0], SCALE, results)


@pytest.mark.parametrize(
    ("ahead", "said"),
    [((0.1, 0.1, 0.11), "held"), ((-0.1, -0.1, -0.11), "contradicted"), ((0.3, -0.2, 0.1), "not shown")],
)
def test_a_claim_is_judged_and_a_failure_gives_a_reason(ahead: tuple[float, ...], said: str) -> None:
    _, results = finish(lambda label, rate, seed: 0.5 + (ahead[seed] if label == "one-large" else 0.0))
    ((_, found, verdict),) = judged(TABLE, SCALE, results)
    assert verdict == said and found is not None and found.mean == pytest.approx(sum(ahead) / 3)
    text = "\n".join(table_lines(TABLE, SCALE, results))
    assert ("few." in text) == (said != "held")
    assert "| large |" in text and "| small |" in text


def test_a_page_is_filled_between_its_marks_only() -> None:
    page = "before\n<!-- made from records: one -->\nold\n<!-- end -->\nafter\n"
    filled = fill_page(page, {"one": ["new"]})
    assert "old" not in filled and "new" in filled and filled.startswith("before\n") and filled.endswith("\nafter\n")
    assert fill_page(filled, {"one": ["new"]}) == filled


@pytest.mark.parametrize("scale", [FULL, SHRUNKEN])
def test_every_claim_names_rows_of_its_table_and_every_recipe_is_a_model(scale: Scale) -> None:
    for table in all_tables():
        for claim in table.claims:
            for name, views in zip((claim.better, claim.worse), claim.views, strict=True):
                assert views in table.row(name).views
        for row in table.rows:
            made = cell(table, row, row.rates[0], 0, scale)
            assert made.recipe.min_steps >= 1
            if row.start is None:
                made.recipe.build_config({"verb": 17, "noun": 12})
