"""The mean over views, against NumPy."""

import numpy as np
import pytest
import torch

from tests.support import random_weights, refused
from vivit.errors import UserError
from vivit.inference.views import Views, mean_logits, mean_over_views
from vivit.model.vivit import ViViT
from vivit.training.recipe import Recipe


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return powers / powers.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


@pytest.fixture
def views() -> np.ndarray:
    """(V, K)."""
    return 3 * np.random.default_rng(0).standard_normal((12, 7))


def test_logits_are_averaged(views: np.ndarray) -> None:
    for multi_label in (False, True):
        found = mean_over_views(torch.from_numpy(views), "logits", multi_label)
        np.testing.assert_allclose(found, views.mean(axis=0), rtol=1e-6)


def test_logits_of_averaged_probabilities_give_them_back(views: np.ndarray) -> None:
    one = mean_over_views(torch.from_numpy(views), "probabilities", multi_label=False)
    np.testing.assert_allclose(softmax(one.numpy()), softmax(views).mean(axis=0), rtol=1e-5)
    many = mean_over_views(torch.from_numpy(views), "probabilities", multi_label=True)
    np.testing.assert_allclose(sigmoid(many.numpy()), sigmoid(views).mean(axis=0), rtol=1e-5)
    # The two ways to average differ.
    assert np.abs(softmax(one.numpy()) - softmax(views.mean(axis=0))).max() > 0.01


def test_the_averages_may_put_different_classes_first() -> None:
    """One view that is almost certain outweighs six views with 60 % in logits, but not in probabilities."""
    views = torch.tensor([[0.6, 0.4]] * 6 + [[0.0001, 0.9999]]).log()
    assert mean_over_views(views, "logits", multi_label=False).argmax() == 1
    probabilities = mean_over_views(views, "probabilities", multi_label=False).exp()
    np.testing.assert_allclose(probabilities, [(6 * 0.6 + 0.0001) / 7, (6 * 0.4 + 0.9999) / 7], rtol=1e-5)
    assert probabilities.argmax() == 0


@pytest.mark.parametrize("multi_label", [False, True])
def test_probabilities_too_small_for_a_float_keep_their_order(multi_label: bool) -> None:
    views = torch.tensor([[0.0, -300.0, -900.0, 800.0], [0.0, -310.0, -901.0, 800.0]])
    found = mean_over_views(views, "probabilities", multi_label)
    assert found.isfinite().all()
    assert found.argsort(descending=True).tolist() == [3, 0, 1, 2]


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_model_decides_between_softmax_and_sigmoid(multi_label: bool, tiny_recipe: Recipe) -> None:
    torch.manual_seed(0)
    model = ViViT(tiny_recipe.build_config({"classes": 5}, multi_label)).eval()
    random_weights(model, std=0.3)
    with torch.no_grad():
        clips = torch.randint(0, 256, (5, 4, 3, 32, 32), dtype=torch.uint8)
        each = model(clips).numpy()
    found = mean_logits(model, [clips[:2], clips[2:]], "probabilities")["classes"].numpy()
    probability = sigmoid if multi_label else softmax
    for answer, views in zip(found, (each[:2], each[2:]), strict=True):
        np.testing.assert_allclose(probability(answer), probability(views).mean(axis=0), rtol=1e-4)


def test_views_are_read_from_words() -> None:
    assert Views.parse("4x3") == Views(4, 3)
    assert Views.parse("10x1", "probabilities") == Views(10, 1, "probabilities")
    for text in ("1001x1", f"{'9' * 5000}x3"):
        refused(lambda: Views.parse(text), "at most 1000 clips")  # noqa: B023
    assert (str(Views(4, 3)), Views(4, 3).count) == ("4x3", 12)


@pytest.mark.parametrize("views", ["", "4", "4x2", "0x3", "x3", "4x3x1", "-1x3", "4 x 3"])
def test_other_words_are_named(views: str) -> None:
    with pytest.raises(UserError, match="such as 4x3") as caught:
        Views.parse(views)
    assert repr(views) in str(caught.value)
