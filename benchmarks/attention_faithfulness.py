"""How faithful attention maps are: on generated clips whose moving object is known, and by deletion and insertion.

    .venv/bin/python -m benchmarks.attention_faithfulness FOLDER [--variants spatiotemporal] [--steps 500]

In a clip, one coloured drawing moves over a still texture with still drawings of all colours. A model must name the
colour of the moving one. A small model of each variant learns this in a few minutes and stays in FOLDER/VARIANT, where
later calls reuse it. Then, for each method, the mean over clips that no model has seen:

- in the box: the fraction of the attention on the tubelets that the moving object touches. An even map has their share.
- above even: the same for the attention above an even share, which pictures show as bright.
- brightest: the fraction of clips whose tubelet with the most attention is in the box.
- deletion and insertion: the area under the curve, see `vivit.evaluation.faithfulness`; beside it that of random maps.

FOLDER/example.mp4 is one of the clips, four times as large.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import cyclopts
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import vivit
from benchmarks import harness
from vivit.config import ModelConfig, Preprocessing, Variant
from vivit.evaluation.faithfulness import faithfulness
from vivit.experiments.drawings import KINDS, draw
from vivit.experiments.film import encode
from vivit.experiments.pictures import draw_texture
from vivit.files import make_folder
from vivit.inference.attention_maps import Method, attention_maps
from vivit.labels import ONLY_HEAD
from vivit.model.vivit import ViViT

COLOURS = {"red": (235, 70, 60), "green": (60, 200, 80), "blue": (80, 110, 245), "yellow": (240, 210, 60)}
FRAMES, SIDE, OBJECT = 8, 48, 16
TUBELET = (2, 8, 8)
STEPS = (3, 4)  # pixels from frame to frame
STILL = 2  # drawings that lie still
DIMMED = 0.6  # the light on the texture
TRAIN_DRAWINGS, DRAWINGS = 18, 24  # of each kind
TEXTURES = (40, 20)  # of training, and held out
BATCH, RATE = 32, 2e-3
CLIPS, FOLLOWED = 64, 32
ENLARGED = 4


@dataclass(frozen=True)
class Clip:
    frames: Tensor
    """(FRAMES, 3, SIDE, SIDE) uint8."""
    colour: int
    touched: Tensor
    """(T, n_h, n_w) bool: the tubelets that the moving object touches."""


class Clips:
    """An endless series of clips."""

    def __init__(self, seed: int, held_out: bool) -> None:
        self.rng = np.random.default_rng([seed, held_out])
        self.textures = [DIMMED * draw_texture(self.rng).mean(axis=2, keepdims=True) for _ in range(TEXTURES[held_out])]
        numbers = range(TRAIN_DRAWINGS, DRAWINGS) if held_out else range(TRAIN_DRAWINGS)
        small = [draw(kind, number).resize((OBJECT, OBJECT)) for kind in KINDS for number in numbers]
        self.drawings = [np.asarray(drawing, np.float32) / 255 for drawing in small]

    def __iter__(self) -> Iterator[Clip]:
        while True:
            yield self.make()

    def make(self) -> Clip:
        rng = self.rng
        texture = self.textures[rng.integers(len(self.textures))]
        top, left = (rng.integers(side - 2 * SIDE) for side in texture.shape[:2])
        scene = texture[top : top + 2 * SIDE : 2, left : left + 2 * SIDE : 2].repeat(3, axis=2).astype(np.float32)
        for _ in range(STILL):
            x, y = rng.integers(0, SIDE - OBJECT + 1, 2)
            self._paste(scene, x, y, self._drawing(int(rng.integers(len(COLOURS)))))
        colour, step = int(rng.integers(len(COLOURS))), int(rng.choice(STEPS))
        drawing, (across, backwards) = self._drawing(colour), rng.integers(2, size=2)
        start, other = rng.integers(SIDE - OBJECT - step * (FRAMES - 1) + 1), rng.integers(SIDE - OBJECT + 1)
        places = [(int(start + step * number), int(other)) for number in range(FRAMES)]
        places = [place[::-1] if across else place for place in places]
        long, high, wide = TUBELET
        frames, touched = [], torch.zeros(FRAMES // long, SIDE // high, SIDE // wide).bool()
        for number, (x, y) in enumerate(places[::-1] if backwards else places):
            frames.append(scene.copy())
            self._paste(frames[-1], x, y, drawing)
            rows, columns = (slice(at // size, (at + OBJECT - 1) // size + 1) for at, size in ((y, high), (x, wide)))
            touched[number // long, rows, columns] = True
        pixels = np.stack(frames).astype(np.uint8).transpose(0, 3, 1, 2)  # (T, H, W, C) → (T, C, H, W)
        return Clip(torch.from_numpy(pixels), colour, touched)

    def _drawing(self, colour: int) -> np.ndarray:
        """(OBJECT, OBJECT, 4) from 0 to 1: a drawing in shades of a colour."""
        drawing = self.drawings[self.rng.integers(len(self.drawings))].copy()
        light = drawing[..., :3].mean(axis=2, keepdims=True)
        drawing[..., :3] = (0.55 + 0.45 * light) * np.array(list(COLOURS.values())[colour]) / 255
        return drawing

    @staticmethod
    def _paste(frame: np.ndarray, x: int, y: int, drawing: np.ndarray) -> None:
        part = frame[y : y + OBJECT, x : x + OBJECT]
        part += (255 * drawing[..., :3] - part) * drawing[..., 3:]


def learn(variant: Variant, steps: int) -> ViViT:
    """Train a model from scratch; every clip is new."""
    torch.manual_seed(0)
    config = ModelConfig(
        variant=variant,
        num_frames=FRAMES,
        image_size=(SIDE, SIDE),
        tubelet_size=TUBELET,
        hidden_size=48,
        num_layers=3,
        num_heads=4,
        mlp_dim=96,
        num_classes=len(COLOURS),
        temporal_layers=2 if variant == "factorised_encoder" else None,
    )
    preprocessing = Preprocessing(frame_stride=1, resize=SIDE)
    model = ViViT(config, classes={ONLY_HEAD: list(COLOURS)}, preprocessing=preprocessing).train()
    clips = Clips(0, held_out=False)
    optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.02)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / 100, 1.02 - step / steps)
        batch = [clips.make() for _ in range(BATCH)]
        logits = model(torch.stack([clip.frames for clip in batch]))
        loss = F.cross_entropy(logits, torch.tensor([clip.colour for clip in batch]))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 49:
            print(f"{variant}: step {step + 1}, loss {loss:.2f}", flush=True)
    return model.eval()


def rows_of(model: ViViT, clips: list[Clip]) -> Iterator[str]:
    """A line of the table for each method, and one for random maps."""
    video, touched = torch.stack([clip.frames for clip in clips]), torch.stack([clip.touched for clip in clips])
    maps: dict[str, Tensor] = {}
    for method in get_args(Method):
        maps[method], logits = attention_maps(model, video, method)
    maps["random"] = torch.rand(touched.shape, generator=torch.Generator().manual_seed(0))
    maps["random"] /= maps["random"].sum(dim=(1, 2, 3), keepdim=True)
    answers = logits[ONLY_HEAD].argmax(dim=1)
    right = sum(int(answer) == clip.colour for answer, clip in zip(answers, clips, strict=True)) / len(clips)
    for name, found in maps.items():
        inside = _inside(found, touched)
        above = _inside((found - 1 / touched[0].numel()).clamp(min=0), touched)
        brightest = touched.flatten(1).gather(1, found.flatten(1).argmax(1, keepdim=True)).float().mean()
        followed = [
            faithfulness(model, clips[number].frames, found[number], ONLY_HEAD, int(answers[number]))
            for number in range(min(FOLLOWED, len(clips)))
        ]
        deletion, insertion = (
            np.mean([getattr(curves, area) for curves in followed]) for area in ("deletion_area", "insertion_area")
        )
        yield (
            f"| {model.config.variant} | {right:.0%} | {name} | {inside:.2f} | {above:.2f} | {brightest:.0%} | "
            f"{deletion:.2f} | {insertion:.2f} |"
        )


def _inside(maps: Tensor, touched: Tensor) -> float:
    """The fraction of each (T, H, W) map's sum that lies on the object; the mean over maps."""
    sums = maps.sum(dim=(1, 2, 3))
    return float(((maps * touched).sum(dim=(1, 2, 3)) / sums).mean())


def main(folder: Path, *, variants: str = ",".join(get_args(Variant)), steps: int = 500, clips: int = CLIPS) -> None:
    """Train what is missing, and print the table."""
    test = Clips(1, held_out=True)
    seen = [test.make() for _ in range(clips)]
    make_folder(folder)
    large = seen[0].frames.repeat_interleave(ENLARGED, 2).repeat_interleave(ENLARGED, 3)
    encode(large.permute(0, 2, 3, 1).numpy(), folder / "example.mp4", 8, 4)
    lines = [
        "| model | right | method | in the box | above even | brightest | deletion | insertion |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant in get_args(Variant):
        if variant in variants.split(","):
            if not (folder / variant).exists():
                vivit.save(learn(variant, steps), folder / variant)
            model = vivit.load(folder / variant)
            with torch.no_grad():
                lines += rows_of(model.eval(), seen)
    print("\n".join(lines))
    share = torch.stack([clip.touched for clip in seen]).float().mean()
    print(f"\nThe box is {share:.2f} of a clip. Models of {steps} steps of {BATCH} clips; {clips} held-out clips,")
    print(f"{min(FOLLOWED, clips)} of them for deletion and insertion.")
    print(harness.setting())


if __name__ == "__main__":
    cyclopts.run(main)
