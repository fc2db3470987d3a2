"""The named recipes. Each one's docstring has its command, hardware, time and score."""

from vivit.training.recipe import Recipe


def paper() -> Recipe:
    """The paper's training of ViViT-B/16x2 factorised encoder on Kinetics-400.

    `vivit train kinetics400 --out run --recipe paper`. The authors used TPUs and an ImageNet-21k image model as the
    start, and report 78.8 % top-1 (table 2); not measured here.
    """
    return Recipe()


def small() -> Recipe:
    """Some hundred videos or more, one GPU or a patient CPU, from scratch.

    `vivit train my_videos --out run`. ViViT-Ti at 16 frames of 112 × 112 with AdamW: a step of 16 clips takes seconds
    on a laptop. From scratch it wants many videos or an easy task.
    """
    return Recipe(
        model="vivit-ti-16x2-fe",
        num_frames=16,
        image_size=112,
        batch_size=16,
        optimiser="adamw",
        learning_rate=5e-4,
        weight_decay=0.05,
        stochastic_depth=0.1,
        label_smoothing=0.1,
    )


def demo() -> Recipe:
    """Camera motion in minutes on two cores: `make demo`, whose report has the score.

    A factorised encoder of 1.0 M parameters on 8 frames of 48 × 48. README.md has the time and the score measured.
    """
    return Recipe(
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
            "dropout": 0.1,
        },
        epochs=8,
        batch_size=32,
        optimiser="adamw",
        learning_rate=1e-3,
        warmup_epochs=1,
        weight_decay=0.05,
        position_std=0.3,
        scale_jitter=None,
        flip=0.0,
        colour_jitter=0.0,
    )


RECIPES = {"paper": paper, "small": small, "demo": demo}
