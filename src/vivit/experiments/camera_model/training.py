"""Trains the camera-motion model that the package ships: a small ViViT, on scenes that are filmed while it learns.

At everyday speeds, zooms and rolls move an average point of a small picture by less than a pixel from frame to frame.
From the nine labels alone, that takes very long to learn. But the motion of a virtual camera is known, so linear heads
on the tokens learn the scene's motion in every patch, and others the camera's own motion. They are finally removed. The
first layers start as filters for moving stripes and their rectified outputs, in which motion is nearly linear.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from vivit.errors import UserError
from vivit.experiments.camera_model.examples import draw_example, turn_at_random
from vivit.experiments.camera_model.shape import ARCHITECTURE, FRAMES, PREPROCESSING, SIDE, TIMES
from vivit.experiments.camera_model.teacher import PHASES, Phase, Teacher, start_as_motion_filters
from vivit.experiments.camera_motion import CLASSES
from vivit.experiments.footage import Scene, Scenery, open_scenery
from vivit.experiments.pictures import draw_texture
from vivit.files import make_folder
from vivit.labels import ONLY_HEAD
from vivit.model.vivit import ViViT

TEXTURES = 150

POOL = 12_000  # clips held for training, 2.4 GB
FIRST_CLIPS = 400
EACH_SEEN = 8  # times, mirrored and reversed at random
BATCH = 24
SAVE_EVERY = 100  # steps


class _Filming(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    """Endless clips, in the phase of the step at which their loader starts."""

    def __init__(self, scenery: Scenery, seed: int, jumbled: float) -> None:
        self._scenery, self._seed, self._jumbled = scenery, seed, jumbled

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        torch.set_num_threads(1)
        rng = np.random.default_rng(self._seed)
        while True:
            example = draw_example(self._scenery, rng, self._jumbled)
            yield example.clip, example.motion, example.label


class _Pool:
    """The latest clips; each is seen several times."""

    def __init__(self) -> None:
        self._clips = torch.empty(POOL, FRAMES, 3, SIDE, SIDE, dtype=torch.uint8)
        self._motions, self._labels = torch.empty(POOL, TIMES, 4), torch.empty(POOL, len(CLASSES))
        self._added = 0

    def add(self, clips: Tensor, motions: Tensor, labels: Tensor) -> None:
        places = torch.arange(self._added, self._added + len(clips)) % POOL
        self._clips[places], self._motions[places], self._labels[places] = clips, motions, labels
        self._added += len(clips)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        chosen = torch.randint(0, min(self._added, POOL), (count,), generator=generator)
        return turn_at_random(self._clips[chosen], self._motions[chosen], self._labels[chosen], generator)


def train_camera_model(
    out: Path,
    pictures: Path | None,
    videos: Path | None,
    *,
    steps: int,
    progress: Callable[[int, str], object] = lambda step, state: None,
) -> ViViT:
    """Train the model, or resume where an earlier call stopped.

    Args:
        out: the folder of the checkpoint.
        pictures, videos: as in `open_scenery`.
        progress: called with the number of finished steps and the mean losses since the last call.

    Raises:
        UserError: `out` holds a run of another length, or there is nothing to film.
    """
    torch.manual_seed(0)
    model = ViViT(
        ARCHITECTURE,
        classes={ONLY_HEAD: CLASSES},
        preprocessing=PREPROCESSING,
        origin=("vivit experiment camera-motion",),
    )
    start_as_motion_filters(model, np.random.default_rng(0))
    teacher = Teacher(model)
    decayed = [weight for name, weight in teacher.named_parameters() if weight.ndim > 1 and "position" not in name]
    others = [weight for name, weight in teacher.named_parameters() if weight.ndim <= 1 or "position" in name]
    groups = [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    make_folder(out)
    checkpoint = out / "checkpoint.pt"
    step = 0
    if checkpoint.exists():
        found = torch.load(checkpoint, weights_only=True)
        if found["steps"] != steps:
            raise UserError(f"{out}: holds a training of {found['steps']} steps, not {steps}; name another folder")
        teacher.load_state_dict(found["teacher"])
        optimiser.load_state_dict(found["optimiser"])
        step = found["step"]
    if step >= steps:
        return model.eval()

    scenery = open_scenery(pictures, videos, "train")
    rng = np.random.default_rng(0)
    drawn = [Scene.of(torch.from_numpy(draw_texture(rng)).permute(2, 0, 1)[None].contiguous()) for _ in range(TEXTURES)]
    scenery = Scenery([*scenery.photographs, *drawn], scenery.videos, scenery.cut_outs)
    pool, generator = _Pool(), torch.Generator().manual_seed(step)
    totals: dict[str, float] = {}
    since = 0
    for phase, last_step in _phases_from(step, steps):
        loader = DataLoader(
            _Filming(scenery, step, phase.jumbled), BATCH // EACH_SEEN, num_workers=1, prefetch_factor=40
        )
        filmed = iter(loader)
        for _ in range(FIRST_CLIPS * EACH_SEEN // BATCH):
            pool.add(*next(filmed))
        teacher.train()
        while step < last_step:
            pool.add(*next(filmed))
            for group in optimiser.param_groups:
                group["lr"] = _learning_rate(step, steps)
            with torch.autocast("cpu", torch.bfloat16):
                loss, parts = teacher(*pool.draw(BATCH, generator), phase)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(teacher.parameters(), 1.0)
            optimiser.step()
            step += 1
            since += 1
            for name, part in parts.items():
                totals[name] = totals.get(name, 0.0) + part.item()
            if step % SAVE_EVERY == 0 or step == steps:
                progress(step, ", ".join(f"{name} {total / since:.3f}" for name, total in totals.items()))
                totals, since = {}, 0
                state = {"teacher": teacher.state_dict(), "optimiser": optimiser.state_dict()}
                unfinished = checkpoint.with_suffix(".unfinished")
                torch.save({**state, "step": step, "steps": steps}, unfinished)
                os.replace(unfinished, checkpoint)
    return model.eval()


def _phases_from(step: int, steps: int) -> Iterator[tuple[Phase, int]]:
    """The remaining phases, each with its last step."""
    for phase in PHASES:
        if step < (last := round(phase.until * steps)):
            yield phase, last


def _learning_rate(step: int, steps: int) -> float:
    """A warm-up over the first steps, then a linear fall through the phases' rates to 0."""
    ends = [0.0, *(phase.until for phase in PHASES)]
    rates = [*(phase.rate for phase in PHASES), 0.0]
    return float(np.interp(step / steps, ends, rates)) * min(1.0, (step + 1) / 200)
