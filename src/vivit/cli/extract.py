"""`vivit extract`"""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.errors import complain
from vivit.cli.options import CLIPS, INPUT, OUTPUT, Decoder, Device, Precision, Step, WeightsModel, check_step
from vivit.cli.predict import CAMERA_MOTION, SEVERAL, say_model, stopping
from vivit.text import counted, printable

app = verb(
    "extract",
    "vivit extract match.mp4 --model run --out match.npy",
    "vivit extract my_videos --model run --what pooled --out features.parquet",
    "vivit extract 'clips/**/*.mp4' --model run --what temporal --out features",
)


@app.default
def extract(
    *videos: Annotated[str, Parameter(group=INPUT, required=True)],
    model: WeightsModel = CAMERA_MOTION,
    what: Annotated[
        Literal["head", "token", "pooled", "temporal", "tokens"], Parameter(group=CLIPS, metavar="NAME")
    ] = "head",
    step: Annotated[Step, Parameter(group=CLIPS)] = None,
    out: Annotated[Path, Parameter(group=OUTPUT, metavar="FILE|FOLDER")],
    device: Device = "auto",
    precision: Precision = "auto",
    decoder: Decoder = "pyav",
) -> int:
    """Write features of videos to a file.

    Each window of a video gives a row, with its times. A window is a clip as in vivit predict; one starts every few
    frames, as in vivit timeline. After an interruption, the same command resumes after the last finished video and
    writes the same file. docs/features.md defines the features, and shows how to read each kind of file.

    Args:
        videos: Files, folders, quoted patterns such as 'clips/**/*.mp4', - for a list on stdin, @FILE for a list in a
            file.
        what: Which output of the last encoder to write, after its LayerNorm: head is the input of the heads, token the
            class token, pooled the mean of the other tokens, temporal their mean at each temporal index, and tokens all
            tokens.
        out: A new file, whose ending sets the format: .safetensors, .parquet or .npy (with a .csv of the times). Or a
            folder, for one .safetensors file per video.
    """
    check_step(step)
    from vivit.inference.extract import FeatureStore
    from vivit.inference.extract import extract as windows_of
    from vivit.inference.inputs import find_inputs
    from vivit.inference.predictor import Predictor
    from vivit.inference.timeline import default_step
    from vivit.inference.tokens import check_what
    from vivit.progress import console, progress_bar
    from vivit.video.source import VideoError

    FeatureStore(out, {})  # report mistakes before loading the model
    inputs = list(find_inputs(videos, sys.stdin.buffer, False, complain))
    predictor = Predictor(model, device, precision=precision)
    check_what(predictor.model, what)
    say_model(model, predictor)
    step = step or default_step(predictor.model)
    depends_on = {"model": predictor.fingerprint(), "precision": predictor.precision.precision}
    store = FeatureStore(out, {**depends_on, "what": what, "step": str(step)})
    done: list[Path] = []
    screen, unreadable = console(stderr=True), 0

    def how_far() -> str:
        return f"stopped after {len(done)} of {counted(len(inputs), 'video')}; the same command continues from there"

    with stopping(how_far), progress_bar("extract", len(inputs), len(inputs) > SEVERAL, screen) as progress:
        for number, video in enumerate(inputs):
            progress(number)
            try:
                if isinstance(video, VideoError):
                    raise video
                path = Path(str(video))
                if not store.has(path):
                    store.add(path, windows_of(predictor, path, what, step, decoder))
                done.append(path)
            except VideoError as error:
                complain(str(error))
                unreadable += 1
        if done:
            count = store.finish(done)
            print(f"{counted(count, 'window')} of {counted(len(done), 'video')} in {printable(out)}", file=sys.stderr)
    return 2 if unreadable else 0
