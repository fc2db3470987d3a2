"""Twenty steps of each model on the CPU, to compare with stored losses. Run as a module to store them again:

.venv/bin/python -m tests.training.golden_curve
"""

import json
import platform
from pathlib import Path

import numpy as np
import torch

from vivit.config import SUFFIXES
from vivit.data.loader import Batch
from vivit.labels import LabelSpace, as_classes
from vivit.model.vivit import ViViT
from vivit.training.distributed import distribute, start_processes
from vivit.training.optim import WeightAverage, build_optimiser, learning_rate
from vivit.training.recipe import Recipe
from vivit.training.update import Learner, Updater

STORED = Path(__file__).with_name("golden_curve.json")
STEPS, CLASSES, CLIPS = 20, 5, 6


def recipe_of(suffix: str) -> Recipe:
    """Everything that affects the numbers: both optimisers, and all random regularisation."""
    return Recipe(
        model=f"vivit-ti-16x2{suffix and '-'}{suffix}",
        num_frames=8,
        image_size=48,
        architecture={"hidden_size": 32, "num_heads": 2, "num_layers": 2, "mlp_dim": 64},
        batch_size=CLIPS,
        accumulate=2,
        optimiser="sgd" if suffix in ("", "fsa") else "adamw",
        learning_rate=0.05 if suffix in ("", "fsa") else 2e-3,
        weight_decay=0.05,
        layer_decay=0.9,
        label_smoothing=0.1,
        stochastic_depth=0.2,
        dropout=0.1,
        token_dropping=0.25,
        mixup=0.2,
        cutmix=0.2,
        ema=0.9,
    )


def curve(suffix: str) -> list[float]:
    """The loss of each step."""
    torch.set_num_threads(1)
    recipe = recipe_of(suffix)
    accelerator = start_processes(torch.device("cpu"), "f32", None, shard=False)
    torch.manual_seed(recipe.seed)
    model = ViViT(recipe.build_config({"classes": CLASSES})).train()
    optimiser = build_optimiser(model, recipe)
    network = distribute(model, accelerator, False, "f32")
    learner = Learner(model, network, optimiser, model, WeightAverage(model, recipe.ema))
    update = Updater(learner, accelerator, recipe, LabelSpace(as_classes([str(k) for k in range(CLASSES)])))
    drawn = np.random.default_rng(0)
    losses = []
    for step in range(STEPS):
        clips = torch.from_numpy(drawn.integers(0, 256, (CLIPS, 8, 3, 48, 48), dtype=np.uint8))
        labels = {"classes": torch.from_numpy(drawn.integers(0, CLASSES, CLIPS))}
        rate = learning_rate(step, recipe.learning_rate, 4, STEPS)
        batch = Batch(clips, labels, torch.arange(CLIPS))
        losses.append(update(batch, step, 0, rate, CLIPS).loss)
    return losses


def made_on() -> dict[str, str]:
    """Everything that the last digits depend on."""
    info = Path("/proc/cpuinfo")
    wanted = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")
    processor = {}
    for line in info.read_text().splitlines() if info.exists() else []:
        name, _, value = line.partition(":")
        if name.strip() in wanted:
            processor[name.strip()] = value.strip()
    return {
        "machine": platform.machine(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        **processor,
    }


if __name__ == "__main__":
    golden = {"made_on": made_on(), "losses": {suffix: curve(suffix) for suffix in SUFFIXES}}
    STORED.write_text(json.dumps(golden, indent=1) + "\n")
    print(f"written to {STORED}")
