"""Calibrates, writes, scores and describes a trained model, as the package ships it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vivit.experiments.camera_model.examples import draw_example
from vivit.experiments.camera_motion import CLASSES
from vivit.experiments.footage import open_scenery
from vivit.files import as_json, as_text, as_weights, make_folder, write_files
from vivit.inference.predictor import Predictor
from vivit.model.vivit import ViViT
from vivit.video.source import VideoError
from vivit.weights.card import CARD_FILE
from vivit.weights.shipped import ANSWERS_FILE, Answers
from vivit.weights.source import CONFIG_FILE, WEIGHTS_FILE
from vivit.weights.store import config_content

SURE = 0.9  # answers with a higher probability are counted separately
UNSURE = 0.6  # below this probability, the model is unsure


@torch.no_grad()
def calibrate(model: ViViT, pictures: Path | None, videos: Path | None, clips: int = 900) -> float:
    """Scale the head so that its probabilities are calibrated, on pictures held out from training.

    Returns:
        The temperature that the logits were divided by.
    """
    scenery = open_scenery(pictures, videos, "test")
    rng = np.random.default_rng(1)
    examples = [draw_example(scenery, rng, 0) for _ in range(clips)]
    labels = torch.stack([example.label for example in examples])
    logits = torch.cat([model(torch.stack([e.clip for e in examples[i : i + 50]])) for i in range(0, clips, 50)])

    def surprise(temperature: float) -> float:
        return -(labels * (logits / temperature).log_softmax(dim=-1)).sum().item()

    best = min(np.geomspace(0.3, 5, 113).tolist(), key=surprise)
    for parameter in model.heads.parameters():
        parameter.div_(best)
    return best


def write_model(model: ViViT, folder: Path) -> None:
    """Write the model's weights and config.json; matrices are stored in 16 bits and become float32 when read."""
    weights = {name: value.half() if value.ndim > 1 else value for name, value in model.state_dict().items()}
    make_folder(folder)
    write_files({folder / WEIGHTS_FILE: as_weights(weights), folder / CONFIG_FILE: config_content(model)})


@dataclass(frozen=True)
class CameraScore:
    """How often a model labels footage correctly."""

    counts: dict[str, tuple[int, int]]
    """class → the number of its clips, and how many of them are labelled correctly."""
    sure: tuple[int, int]
    """The number of answers with a probability above SURE, and how many of them are correct."""
    unsure: tuple[int, int]
    """The number of answers with a probability below UNSURE, and how many of them are correct."""

    @property
    def clips(self) -> int:
        return sum(count for count, _ in self.counts.values())

    @property
    def accuracy(self) -> float:
        return sum(right for _, right in self.counts.values()) / self.clips


def score_camera_model(model: str | Path, folder: Path) -> CameraScore:
    """Name the camera's motion in the clips that `make_footage` wrote to a folder, as `vivit predict` does.

    Raises:
        UserError: the model cannot be loaded.
        VideoError: a clip cannot be read.
    """
    predictor = Predictor(model, "cpu")
    counts, sure, unsure = dict.fromkeys(CLASSES, (0, 0)), (0, 0), (0, 0)
    for answer in predictor.predict_all(sorted(folder.glob("*/*.mp4"))):
        if isinstance(answer, VideoError):
            raise answer
        best, truth = answer.labels[0], Path(str(answer.video)).parent.name
        right = int(best.label == truth)
        counts[truth] = counts[truth][0] + 1, counts[truth][1] + right
        if best.score > SURE:
            sure = sure[0] + 1, sure[1] + right
        elif best.score < UNSURE:
            unsure = unsure[0] + 1, unsure[1] + right
    return CameraScore(counts, sure, unsure)


def describe_model(folder: Path, score: CameraScore, steps: int) -> None:
    """Write the model's card, and answers.json, which `vivit predict` shows."""
    about = (
        f"names one of {len(CLASSES)} motions of the camera; right in {score.accuracy:.0%} of {score.clips} clips of "
        "scenes it never saw"
    )
    answers = Answers(about=about, unsure_below=UNSURE)
    (sure, sure_right), (unsure, unsure_right) = score.sure, score.unsure
    card = CARD.format(
        classes=", ".join(f"`{name}`" for name in CLASSES),
        steps=steps,
        accuracy=score.accuracy,
        clips=score.clips,
        sure=sure,
        sure_right=sure_right,
        unsure=unsure,
        unsure_right=unsure_right,
        limit=UNSURE,
        rows="\n".join(f"| {name} | {right} of {count} |" for name, (count, right) in score.counts.items()),
    )
    write_files({folder / ANSWERS_FILE: as_json(answers.model_dump()), folder / CARD_FILE: as_text(card)})


CARD = """---
library_name: vivit
pipeline_tag: video-classification
license: apache-2.0
tags:
- vivit
- video-classification
- camera-motion
---

# camera-motion

Names how the camera moves in a shot: {classes}. A class is named after what the camera does: in `pan_right` the scene
moves to the left. This is the model that `vivit predict` uses without `--model`.

```sh
vivit predict clip.mp4
```

A ViViT with a factorised encoder (2.0 M parameters): 16 frames of 64 × 64 pixels, every third of 30 frames a
second, so 1.5 seconds. A video with another frame rate is seen at 30. The middle of a longer video is looked at;
`--views 4x1` looks at four places.

## How well

On {clips} clips of 320 × 240 and 2 seconds, made from photographs and videos that training never saw, by a virtual
camera with a shaking hand: pans and tilts of 0.2 to 0.8 picture heights a second, zooms of 20 to 60 % a second, rolls
of 10 to 40° a second, with people and things that move.

| clips | right |
|---|---|
{rows}
| all | {accuracy:.1%} |

It gives {sure} of these answers a probability above 90 %, and {sure_right} of them are right. It gives {unsure} less
than {limit:.0%}: `vivit predict` notes "not sure" at them, and {unsure_right} are right.

`vivit experiment camera-motion --score camera-motion` prints these numbers for pictures and videos of yours.

## How it was trained

`vivit experiment camera-motion`, {steps:,} steps on two CPU cores. Free photographs and real videos are filmed by a
virtual camera while they play, with cut-outs that move in front, changing light, noise and compression. Besides the
nine labels, the tokens learn the motion of the scene in every patch, which the virtual camera knows; these heads are
left out of the model. Its probabilities were fitted on pictures held out.

## When it fails

- A scene without detail, such as a plain wall or the sky, shows no motion.
- Something that fills most of the picture and moves is taken for the scene.
- Two motions at once get the label of the stronger one, with less certainty.
- A cut within the 1.5 seconds, motions slower than a fifth of the picture's height in 2 seconds, and videos with fewer
  than 15 frames a second are unlike what it learnt.
- A camera that travels (a dolly or a drone) is not among the classes: forwards looks like a zoom, sideways like a pan.

## Licence

Apache-2.0, as the package.
"""
