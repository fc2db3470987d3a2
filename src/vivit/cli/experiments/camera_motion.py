"""`vivit experiment camera-motion`"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.options import INPUT, OUTPUT

app = verb(
    "camera-motion",
    "vivit experiment camera-motion --pictures photos --videos clips --out camera",
    "vivit experiment camera-motion --score run --pictures photos --out scored",
)


@app.default
def camera_motion(
    *,
    pictures: Annotated[Path | None, Parameter(group=INPUT, metavar="FOLDER")] = None,
    videos: Annotated[Path | None, Parameter(group=INPUT, metavar="FOLDER")] = None,
    test_videos: Annotated[Path | None, Parameter(group=INPUT, metavar="FOLDER")] = None,
    score: Annotated[str | None, Parameter(group=INPUT, metavar="MODEL")] = None,
    steps: Annotated[int, Parameter(metavar="N")] = 6000,
    clips: Annotated[int, Parameter(metavar="N")] = 270,
    seed: Annotated[int, Parameter(metavar="N")] = 0,
    out: Annotated[Path, Parameter(group=OUTPUT, metavar="FOLDER")],
) -> None:
    """Train and score the camera-motion model that vivit predict uses without --model.

    The model learns from pictures and playing videos, filmed by a virtual camera, and is scored on 2-second clips of
    held-out pictures. The same command resumes interrupted training.

    Args:
        pictures: Folder of photographs, and cut-outs (PNG with transparency) that move in front of them, at any depth;
            by default scikit-image's photographs.
        videos: Videos to film in training, where their own camera stands still.
        test_videos: Videos to film for scoring.
        score: Score this model instead of training one.
        steps: Training steps; one core takes 1 or 2 a second.
        clips: Clips to score on.
        seed: Seed of the clips to score on.
        out: Folder for the model, checkpoint and clips.
    """
    from vivit.experiments.camera_model.shipping import (
        SURE,
        UNSURE,
        calibrate,
        describe_model,
        score_camera_model,
        write_model,
    )
    from vivit.experiments.camera_model.training import train_camera_model
    from vivit.experiments.footage import make_footage
    from vivit.experiments.record import write_record
    from vivit.progress import console, progress_bar

    say = console().print
    if score is None:
        model = train_camera_model(
            out / "training", pictures, videos, steps=steps, progress=lambda step, state: say(f"step {step}: {state}")
        )
        say(f"temperature {calibrate(model, pictures, test_videos):.2f}")
        write_model(model, out / "model")
    footage = out / "footage"
    with progress_bar("make clips") as progress:
        make_footage(footage, pictures=pictures, videos=test_videos, count=clips, seed=seed, progress=progress)
    found = score_camera_model(score or out / "model", footage)
    for name, (count, right) in found.counts.items():
        say(f"  {name:22} {right:3} of {count:3}")
    if score is None:
        describe_model(out / "model", found, steps)
    (sure, sure_right), (unsure, unsure_right) = found.sure, found.unsure
    say(f"top-1 {found.accuracy:.1%} of {found.clips} clips")
    say(f"above {SURE:.0%} in {sure} answers, {sure_right} of them right")
    say(f"below {UNSURE:.0%} in {unsure} answers, {unsure_right} of them right")
    write_record(out / "scores.json", {"accuracy": found.accuracy, **asdict(found)}, seed=seed)
