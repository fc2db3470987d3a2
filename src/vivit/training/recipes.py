"""The named recipes: five of our own, and one for each model that the paper trains on a data set.

The paper's recipes are rows of a table; their descriptions and the table in docs/training.md follow from it.
`python -m vivit.training.recipes` prints that table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vivit.training.recipe import PretrainRecipe, Recipe

OWN: dict[str, tuple[Recipe, str]] = {
    "finetune": (
        Recipe(
            epochs=10,
            min_steps=200,
            batch_size=8,
            optimiser="adamw",
            learning_rate=2.5e-4,
            learning_rate_batch=8,
            layer_decay=0.75,
            warmup_epochs=1,
            weight_decay=0.05,
            label_smoothing=0.1,
            stochastic_depth=0.1,
            precision="auto",
            colour_jitter=0.4,
        ),
        "16 to some thousand videos of your own, from pretrained weights: AdamW, with a lower learning rate for lower "
        "layers (arXiv 2106.08254).\n\n"
        "`vivit train DATA --init google/vivit-b-16x2-kinetics400`. Needs one GPU; if its memory is short, add "
        "`--accumulate 4`. On a CPU add `--num-frames 8 --image-size 112`, or `--freeze-spatial` if the weights are a "
        "factorised encoder. Ten epochs, and at least 200 steps. Time and score depend on the data; neither is "
        "measured here.",
    ),
    "probe": (
        Recipe(
            probe="attentive",
            epochs=10,
            min_steps=500,
            batch_size=64,
            optimiser="adamw",
            learning_rate=1e-3,
            warmup_epochs=1,
            weight_decay=0.05,
            precision="auto",
            scale_jitter=None,
            colour_jitter=0.0,
        ),
        "A head on the features of a frozen encoder, which are computed once: minutes on two cores (arXiv 2404.08471)."
        "\n\n"
        "`vivit train DATA --init MODEL --probe linear`, or `--probe attentive`, with any ViViT or image ViT.",
    ),
    "small": (
        Recipe(
            model="vivit-ti-16x2-fe",
            num_frames=16,
            image_size=112,
            min_steps=300,
            batch_size=16,
            optimiser="adamw",
            learning_rate=5e-4,
            learning_rate_batch=16,
            weight_decay=0.05,
            stochastic_depth=0.1,
            label_smoothing=0.1,
        ),
        "Some hundred videos or more, from scratch: ViViT-Ti, 16 frames of 112 × 112.\n\n"
        "`vivit train my_videos --out run`, on one GPU or a patient CPU: a step of 16 clips takes seconds on a laptop. "
        "From scratch it needs many videos or an easy task.",
    ),
    "demo": (
        Recipe(
            model="vivit-ti-16x2-fe",
            num_frames=8,
            frame_stride=2,
            image_size=48,
            resize=48,
            architecture={
                "tubelet_size": (4, 12, 12),
                "hidden_size": 128,
                "num_heads": 4,
                "num_layers": 3,
                "mlp_dim": 512,
                "temporal_layers": 1,
            },
            epochs=6,
            batch_size=32,
            optimiser="adamw",
            learning_rate=1e-3,
            warmup_epochs=1,
            weight_decay=0.05,
            dropout=0.1,
            position_std=0.3,
            scale_jitter=None,
            flip=0.0,
            colour_jitter=0.0,
        ),
        "Camera motion in minutes on two cores: a factorised encoder of 1.0 M parameters, 8 frames of 48 × 48.\n\n"
        "`make demo` runs it; README.md has its time and score.",
    ),
    "debug": (
        Recipe(
            model="vivit-ti-16x2-fe",
            num_frames=4,
            image_size=32,
            architecture={"hidden_size": 32, "num_heads": 2, "num_layers": 1, "mlp_dim": 64, "temporal_layers": 1},
            epochs=1,
            min_steps=4,
            batch_size=4,
            optimiser="adamw",
            learning_rate=1e-3,
            learning_rate_batch=4,
            warmup_epochs=0,
        ),
        "A quick check that a data set and a machine work; the model is too small to be of use.\n\n"
        "`vivit train DATA --out run --recipe debug` runs anywhere; some dozen videos take seconds.",
    ),
}

# Section 4.1's clips: every second one of 64 frames. All columns of table 7 share defaults of Recipe: SGD, batches of
# 64, warm-up and scale jitter. The paper does not mention gradient clipping; all of the authors' configurations clip
# to 1. They specify float32, which a TPU multiplies in bf16. They mirror half of the clips; we also swap the labels of
# classes that have a side.
CLIP = {"num_frames": 32, "frame_stride": 2, "image_size": 224, "resize": 256}
SHARED: dict[str, Any] = CLIP | {"learning_rate_batch": 64, "precision": "auto"}
# The columns of table 7, which is also the paper's appendix A.
KINETICS = SHARED | {"learning_rate": 0.1, "epochs": 30, "colour_jitter": 0.8}
MOMENTS = SHARED | {"learning_rate": 0.25, "epochs": 10, "colour_jitter": 0.8}
EPIC = SHARED | {
    "learning_rate": 0.5,
    "epochs": 50,
    "colour_jitter": 0.0,
    "randaugment": (2, 15),
    "stochastic_depth": 0.2,
    "label_smoothing": 0.2,
    "mixup": 0.1,
}
SSV2 = SHARED | {
    "learning_rate": 0.5,
    "epochs": 35,
    "colour_jitter": 0.0,
    "randaugment": (2, 20),
    "stochastic_depth": 0.3,
    "label_smoothing": 0.3,
    "mixup": 0.3,
}
# In the released configurations, grey scale is part of colour jitter. EPIC-Kitchens and Something-Something set its
# rate but no colour jitter, so they have no grey scale.
GREY = {"grey_scale": 0.1}
AVERAGE = {"architecture": {"temporal_layers": 0}}
DEEP = {"architecture": {"temporal_layers": 24}}
LONG = {"num_frames": 128}

DATA_SETS = {
    "kinetics400": "Kinetics-400",
    "kinetics600": "Kinetics-600",
    "moments": "Moments in Time",
    "epic": "EPIC-Kitchens-100",
    "ssv2": "Something-Something v2",
}
VIT_B, VIT_L, VIT_H, K400 = "ViT-B_16.npz", "ViT-L_16.npz", "VIT_H", "K400"
SOURCES = {
    VIT_H: "an image ViT-H/14; the authors' was trained on JFT, which is not public",
    K400: "the same model trained on Kinetics-400: a run, or released weights",
}
L_NOTE = "The paper reaches 81.0 % with `--image-size 320`. The multiply-adds in table 5 are those of model 1."
LONG_NOTE = (
    "Clips have 128 frames: by section 4.2 they cost the 3.98 TFLOPs per view of table 6a. The released weights use 32 "
    "frames and reach 80.3 % with 4x3 views; their configuration is `kinetics400-l-fe-official`."
)
H_NOTE = (
    "One version of the paper writes H/14x2 and another H/16x2, and neither says which of the four models it is: the "
    "3.98 TFLOPs per view of table 6a are those of model 1 with patches of 14."
)
K600_NOTE = (
    "The table does not give frames and views; clips have 32 frames as in section 4.1. The released weights reach "
    "81.6 % with 4x3 views."
)
DEEP_NOTE = "Its temporal encoder has 24 layers; the paper's has 4 in all experiments."
DENSE_NOTE = "Clips are consecutive frames."


@dataclass(frozen=True)
class PaperRun:
    """One training run of the paper or of the authors' released configurations; nothing was measured here."""

    name: str
    model: str
    settings: dict[str, Any]
    score: float | None
    """Top-1 accuracy in percent: the paper's, or the released weights'."""
    views: str
    """The views used for the score; "" if the source does not say."""
    source: str
    """The table in the paper, or the file under projects/vivit/configs in Scenic."""
    eflop: float
    """Compute of the training: 6 × multiply-adds per clip × clips × epochs, in 10¹⁸ operations."""
    init: str
    """The value for --init."""
    note: str = ""

    @property
    def recipe(self) -> Recipe:
        return Recipe(model=self.model, **self.settings)

    @property
    def official(self) -> bool:
        """Whether it is a released configuration."""
        return self.source.endswith(".py")

    @property
    def description(self) -> str:
        kinds = {"fe": "factorised encoder", "fsa": "factorised self-attention", "fdp": "factorised dot-product"}
        _, size, patch, *suffix = self.model.split("-")
        kind = kinds[suffix[0]] if suffix else "spatio-temporal attention"
        if self.settings.get("architecture") == AVERAGE["architecture"]:
            kind = "frame features averaged over time"
        data_set = self.name.split("-")[0]
        where = "the authors' released configuration, " if self.official else "paper, "
        views = f" with {self.views} views" if self.views else ""
        of_what = " of actions" if data_set == "epic" else " top-1"
        score = (
            "No score is reported" if self.score is None else f"{self.score:.1f} %{of_what}{views}, not measured here"
        )
        return (
            f"ViViT-{size.upper()}/{patch}, {kind}, on {DATA_SETS[data_set]} ({where}{self.source}).\n\n"
            f"`vivit train DATA --recipe {self.name} --init {self.init} --out run`"
            f"{f', where {self.init} is {SOURCES[self.init]}' if self.init in SOURCES else ''}. "
            f"{score}. Training takes {self.eflop:g} EFLOP."
            f"{' ' if self.note else ''}{self.note}"
        )


# The authors used TPU-v3 accelerators but do not say how many or for how long, hence EFLOP: an accelerator that
# sustains 100 TFLOP/s does 1 EFLOP in 2.8 hours, if decoding keeps up.
# fmt: off
PAPER_RUNS = (
    PaperRun("kinetics400-b", "vivit-b-16x2", KINETICS, 80.0, "4x1", "table 2", 21.7, VIT_B),
    PaperRun("kinetics400-b-fe", "vivit-b-16x2-fe", KINETICS, 78.8, "4x1", "table 2", 13.6, VIT_B),
    PaperRun("kinetics400-b-fsa", "vivit-b-16x2-fsa", KINETICS, 77.4, "4x1", "table 2", 17.8, VIT_B),
    PaperRun("kinetics400-b-fdp", "vivit-b-16x2-fdp", KINETICS, 76.3, "4x1", "table 2", 13.3, VIT_B),
    PaperRun("kinetics400-b-average", "vivit-b-16x2-fe", KINETICS | AVERAGE, 75.8, "4x1", "table 2", 13.6, VIT_B),
    PaperRun("kinetics400-l", "vivit-l-16x2", KINETICS, 80.3, "4x1", "table 5", 69.0, VIT_L, L_NOTE),
    PaperRun("kinetics400-l-fe", "vivit-l-16x2-fe", KINETICS | LONG, 81.7, "1x3", "table 6a", 190, VIT_L, LONG_NOTE),
    PaperRun("kinetics400-h", "vivit-h-14x2", KINETICS, 84.9, "4x3", "table 6a", 190, VIT_H, H_NOTE),
    PaperRun("kinetics600-l-fe", "vivit-l-16x2-fe", KINETICS, 82.9, "", "table 6b", 79.3, VIT_L, K600_NOTE),
    PaperRun("kinetics600-h", "vivit-h-14x2", KINETICS, 85.8, "", "table 6b", 318, VIT_H, H_NOTE),
    PaperRun("moments-l-fe", "vivit-l-16x2-fe", MOMENTS, 38.5, "", "table 6c", 47.4, VIT_L),
    PaperRun("epic-b", "vivit-b-16x2", EPIC, 43.1, "4x1", "table 2", 9.1, K400),
    PaperRun("epic-b-fe", "vivit-b-16x2-fe", EPIC, 43.7, "4x1", "table 2", 5.7, K400),
    PaperRun("epic-b-fsa", "vivit-b-16x2-fsa", EPIC, 39.1, "4x1", "table 2", 7.5, K400),
    PaperRun("epic-b-fdp", "vivit-b-16x2-fdp", EPIC, 39.5, "4x1", "table 2", 5.6, K400),
    PaperRun("epic-b-average", "vivit-b-16x2-fe", EPIC | AVERAGE, 38.8, "4x1", "table 2", 5.7, K400),
    PaperRun("epic-l-fe", "vivit-l-16x2-fe", EPIC, 44.0, "", "table 6d", 19.9, K400, "Verbs 66.4 %, nouns 56.8 %."),
    PaperRun("ssv2-l-fe", "vivit-l-16x2-fe", SSV2, 65.9, "", "table 6e", 35.0, K400),
    PaperRun("kinetics400-b-official", "vivit-b-16x2", KINETICS | GREY,
             79.9, "4x3", "kinetics400/vivit_base_k400.py", 21.7, VIT_B),
    PaperRun("kinetics400-b-fe-official", "vivit-b-16x2-fe", KINETICS | GREY | {"learning_rate": 0.05},
             78.4, "4x3", "kinetics400/vivit_base_factorised_encoder.py", 13.6, VIT_B),
    PaperRun("kinetics400-l-fe-official", "vivit-l-16x2-fe", KINETICS | GREY | DEEP,
             80.3, "4x3", "kinetics400/vivit_large_factorised_encoder.py", 47.7, VIT_L, DEEP_NOTE),
    PaperRun("kinetics600-l-fe-official", "vivit-l-16x2-fe", KINETICS | GREY | DEEP | {"learning_rate": 0.05},
             81.6, "4x3", "kinetics600/vivit_large_factorised_encoder.py", 79.7, VIT_L, DEEP_NOTE),
    PaperRun("epic-l-fe-official", "vivit-l-16x2-fe", EPIC | {"frame_stride": 1},
             43.6, "4x1", "epic_kitchens/vivit_large_factorised_encoder.py", 19.9, K400, DENSE_NOTE),
    PaperRun("ssv2-l-fe-official", "vivit-l-16x2-fe",
             SSV2 | {"learning_rate": 0.4, "frame_stride": 1, "image_size": 256, "resize": 288},
             None, "", "something_something_v2/vivit_large_factorised_encoder.py", 46.2, K400, DENSE_NOTE),
)
# fmt: on

# VideoMAE's settings for Kinetics-400 (arXiv 2203.12602, appendix): AdamW with a low β2, no stochastic depth, and crops
# and mirror images instead of colours.
VIDEOMAE: dict[str, Any] = {
    "optimiser": "adamw",
    "adam_beta2": 0.95,
    "weight_decay": 0.05,
    "clip_norm": None,
    "scale_jitter": (0.9, 1.33),
    "flip": 0.5,
    "colour_jitter": 0.0,
}
PRETRAINING: dict[str, tuple[PretrainRecipe, str]] = {
    "pretrain": (
        PretrainRecipe(
            model="vivit-ti-16x2-fe",
            num_frames=16,
            image_size=112,
            epochs=100,
            batch_size=32,
            learning_rate=5e-4,
            learning_rate_batch=32,
            warmup_epochs=5,
            position_std=0.3,
            decoder_layers=2,
            decoder_size=96,
            **{**VIDEOMAE, "clip_norm": 1.0},
        ),
        "Some thousand videos without labels: ViViT-Ti, 16 frames of 112 × 112, to fine-tune on few labelled ones.\n\n"
        "`vivit pretrain my_videos --out run`, then `vivit train labelled --init run`. One GPU or a patient CPU. Time "
        "and score depend on the data; neither is measured here.",
    ),
    "videomae": (
        PretrainRecipe(
            model="vivit-b-16x2",
            num_frames=16,
            frame_stride=4,
            image_size=224,
            resize=256,
            epochs=800,
            batch_size=1024,
            learning_rate=1.5e-4,
            learning_rate_batch=256,
            warmup_epochs=40,
            precision="auto",
            **VIDEOMAE,
        ),
        "VideoMAE's settings for a ViT-B on Kinetics-400, with model 1 (arXiv 2203.12602, appendix).\n\n"
        "`torchrun --nproc-per-node 8 -m vivit pretrain kinetics400 --recipe videomae`. The paper took 64 GPUs for it; "
        "nothing was measured here.",
    ),
}

RECIPES: dict[str, Recipe] = {
    **{name: recipe for name, (recipe, _) in OWN.items()},
    **{run.name: run.recipe for run in PAPER_RUNS},
}
DESCRIPTIONS: dict[str, str] = {
    **{name: description for name, (_, description) in OWN.items()},
    **{run.name: run.description for run in PAPER_RUNS},
}
"""Recipe → its purpose or source in the first sentence; then its command, hardware, time and score."""


PRETRAIN_RECIPES: dict[str, PretrainRecipe] = {name: recipe for name, (recipe, _) in PRETRAINING.items()}
PRETRAIN_DESCRIPTIONS = {name: description for name, (_, description) in PRETRAINING.items()}


def recipes_like(recipe: Recipe) -> Mapping[str, Recipe]:
    """The named recipes of this recipe's verb."""
    return PRETRAIN_RECIPES if isinstance(recipe, PretrainRecipe) else RECIPES


def default_recipe(init: str | None, probe: str | None) -> str:
    """The recipe to use if the user names none."""
    if probe is not None:
        return "probe"
    return "small" if init is None else "finetune"


def table() -> str:
    """The paper's recipes as the Markdown table in docs/training.md."""
    rows = ["| recipe | top-1 in % | source | `--init` |", "|---|---|---|---|"]
    for run in PAPER_RUNS:
        score, source = run.score or "not reported", f"`{run.source}`" if run.official else run.source
        rows.append(f"| `{run.name}` | {score} | {source} | `{run.init}` |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
