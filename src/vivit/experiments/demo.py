"""`vivit demo`: train two models on generated camera motions, and write a page about it.

A factorised encoder learns them. An average-pooling baseline ignores the order of the frames, so it cannot tell a
motion from its opposite.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from vivit.data.datasets import LabelledVideo
from vivit.data.readers.listing import open_data
from vivit.errors import UserError
from vivit.evaluation.evaluate import Evaluation
from vivit.evaluation.score import score_model
from vivit.experiments.camera_motion import CLASSES, ORDER_BLIND, generate
from vivit.inference.views import Views
from vivit.labels import ONLY_HEAD
from vivit.progress import console, progress_bar
from vivit.report.demo_page import Comparison, Example, Trained, write_demo
from vivit.report.run_files import read_lines
from vivit.report.run_page import write_report
from vivit.training.recipe import Recipe
from vivit.training.recipes import RECIPES
from vivit.training.train import train
from vivit.video.decode import ReadOptions

VIEWS = "4x1"
MOST_WRONG = 9  # wrong answers shown
ANSWERS = 3  # classes shown for a video


def run(out: Path, videos: int, device: str, workers: int) -> None:
    """Make the videos, train and evaluate both models, and write `out`/report.html.

    Resumes what an earlier call left in `out`.

    Raises:
        UserError: `videos` is less than 1, `out` holds something else, or scikit-image is not installed.
    """
    if videos < 1:
        raise UserError(f"videos: {videos} is too few; give 1 or more")
    say = console().print

    def begin(title: str) -> None:
        say()
        say(title, style="bold")

    data = out / "videos"
    with progress_bar("make videos") as progress:
        generate(data, train_videos=videos, val_videos=max(videos * 3 // 20, 9), progress=progress)
    recipes = {"factorised encoder": RECIPES["demo"], "average pooling": average_pooling(RECIPES["demo"])}
    trained = []
    for name, recipe in recipes.items():
        folder = out / name.replace(" ", "_")
        begin(name)
        # The last weights, so that both models are trained for the same number of steps.
        train(data, folder, recipe, device=device, workers=workers, keep_decoded=True, keep="last")
        write_report(folder)
        read = ReadOptions(workers=workers)
        evaluation = score_model(data, folder, views=Views.parse(VIEWS), device=device, read=read)
        trained.append(Trained(name, folder, evaluation))

    best = trained[0]
    held_out = open_data(data).split("val", best.evaluation.space).videos
    examples = choose_examples(best.evaluation, held_out)
    begin(f"held-out videos, labelled by the {best.name}")
    for example in examples:
        label, score = example.answers[0]
        truth = "right" if example.right else f"wrong, the camera did {example.label}"
        say(f"{example.video.relative_to(out)}  {label} {score:.1%}  {truth}")
    steps = read_lines(best.folder / "metrics.jsonl")[-1]["step"]
    compared = Comparison(steps, VIEWS, chance=1 / len(CLASSES), order_blind=ORDER_BLIND)
    commands = list(next_commands(best.folder, examples[0].video))
    write_demo(out / "report.html", trained, compared, examples, commands)

    begin(f"top-1 on held-out videos, after {steps} steps each")
    for model in trained:
        say(f"  {model.name:20s} {model.evaluation.accuracy(1):6.1%}")
    say(f"  without the order of the frames {ORDER_BLIND:.1%} at best; by guessing {compared.chance:.1%}")
    say(f"all of it, with the videos: {out}/report.html")
    begin("now your own videos, those of each class in a folder of its own, such as my_videos/wave/1.mp4")
    for command in commands:
        say(f"  {command}")


def average_pooling(recipe: Recipe) -> Recipe:
    """The same recipe for a model that averages over single frames: three, from the same span of each video."""
    assert recipe.num_frames is not None and recipe.frame_stride is not None
    span = (recipe.num_frames - 1) * recipe.frame_stride
    _, *patch = recipe.architecture["tubelet_size"]
    architecture = {**recipe.architecture, "tubelet_size": (1, *patch), "temporal_layers": 0}
    return recipe.model_copy(update={"architecture": architecture, "num_frames": 3, "frame_stride": span // 2})


def choose_examples(evaluation: Evaluation, videos: Sequence[LabelledVideo]) -> list[Example]:
    """The first right answer of each class, then the most confident wrong ones.

    Args:
        videos: those of the evaluation, in its order.
    """
    space, logits, truth = evaluation.space, evaluation.logits[ONLY_HEAD], evaluation.truth[ONLY_HEAD]
    names = space.classes[ONLY_HEAD]
    right: dict[str, Example] = {}
    wrong = []
    for index in evaluation.readable.nonzero().flatten().tolist():
        label = names[int(truth[index])]
        video = Path(str(videos[index].source))
        example = Example(video, label, list(space.ranked(ONLY_HEAD, logits[index]))[:ANSWERS])
        if example.right:
            right.setdefault(label, example)
        else:
            wrong.append(example)
    wrong.sort(key=lambda example: -example.answers[0][1])
    return [*right.values(), *wrong[:MOST_WRONG]]


def next_commands(model: Path, video: Path) -> Iterator[str]:
    """Commands to run next, quoted for the shell."""
    vivit = "vivit" if shutil.which("vivit") else os.path.relpath(sys.argv[0])
    yield f"{vivit} predict {video} --model {model}"
    yield f"{vivit} data check my_videos"
    yield f"{vivit} train my_videos --out run --init google/vit-base-patch16-224-in21k --freeze-spatial"
    yield f"{vivit} predict clip.mp4 --model run"
