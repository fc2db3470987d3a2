"""`vivit predict`"""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.errors import complain
from vivit.cli.options import INPUT, OUTPUT, Decoder, Device, Model, Timeout, Views
from vivit.errors import UserError

app = verb(
    "predict",
    "vivit predict clip.mp4 --model run",
    "vivit predict *.mp4 --model google/vivit-b-16x2-kinetics400 --views 4x3",
    "vivit predict *.mp4 --model run --json > answers.jsonl",
)


@app.default
def predict(
    *files: Annotated[Path, Parameter(group=INPUT, required=True)],
    model: Model,
    views: Views = "1x1",
    top: Annotated[int, Parameter(group=OUTPUT, metavar="N")] = 5,
    json_lines: Annotated[bool, Parameter(name="--json", group=OUTPUT, negative="")] = False,
    device: Device = "auto",
    decoder: Decoder = "pyav",
    timeout: Timeout = None,
) -> int:
    """Label videos.

    A file that cannot be read is reported on stderr; the others are still labelled, and the exit status is 2.

    Args:
        files: Videos, or folders of numbered frames.
        top: Labels to show for each video.
        json_lines: Print one JSON object per line, for each video.
    """
    if top < 1:
        raise UserError(f"top: {top} labels cannot be shown; give 1 or more")
    from vivit.inference.predictor import Predictor
    from vivit.inference.views import Views as Parsed
    from vivit.labels import ONLY_HEAD
    from vivit.video.decode import ReadOptions
    from vivit.video.source import VideoError

    Parsed.parse(views)  # report a mistake before the model is loaded
    predictor = Predictor(model, device, ReadOptions(decoder, timeout))
    status = 0
    for file in files:
        try:
            prediction = predictor.predict(file, views)
        except VideoError as error:
            status = complain(str(error))
            continue
        if json_lines:
            print(json.dumps(prediction.to_json(top), ensure_ascii=False), flush=True)
            continue
        print(file)
        for head, labels in prediction.heads.items():
            for scored in labels[:top]:
                part = "" if head == ONLY_HEAD else f"  {head:10s}"
                print(f"{part}  {scored.score:6.1%}  {scored.label}", flush=True)
    return status
