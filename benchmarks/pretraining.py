"""How much cheaper a pretraining step on masked tubes is than a training step of the same model on the same clips.

    .venv/bin/python -m benchmarks.pretraining [--rounds 5] [--threads 1]

The model is ViViT-Ti, with the clips and decoder of the recipe `pretrain`. A step is an update of `vivit pretrain` or
`vivit train`, on random clips in memory, with AdamW. The two take turns, after a warm-up update each. Seconds are CPU
time, so other work on the machine matters little; they are medians over rounds, and the ratio is the median of the
rounds' ratios.
"""

from functools import partial
from statistics import median
from typing import Any

import cyclopts
import torch

from benchmarks.harness import setting
from vivit.data.loader import Batch
from vivit.inference.speed import Step, take_turns, time_of
from vivit.labels import LabelSpace, as_classes
from vivit.model.masked import MaskedAutoencoder
from vivit.model.vivit import ViViT
from vivit.training.distributed import start_processes
from vivit.training.optim import build_optimiser
from vivit.training.pretrain import Reconstructing
from vivit.training.recipe import PretrainRecipe
from vivit.training.recipes import PRETRAIN_RECIPES
from vivit.training.update import Learner, Updater

CLASSES = 400
# Model, and the fraction that is hidden.
CASES = tuple((model, ratio) for model in ("vivit-ti-16x2-fe", "vivit-ti-16x2") for ratio in (0.75, 0.9))
CLIPS = 4  # of a step
QUICK: dict[str, Any] = {
    "num_frames": 4,
    "image_size": 64,
    "resize": 64,
    "architecture": {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "mlp_dim": 64},
    "decoder_layers": 1,
    "decoder_size": 32,
}
CPU = torch.device("cpu")


def steps_of(recipe: PretrainRecipe, clips: int) -> tuple[Step, Step]:
    """A step of pretraining and one of training, each of a fresh model on the same random clips."""
    side = recipe.image_size or 0
    video = torch.randint(256, (clips, recipe.num_frames or 0, 3, side, side), dtype=torch.uint8)
    batch = Batch(video, {"classes": torch.randint(CLASSES, (clips,))}, torch.arange(clips))
    accelerator = start_processes(CPU, "f32", track=None, shard=False)
    torch.manual_seed(recipe.seed)

    encoder = ViViT(recipe.build_config({})).train()
    autoencoder = MaskedAutoencoder(encoder, recipe.decoder_layers, recipe.decoder_size)
    learner = Learner(autoencoder, autoencoder, build_optimiser(autoencoder, recipe), encoder)
    masked = Reconstructing(learner, accelerator, recipe, LabelSpace({}))

    model = ViViT(recipe.build_config({"classes": CLASSES})).train()
    learner = Learner(model, model, build_optimiser(model, recipe), model)
    space = LabelSpace(as_classes([str(number) for number in range(CLASSES)]))
    whole = Updater(learner, accelerator, recipe, space)

    def step(update: Updater) -> Step:
        return lambda: update(batch, 0, epoch=0, rate=1e-4, batch_size=clips)

    return step(masked), step(whole)


def take_both(steps: tuple[Step, Step], rounds: int) -> list[tuple[float, float]]:
    """CPU seconds of both steps in each round."""
    taken = take_turns({place: partial(time_of, step, CPU) for place, step in enumerate(steps)}, rounds)
    return [(masked.processor, whole.processor) for masked, whole in zip(taken[0], taken[1], strict=True)]


def main(rounds: int = 5, threads: int = 1, quick: bool = False) -> None:
    """Measure and print a table in Markdown.

    Args:
        rounds: measurements of each kind of step.
        threads: of PyTorch.
        quick: toy models, to check that it works.
    """
    torch.set_num_threads(threads)
    print(setting("accelerate"))
    print(f"{threads} thread{'' if threads == 1 else 's'}, float32.\n")
    print("| model | clips | hidden | step of pretraining, s | step of training, s | times cheaper |")
    print("|---|---|---|---|---|---|", flush=True)
    for model, ratio in CASES:
        recipe = PRETRAIN_RECIPES["pretrain"].model_copy(update={"model": model, "mask_ratio": ratio})
        if quick:
            recipe = recipe.model_copy(update=QUICK)
        taken = take_both(steps_of(recipe, CLIPS), rounds)
        masked, whole = (median(seconds) for seconds in zip(*taken, strict=True))
        ratio = median(full / part for part, full in taken)
        shape = f"{CLIPS} of {recipe.num_frames} × {recipe.image_size} × {recipe.image_size}"
        print(f"| {model} | {shape} | {recipe.mask_ratio:.0%} | {masked:.3g} | {whole:.3g} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    cyclopts.run(main)
