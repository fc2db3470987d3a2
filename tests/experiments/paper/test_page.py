"""docs/experiments.md says what its records say."""

from pathlib import Path

from vivit.experiments.paper.comparisons import all_tables
from vivit.experiments.paper.tables import fill_page, parts

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_is_made_from_its_records() -> None:
    page = (DOCS / "experiments.md").read_text("utf-8")
    made = parts(all_tables(), DOCS / "experiments" / "results")
    assert [name for name in made if f"<!-- made from records: {name} -->" not in page] == []
    assert page == fill_page(page, made), "run the second command of the page"
