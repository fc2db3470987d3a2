"""Train the camera-motion model that the package ships: a small ViViT, on scenes that are filmed while it learns.

Zooms and rolls at everyday speeds move an average point of a small picture by less than a pixel from frame to frame.
From the nine labels alone, that takes very long to learn. But a virtual camera knows how it moves: so linear heads on
the tokens learn the motion of the scene in every patch, and others the camera's own motion. They are left out of the
model in the end. The first layers start as filters for moving stripes and their rectified outputs, from which motion
is nearly linear.
"""

import io
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from vivit.config import ModelConfig, Preprocessing
from vivit.errors import UserError
from vivit.experiments.camera_motion import CLASSES, DIRECTIONS
from vivit.experiments.film import Window
from vivit.experiments.footage import (
    QUICKEST,
    SLOWEST,
    Scene,
    Scenery,
    camera_path,
    fine_times,
    open_scenery,
    over_frames,
    pass_by,
    shoot,
    waves,
)
from vivit.experiments.pictures import draw_texture
from vivit.files import as_json, as_text, as_weights, make_folder, write_files
from vivit.inference.predictor import Predictor
from vivit.labels import ONLY_HEAD
from vivit.model.encoder import MLP
from vivit.model.vivit import FactorisedEncoder, ViViT
from vivit.video.source import VideoError
from vivit.weights.card import CARD_FILE
from vivit.weights.shipped import ANSWERS_FILE, Answers
from vivit.weights.source import CONFIG_FILE, WEIGHTS_FILE
from vivit.weights.store import config_content

SIDE, FRAMES, STRIDE, TUBELET, PATCH = 64, 16, 3, 4, 8
TIMES, PLACES = FRAMES // TUBELET, SIDE // PATCH
ARCHITECTURE = ModelConfig(
    variant="factorised_encoder",
    num_frames=FRAMES,
    image_size=(SIDE, SIDE),
    tubelet_size=(TUBELET, PATCH, PATCH),
    hidden_size=160,
    num_layers=4,
    num_heads=5,
    mlp_dim=640,
    temporal_layers=2,
    num_classes=len(CLASSES),
)
PREPROCESSING = Preprocessing(frame_stride=STRIDE, resize=SIDE, short_clips="pad")

OVERSAMPLED = 2  # scenes are filmed at so many times the model's resolution, then averaged
FRAME_RATES = (24, 25, 30, 30, 30, 30, 30, 50, 60)
TEXTURES = 150

POOL = 12_000  # clips that wait to be seen, 2.4 GB
FIRST_CLIPS = 400
EACH_SEEN = 8  # times, mirrored and reversed at random
BATCH = 24
KEPT = 0.35  # of the tokens, until the last part of training
STILL_PIXEL = 0.3 / SIDE  # motions are learnt on a scale that is linear below this, and logarithmic above
SAVE_EVERY = 100  # steps
SURE = 0.9  # a probability above which answers are counted on their own
UNSURE = 0.6  # one below which the model is not sure


@dataclass(frozen=True)
class Phase:
    """A part of training."""

    until: float
    """The share of all steps at which it ends."""
    jumbled: float
    """The share of clips in which the camera moves anew in every tubelet; they have no label."""
    label_weight: float
    motion_weight: float
    kept: float
    """The share of the tokens of each tubelet that the model sees."""
    rate: float
    """The learning rate at its beginning; it falls evenly to that of the next phase, and to 0."""


PHASES = (
    Phase(until=0.3, jumbled=0.7, label_weight=0.3, motion_weight=3, kept=KEPT, rate=1e-3),
    Phase(until=0.8, jumbled=0.3, label_weight=1, motion_weight=2, kept=KEPT, rate=5e-4),
    Phase(until=1.0, jumbled=0.1, label_weight=1, motion_weight=1, kept=1, rate=2.5e-4),
)


@dataclass(frozen=True)
class Example:
    clip: Tensor
    """(FRAMES, 3, SIDE, SIDE) uint8."""
    motion: Tensor
    """(TIMES, 4): how the camera moves from frame to frame within each tubelet, as the camera sees it."""
    label: Tensor
    """(classes,): probabilities, or zeros where there is no label."""


def draw_example(scenery: Scenery, rng: np.random.Generator, jumbled: float) -> Example:
    """Film a random clip for training."""
    step = STRIDE / rng.choice(FRAME_RATES) if rng.random() > 0.08 else rng.uniform(0.1, 0.2)
    times = np.arange(FRAMES) * step
    label, path = _jumbled_path(rng, times) if rng.random() < jumbled else _labelled_path(rng, times)
    side = SIDE * OVERSAMPLED
    window = Window.along(path, side, side)
    clip = shoot(scenery.draw(rng, 0.33), window, times, rng)
    if rng.random() < 0.5:
        clip = clip[:, torch.from_numpy(rng.permutation(3))]
    if rng.random() < 0.5:
        pass_by(clip, window, times, scenery, rng)
    clip = _recorded(F.avg_pool2d(clip, OVERSAMPLED), times, rng)
    return Example(clip, torch.from_numpy(_motion_in_tubelets(path)), torch.from_numpy(label))


def _labelled_path(rng: np.random.Generator, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A motion of one class, at everyday speeds and somewhat beyond; a few are mixed or slow, with a label in doubt."""
    fine = fine_times(times)
    slowest, quickest = 0.85 * SLOWEST, 1.2 * QUICKEST
    speed = slowest * (quickest / slowest) ** rng.random()
    number = int(rng.integers(len(CLASSES)))
    static = CLASSES.index("static")
    label = np.zeros(len(CLASSES), np.float32)
    label[number] = 1
    direction = np.array(DIRECTIONS[CLASSES[number]], float)
    rates = direction * speed
    kind, other = rng.random(), int(rng.integers(len(CLASSES)))
    if number == static:
        drift = np.array([0.05, 0.05, 0.04, np.radians(2)])
        rates = rng.uniform(-1, 1, 4) * drift * rng.random() * (rng.random() < 0.5)
    elif kind < 0.06 and other not in (number, static) and not direction @ DIRECTIONS[CLASSES[other]]:
        share = rng.uniform(0.25, 0.75)
        rates = 1.3 * speed * ((1 - share) * direction + share * np.array(DIRECTIONS[CLASSES[other]]))
        label[number] = 1 / (1 + math.exp(4 * (2 * share - 1)))
        label[other] = 1 - label[number]
    elif kind < 0.1:
        share = rng.uniform(0.15, 0.8)
        rates = direction * slowest * share
        label[number] = 1 / (1 + math.exp(9 * (0.42 - share)))
        label[static] = 1 - label[number]
    elif rng.random() < 0.4:
        rates = rates + rng.uniform(-0.22, 0.22, 4) * speed * (direction == 0) * rng.random()
    return label, camera_path(rates * _pace(rng, fine)[:, None], _shake(rng, fine), times)


def _pace(rng: np.random.Generator, fine: np.ndarray) -> np.ndarray:
    """Factors of the speed over time: most cameras do not move evenly, some start or stop."""
    chance = rng.random()
    if chance < 0.5:
        return 1 + rng.uniform(0, 0.6) * waves(rng, fine, 0.2, 1.2)
    if chance < 0.6:
        ramp = (fine / fine[-1] / rng.uniform(0.15, 0.4)).clip(0, 1) * rng.uniform(1, 1.3)
        return ramp if rng.random() < 0.5 else ramp[::-1]
    return np.ones_like(fine)


def _shake(rng: np.random.Generator, fine: np.ndarray) -> np.ndarray:
    """(N, 4): a hand that sways, and now and then trembles."""
    sway = np.array([0.02, 0.02, 0.008, np.radians(1)]) * rng.random() ** 1.5
    shake = sway * np.stack([waves(rng, fine, 0.4, rng.uniform(1, 7)) for _ in range(4)], axis=1)
    if rng.random() < 0.3:
        tremble = np.array([0.003, 0.003, 0.001, np.radians(0.15)]) * rng.random()
        shake += tremble * rng.standard_normal(shake.shape)
    return shake


def _jumbled_path(rng: np.random.Generator, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Any motions at once, others in each tubelet: four times as much to learn about motion, but no label."""
    fine = fine_times(times)
    tubelet = ((fine / (times[1] - times[0]) + 0.5) // TUBELET).astype(int).clip(0, TIMES - 1)
    quickest = np.array([0.9, 0.9, 0.7, np.radians(50)])
    speeds = quickest * np.exp(rng.uniform(-3, 0, (TIMES, 4))) * rng.choice([-1, 1], (TIMES, 4))
    speeds *= rng.random((TIMES, 4)) < [0.45, 0.45, 0.6, 0.6]
    return np.zeros(len(CLASSES), np.float32), camera_path(speeds[tubelet], _shake(rng, fine), times)


def _motion_in_tubelets(path: np.ndarray) -> np.ndarray:
    """(TIMES, 4) float32: the mean motion from frame to frame within each tubelet, in the camera's own frame."""
    first, last = path[::TUBELET], path[TUBELET - 1 :: TUBELET]
    middle, step = (first + last) / 2, (last - first) / (TUBELET - 1)
    cosine, sine, size = np.cos(middle[:, 3]), np.sin(middle[:, 3]), np.exp(middle[:, 2])
    across = (cosine * step[:, 0] + sine * step[:, 1]) / size
    down = (cosine * step[:, 1] - sine * step[:, 0]) / size
    return np.stack([across, down, step[:, 2], step[:, 3]], axis=1).astype(np.float32)


def _recorded(clip: Tensor, times: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Record a clip as cameras and encoders do: (T, 3, H, W) in 0–255 → uint8."""
    side = clip.shape[-1]
    if rng.random() < 0.3:
        clip = clip.lerp(F.avg_pool2d(F.pad(clip, (1, 1, 1, 1), mode="replicate"), 3, 1), rng.uniform(0.3, 1))
    if rng.random() < 0.12:
        clip = clip.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    if rng.random() < 0.05:
        clip = 255 - clip
    if rng.random() < 0.15:  # a lens that is darker towards its edge
        along = (torch.arange(side) + 0.5) / side - 0.5
        clip = clip * (1 - rng.uniform(0.2, 1) * (along**2 + along[:, None] ** 2))
    light = rng.uniform(0.65, 1.2) * (1 + rng.uniform(0, 0.15) * (rng.random() < 0.6) * over_frames(rng, times))
    tint = torch.from_numpy(rng.uniform(0.85, 1.15, (1, 3, 1, 1))).float()
    clip = 128 + (clip * tint * light - 128) * rng.uniform(0.6, 1.25)
    if rng.random() < 0.5:
        noise = rng.standard_normal((len(clip), 1, side, side), dtype=np.float32)
        clip = clip + torch.from_numpy(noise) * rng.uniform(0, 5)
    if rng.random() < 0.05:  # black bars
        bar, axis = int(rng.integers(4, 12)), int(rng.integers(2, 4))
        clip.narrow(axis, 0, bar).zero_()
        clip.narrow(axis, side - bar, bar).zero_()
    recorded = clip.clamp(0, 255).byte()
    return _compressed(recorded, int(rng.integers(18, 34))) if rng.random() < 0.3 else recorded


def _compressed(clip: Tensor, quality: int) -> Tensor:
    """A clip after H.264 with this constant rate factor."""
    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4") as container:
        options = {"preset": "superfast", "crf": str(quality), "threads": "1"}
        stream = container.add_stream("libx264", rate=10, options=options)
        stream.height, stream.width = clip.shape[-2:]
        stream.pix_fmt = "yuv420p"
        for frame in clip.permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    memory.seek(0)
    with av.open(memory, "r") as recorded:
        frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in recorded.decode(video=0)]
    return torch.stack(frames).permute(0, 3, 1, 2).contiguous()


def _swapped(*pairs: tuple[str, str]) -> Tensor:
    """The order of the classes after these pairs of them have changed places."""
    names = list(CLASSES)
    for one, other in pairs:
        names[CLASSES.index(one)], names[CLASSES.index(other)] = other, one
    return torch.tensor([CLASSES.index(name) for name in names])


_PANS, _TILTS, _ZOOMS = ("pan_left", "pan_right"), ("tilt_up", "tilt_down"), ("zoom_in", "zoom_out")
_ROLLS = ("roll_clockwise", "roll_counterclockwise")
# What mirroring, turning and reversing a clip does to its label.
FLIPPED_ACROSS = _swapped(_PANS, _ROLLS)
FLIPPED_DOWN = _swapped(_TILTS, _ROLLS)
TRANSPOSED = _swapped(("pan_left", "tilt_up"), ("pan_right", "tilt_down"), _ROLLS)
REVERSED = _swapped(_PANS, _TILTS, _ZOOMS, _ROLLS)


def turn_at_random(
    clips: Tensor, motions: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror, transpose and reverse clips at random, with what they show. Takes and gives batches of `Example`s."""
    clips, motions, labels = clips.clone(), motions.clone(), labels.clone()

    def some(chance: float) -> Tensor:
        return torch.rand(len(clips), generator=generator) < chance

    chosen = some(0.5)
    clips[chosen] = clips[chosen].flip(-1)
    motions[chosen] *= torch.tensor([-1.0, 1, 1, -1])
    labels[chosen] = labels[chosen][:, FLIPPED_ACROSS]
    chosen = some(0.4)
    clips[chosen] = clips[chosen].flip(-2)
    motions[chosen] *= torch.tensor([1.0, -1, 1, -1])
    labels[chosen] = labels[chosen][:, FLIPPED_DOWN]
    chosen = some(0.4)
    clips[chosen] = clips[chosen].transpose(-1, -2)
    motions[chosen] = motions[chosen][..., [1, 0, 2, 3]] * torch.tensor([1.0, 1, 1, -1])
    labels[chosen] = labels[chosen][:, TRANSPOSED]
    chosen = some(0.5)
    clips[chosen] = clips[chosen].flip(1)
    motions[chosen] = -motions[chosen].flip(1)
    labels[chosen] = labels[chosen][:, REVERSED]
    return clips, motions, labels


@torch.no_grad()
def start_as_motion_filters(model: ViViT, rng: np.random.Generator) -> None:
    """Let the embedding start as pairs of stripes a quarter apart that move, and the first MLP rectify them.

    A pair answers to motion in its direction, wherever in the patch there is detail of its width. Position embeddings
    start as large as the tokens and linear in x and y: what tells a zoom is motion in proportion to the place.
    """
    weight = model.embedding.weight
    width, _, frames, height, across = weight.shape
    t, y, x = np.meshgrid(*(np.arange(length) - (length - 1) / 2 for length in (frames, height, across)), indexing="ij")
    filters = np.zeros((width, frames, height, across))
    for number in range(0, width, 2):
        cycles, angle = rng.uniform(0.25, 2.6) / PATCH, rng.uniform(0, 2 * np.pi)
        speed = np.exp(rng.uniform(np.log(0.05), np.log(5))) * (rng.random() > 0.12)
        phase = 2 * np.pi * (cycles * (np.cos(angle) * x + np.sin(angle) * y) - min(cycles * speed, 0.45) * t)
        centre = rng.uniform(-1.5, 1.5, 2)
        window = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * 2.6**2))
        for shift in (0, 1):
            stripes = window * np.cos(phase + shift * np.pi / 2)
            stripes -= stripes.mean()
            # Fine detail is fainter than coarse detail in pictures.
            filters[number + shift] = stripes / np.linalg.norm(stripes) * (cycles * PATCH) ** 0.8
    grey = torch.from_numpy(filters).float()[:, None].expand_as(weight) / 3**0.5
    weight.copy_(4.8 * (grey + 0.02 * torch.from_numpy(rng.standard_normal(weight.shape)).float()))
    x_places, y_places = _places()
    codes = 4 * torch.from_numpy(rng.standard_normal((2, width))).float()
    spatial = _encoder(model).spatial
    places = spatial.positions.embedding
    places.add_((x_places[:, None] * codes[0] + y_places[:, None] * codes[1]).view_as(places))
    first = cast(MLP, spatial.blocks[0].mlp).fc1.weight
    first[:width], first[width : 2 * width] = 2 * torch.eye(width), -2 * torch.eye(width)


def _encoder(model: ViViT) -> FactorisedEncoder:
    assert isinstance(model.encoder, FactorisedEncoder)
    return model.encoder


class Teacher(nn.Module):
    """The model, and heads that learn how the camera moves: they teach its tokens and are then left out."""

    def __init__(self, model: ViViT) -> None:
        super().__init__()
        self.model = model
        width = model.config.hidden_size
        self.places = nn.ModuleList(nn.Linear(width, 4) for _ in _encoder(model).spatial.blocks[1:])
        self.tubelets = nn.Linear(width, 4)
        self.whole = nn.Linear(width, 4)
        for layer in (*self.places, self.tubelets, self.whole):
            nn.init.zeros_(layer.weight)

    def forward(self, clips: Tensor, motions: Tensor, labels: Tensor, phase: Phase) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch of `Example`s, and its parts."""
        encoder, batch = _encoder(self.model), len(clips)
        spatial = encoder.spatial
        x = spatial.positions(self.model.embedding(clips).flatten(0, 1))  # (B · T, 1 + S, D)
        in_places = motion_in_places(motions).flatten(0, 1)  # (B · T, S, 4)
        if phase.kept < 1:
            rows, count = len(x), PLACES * PLACES
            kept = torch.rand(rows, count).argsort(dim=1)[:, : int(phase.kept * count), None]
            x = torch.cat([x[:, :1], x[:, 1:].gather(1, kept.expand(-1, -1, x.shape[-1]))], dim=1)
            in_places = in_places.gather(1, kept.expand(-1, -1, 4))
        local = []
        for number, block in enumerate(spatial.blocks):
            x = block(x, batch)
            if number:
                local.append(F.smooth_l1_loss(self.places[number - 1](x[:, 1:]).float(), in_places))
        tubelets = spatial.norm(x)[:, 0].view(batch, TIMES, -1)
        features = encoder.over_time(tubelets)
        logits = self.model.classify(features)
        assert isinstance(logits, Tensor)
        labelled = labels.sum().clamp(min=1)
        parts = {
            "label": -(labels * logits.float().log_softmax(dim=-1)).sum() / labelled,
            "motion in places": torch.stack(local).mean(),
            "motion in tubelets": F.smooth_l1_loss(self.tubelets(tubelets).float(), _on_scale(motions)),
            "motion of the clip": F.smooth_l1_loss(self.whole(features).float(), _on_scale(motions.mean(dim=1))),
        }
        loss = phase.label_weight * (parts["label"] + parts["motion of the clip"]) + parts["motion in tubelets"]
        return loss + 2 * phase.motion_weight * parts["motion in places"], parts


def motion_in_places(motions: Tensor) -> Tensor:
    """How the scene moves in each patch, on the scale of the loss: (B, TIMES, 4) → (B, TIMES, PLACES², 4).

    To the right, downwards, away from the middle of the picture, and clockwise around it.
    """
    x, y = _places()
    across, down, growth, turn = motions[..., None, :].unbind(-1)
    right, below = -(across + growth * x - turn * y), -(down + growth * y + turn * x)
    radius = (x**2 + y**2).sqrt()
    outwards, around = (right * x + below * y) / radius, (below * x - right * y) / radius
    return torch.asinh(torch.stack([right, below, outwards, around], dim=-1) / STILL_PIXEL)


def _places() -> tuple[Tensor, Tensor]:
    """x and y of the middle of each patch, in heights of the picture: (PLACES²,) each."""
    along = (torch.arange(PLACES) + 0.5) / PLACES - 0.5
    y, x = torch.meshgrid(along, along, indexing="ij")
    return x.flatten(), y.flatten()


def _on_scale(motions: Tensor) -> Tensor:
    """The camera's motion on the scale of the loss; zooms and rolls by what they move at a third of the height."""
    return torch.asinh(motions * torch.tensor([1, 1, 0.35, 0.35]) / STILL_PIXEL)


class _Filming(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    """Clips without end. The phase is that of the step at which its loader starts."""

    def __init__(self, scenery: Scenery, seed: int, jumbled: float) -> None:
        self._scenery, self._seed, self._jumbled = scenery, seed, jumbled

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        torch.set_num_threads(1)
        rng = np.random.default_rng(self._seed)
        while True:
            example = draw_example(self._scenery, rng, self._jumbled)
            yield example.clip, example.motion, example.label


class _Pool:
    """The clips that were filmed last; each is seen several times."""

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
    """Train the model, or go on where an earlier call stopped.

    Args:
        out: the checkpoint is kept here.
        pictures, videos: as in `open_scenery`.
        progress: called with the finished steps and the mean losses since the last call.

    Raises:
        UserError: `out` holds a training of another length, or there is nothing to film.
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
    """The phases that are left, each with its last step."""
    for phase in PHASES:
        if step < (last := round(phase.until * steps)):
            yield phase, last


def _learning_rate(step: int, steps: int) -> float:
    """Rises over the first steps, then falls evenly through the rates of the phases to 0."""
    ends = [0.0, *(phase.until for phase in PHASES)]
    rates = [*(phase.rate for phase in PHASES), 0.0]
    return float(np.interp(step / steps, ends, rates)) * min(1.0, (step + 1) / 200)


@torch.no_grad()
def calibrate(model: ViViT, pictures: Path | None, videos: Path | None, clips: int = 900) -> float:
    """Scale the head so that its probabilities are as often right as they say, on pictures held out from training.

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
    """Write the model's weights and config.json; matrices take 16 bits, half the size, and become float32 when read."""
    weights = {name: value.half() if value.ndim > 1 else value for name, value in model.state_dict().items()}
    make_folder(folder)
    write_files({folder / WEIGHTS_FILE: as_weights(weights), folder / CONFIG_FILE: config_content(model)})


@dataclass(frozen=True)
class CameraScore:
    """How often a model is right about footage."""

    counts: dict[str, tuple[int, int]]
    """class → its clips, and how many of them are named right."""
    sure: tuple[int, int]
    """The answers with a probability above SURE, and how many of them are right."""
    unsure: tuple[int, int]
    """The answers with a probability below UNSURE, and how many of them are right."""

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

A ViViT with a factorised encoder (2.0 M parameters): 16 frames of 64 × 64 pixels, every third frame of the video, so
1.5 seconds of 30 frames a second. The middle of a longer video is looked at; `--views 4x1` looks at four places.

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
