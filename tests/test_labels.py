"""The label space, against what the heads of EPIC-Kitchens, Kinetics and Charades mean."""

import math

import pytest
import torch
from torch import Tensor

from vivit.config import ModelConfig
from vivit.labels import LabelSpace, as_classes, by_head, head_fields
from vivit.model.vivit import ViViT

KINETICS = LabelSpace({"classes": tuple("abcdefg")})
FEW = LabelSpace({"classes": tuple("abcde")})
KITCHENS = LabelSpace({"verb": ("open", "close"), "noun": tuple("abcdef")})
CHARADES = LabelSpace({"classes": tuple("abcdefg")}, multi_label=True)
TWO_SETS = LabelSpace({"place": ("in", "out"), "mood": ("good", "bad")}, multi_label=True)


@pytest.mark.parametrize(
    ("space", "keys", "titles"),
    [
        (KINETICS, ["top1", "top5"], ["top-1", "top-5"]),
        (FEW, ["top1", "top5"], ["top-1"]),
        (CHARADES, ["mAP"], ["mAP"]),
        (TWO_SETS, ["place_mAP", "mood_mAP"], ["place mAP", "mood mAP"]),
        (
            KITCHENS,
            ["verb_top1", "verb_top5", "noun_top1", "noun_top5", "action_top1", "action_top5"],
            ["verb top-1", "noun top-1", "noun top-5", "action top-1", "action top-5"],
        ),
        (
            LabelSpace({"who": ("a", "b"), "where": ("c", "d")}),
            ["who_top1", "who_top5", "where_top1", "where_top5", "who+where_top1", "who+where_top5"],
            ["who top-1", "where top-1", "who+where top-1", "who+where top-5"],
        ),
        (LabelSpace({"verb": tuple("abcdefg")}), ["top1", "top5"], ["top-1", "top-5"]),
        (LabelSpace({}), [], []),
    ],
)
def test_metrics_have_the_keys_of_files_and_titles_for_people(
    space: LabelSpace, keys: list[str], titles: list[str]
) -> None:
    """A top-5 among five classes or fewer is always right, so it has no title that is shown."""
    assert [metric.key for metric in space.metrics()] == keys
    assert [metric.title for metric in space.metrics() if metric.informative] == titles


def test_a_metric_says_what_it_scores() -> None:
    scored = [(metric.heads, metric.top) for metric in KITCHENS.metrics()]
    assert scored == [
        *[(("verb",), k) for k in (1, 5)],
        *[(("noun",), k) for k in (1, 5)],
        *[(("verb", "noun"), k) for k in (1, 5)],
    ]
    assert [(metric.heads, metric.top) for metric in TWO_SETS.metrics()] == [(("place",), None), (("mood",), None)]


def test_names_and_numbers_belong_together() -> None:
    assert KITCHENS.heads == ("verb", "noun")
    assert KITCHENS.counts == {"verb": 2, "noun": 6}
    assert (KITCHENS.numbers["verb"]["close"], KITCHENS.numbers["noun"]["c"]) == (1, 2)
    assert (KITCHENS.single, KINETICS.single) == (False, True)


def test_heads_without_names_are_not_shown() -> None:
    assert (str(KINETICS), str(KITCHENS)) == ("7 classes", "2 verb and 6 noun classes")
    assert (KINETICS.title("classes"), KITCHENS.title("verb")) == ("", "verb")
    assert (KINETICS.column("classes", "label"), KITCHENS.column("verb", "label")) == ("label", "verb_label")


def test_ranked_labels_by_hand() -> None:
    """Probabilities of 1/7 and 2/7 by softmax, and of 1/2 and 2/3 by sigmoid."""
    logits = torch.tensor([0.0, 0.0, math.log(2), 0.0, 0.0, 0.0, -math.inf])
    one, many = KINETICS.ranked("classes", logits), CHARADES.ranked("classes", logits)
    # Equal ones stay in order.
    assert [name for name, _ in one] == [name for name, _ in many] == list("cabdefg")
    assert [probability for _, probability in one] == pytest.approx([2 / 7, *[1 / 7] * 5, 0])
    assert [probability for _, probability in many] == pytest.approx([2 / 3, *[1 / 2] * 5, 0])


@pytest.mark.parametrize("counts", [{"classes": 5}, {"verb": 5}, {"verb": 2, "noun": 3}])
def test_a_models_output_has_the_heads_it_was_made_with(counts: dict[str, int]) -> None:
    config = ModelConfig.named(
        "vivit-ti-16x2-fe",
        **head_fields(counts),
        **{"num_frames": 4, "image_size": 32, "hidden_size": 16, "num_heads": 2, "num_layers": 1, "temporal_layers": 1},
    )
    logits = by_head(ViViT(config)(torch.zeros(2, 4, 3, 32, 32)))
    assert {head: tuple(values.shape) for head, values in logits.items()} == {
        head: (2, count) for head, count in counts.items()
    }
    assert all(isinstance(values, Tensor) for values in logits.values())


def test_class_names_come_as_lists() -> None:
    assert as_classes(["a", "b"]) == {"classes": ("a", "b")}
    assert as_classes({"verb": ["a"], "noun": ["b", "c"]}) == {"verb": ("a",), "noun": ("b", "c")}
    for wrong in ("abc", {"verb": "abc"}, [1, 2], {"verb": [None]}):
        with pytest.raises(ValueError, match="give a list of names"):
            as_classes(wrong)  # type: ignore[arg-type]


def test_a_head_has_at_least_one_class() -> None:
    with pytest.raises(ValueError, match="at least one name"):
        as_classes([])
