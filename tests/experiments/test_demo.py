"""The demo's baseline knows no order, and its examples are the right ones."""

from pathlib import Path

import torch

from tests.support import random_weights
from vivit.data.datasets import LabelledVideo
from vivit.evaluation.evaluate import Evaluation
from vivit.experiments.camera_motion import CLASSES, ORDER_BLIND
from vivit.experiments.demo import MOST_WRONG, average_pooling, choose_examples
from vivit.labels import LabelSpace
from vivit.model.vivit import ViViT
from vivit.training.recipe import Recipe
from vivit.training.recipes import RECIPES


def model_of(recipe: Recipe) -> ViViT:
    return random_weights(ViViT(recipe.build_config({"classes": len(CLASSES)}, False))).eval()


def test_only_the_baseline_answers_a_reversed_clip_like_the_clip() -> None:
    demo = RECIPES["demo"]
    baseline = average_pooling(demo)
    assert (baseline.epochs, baseline.batch_size) == (demo.epochs, demo.batch_size)
    spans = [(recipe.num_frames - 1) * recipe.frame_stride for recipe in (demo, baseline)]  # type: ignore[operator]
    assert spans[0] == spans[1]
    for recipe, same in ((demo, False), (baseline, True)):
        model = model_of(recipe)
        clips = torch.rand(2, model.config.num_frames, 3, *model.config.image_size) * 2 - 1
        with torch.no_grad():
            forwards, backwards = model(clips), model(clips.flip(1))
        assert torch.allclose(forwards, backwards, atol=1e-4) == same


def test_guessing_the_direction_of_the_right_motion_is_right_in_five_of_nine() -> None:
    opposites = [
        ("pan_left", "pan_right"),
        ("roll_clockwise", "roll_counterclockwise"),
        ("tilt_down", "tilt_up"),
        ("zoom_in", "zoom_out"),
    ]
    assert sorted([*(name for pair in opposites for name in pair), "static"]) == sorted(CLASSES)
    assert (1 + len(opposites)) / 9 == ORDER_BLIND


def test_examples_are_a_right_answer_of_each_class_and_the_most_confident_wrong_ones() -> None:
    space = LabelSpace({"classes": ("a", "b", "c")})
    truth = torch.tensor([0, 0, 1, *[2] * 20, 1])
    logits = torch.zeros(len(truth), 3)
    logits[:2, 0] = 3  # right; the second of a class is not shown
    logits[2, 1] = 2  # right
    logits[3:23, 1] = torch.arange(1.0, 21) / 4  # wrong, the last the most confident
    logits[23] = torch.nan  # unreadable
    videos = [LabelledVideo(Path(f"{i}.mp4"), {}) for i in range(len(truth))]
    examples = choose_examples(Evaluation(space, {"classes": logits}, {"classes": truth}, {23: "broken"}), videos)
    shown = [(int(example.video.stem), example.label, example.answers[0][0], example.right) for example in examples]
    assert shown[:2] == [(0, "a", "a", True), (2, "b", "b", True)]
    assert shown[2:] == [(22 - i, "c", "b", False) for i in range(MOST_WRONG)]
