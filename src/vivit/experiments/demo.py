"""`vivit demo`: train on camera motions that are made on the spot, and write a page about it.

A factorised encoder learns them. An average-pooling baseline on uniformly sampled frames ignores the order of
the frames, so it cannot tell a motion from its opposite.
"""

from pathlib import Path

from vivit.errors import UserError
from vivit.evaluation.score import score_model
from vivit.experiments.camera_motion import generate
from vivit.inference.predictor import Predictor
from vivit.inference.views import Views
from vivit.progress import console, progress_bar
from vivit.report.demo_page import Example, Trained, write_demo
from vivit.report.run_page import write_report
from vivit.training.recipe import Recipe
from vivit.training.recipes import RECIPES
from vivit.training.train import train
from vivit.video.decode import ReadOptions

VIEWS = "4x1"
EXAMPLES = 18


def run(out: Path, videos: int, device: str, workers: int) -> None:
    """Make the videos, train and evaluate both models, predict held-out videos, and write `out`/report.html.

    Continues what an earlier call left in `out`.

    Raises:
        UserError: `videos` is less than 1, `out` holds something else, or scikit-image is not installed.
    """
    if videos < 1:
        raise UserError(f"videos: {videos} is too few; give 1 or more")
    say = console().print
    data = out / "videos"
    with progress_bar("make videos") as progress:
        generate(data, train_videos=videos, val_videos=max(videos * 3 // 20, 9), progress=progress)
    recipes = {"factorised encoder": RECIPES["demo"], "average pooling": average_pooling(RECIPES["demo"])}
    trained = []
    for name, recipe in recipes.items():
        folder = out / name.replace(" ", "_")
        say(f"\n{name}", style="bold")
        train(data, folder, recipe, device=device, workers=workers, keep_decoded=True)
        write_report(folder)
        read = ReadOptions(workers=workers)
        evaluation = score_model(data, folder, views=Views.parse(VIEWS), device=device, read=read)
        trained.append(Trained(name, folder, evaluation))

    say("\npredictions for held-out videos", style="bold")
    best = trained[0].folder
    predictor = Predictor(best, device)
    files = sorted((data / "val").glob("*/*.mp4"), key=lambda path: path.name)[:EXAMPLES]
    examples = [Example(file, file.parent.name, predictor.predict(file, VIEWS)) for file in files]
    for example in examples[:9]:
        first = example.prediction.labels[0]
        say(f"{example.video.relative_to(out)}  {first.label}  {first.score:.1%}")
    write_demo(out / "report.html", trained, examples, VIEWS)

    say("\ntop-1 on held-out videos")
    for model in trained:
        say(f"  {model.name:20s} {model.evaluation.accuracy(1):6.1%}")
    say(f"\nopen {out}/report.html; or try: vivit predict VIDEO --model {best}")


def average_pooling(recipe: Recipe) -> Recipe:
    """The same recipe for a model that averages over single frames.

    Its three epochs are enough, because it learns little: after eight, its top-1 was 13.1 %.
    """
    frames = {"embedding": "uniform_frames", "sampled_frames": 3, "temporal_layers": 0}
    return recipe.model_copy(update={"architecture": {**recipe.architecture, **frames}, "epochs": 3})
