"""The named recipes; the paper's are one for each model that it trains on a data set.

Each one's docstring has its command, hardware, expected time and score. The paper's have the paper's score, and the
official ones that of the released weights (Scenic: projects/vivit/README.md); none of these was measured here. The
authors used TPU-v3 accelerators and say neither how many nor for how long, so in place of a time stands what training
takes, in EFLOP (10¹⁸ operations): six for each multiply-add of one clip, times clips and epochs. An accelerator that
keeps up 100 TFLOP/s does 1 EFLOP in 2.8 hours, where its clips are decoded as fast.

`DATA` is the data set's folder (docs/data.md), `ViT-L_16.npz` an image model trained on ImageNet-21k and `KINETICS` the
run or the published weights of the same model on Kinetics-400 (docs/weights.md). Another size is `--model`.
"""

from collections.abc import Callable
from typing import Any

from vivit.training.recipe import Recipe


def finetune() -> Recipe:
    """Sixteen to some thousand videos of your own, from published weights.

    `vivit train DATA --out run --init google/vivit-b-16x2-kinetics400`. One GPU; where its memory is short, add
    `--accumulate 4`. On a CPU add `--num-frames 8 --image-size 112`, or `--freeze-spatial` where the start is a
    factorised encoder. Ten epochs, and 200 steps at least. Time and score depend on the data; neither is measured here.

    The head is fresh and learns at the whole rate, each layer below it more slowly (arXiv 2106.08254).
    """
    return Recipe(
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
    )


def small() -> Recipe:
    """Some hundred videos or more, one GPU or a patient CPU, from scratch.

    `vivit train my_videos --out run`. ViViT-Ti at 16 frames of 112 × 112 with AdamW: a step of 16 clips takes seconds
    on a laptop. From scratch it wants many videos or an easy task.
    """
    return Recipe(
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
        },
        epochs=8,
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
    )


def debug() -> Recipe:
    """Whether a data set and a machine work, with a model that learns nothing worth keeping.

    `vivit train DATA --out run --recipe debug`, on any machine; some dozen videos take seconds. No score is expected.
    """
    return Recipe(
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
    )


# What all columns of table 7 have, and section 4.1: 32 frames, every second one. The paper does not speak of gradient
# clipping; all of the authors' configurations clip to 1. They name float32, of which a TPU multiplies in bf16. Half the
# clips are mirrored, as theirs; where classes have sides, ours then change places.
SHARED: dict[str, Any] = {
    "num_frames": 32,
    "frame_stride": 2,
    "image_size": 224,
    "resize": 256,
    "optimiser": "sgd",
    "batch_size": 64,
    "learning_rate_batch": 64,
    "warmup_epochs": 2.5,
    "clip_norm": 1.0,
    "scale_jitter": (0.9, 1.33),
    "precision": "auto",
}
# The columns of table 7, and with them the paper's appendix A.
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


def kinetics400_b() -> Recipe:
    """ViViT-B/16x2, model 1, on Kinetics-400: 80.0 % with 4 views (table 2); 21.7 EFLOP.

    `vivit train DATA --out run --recipe kinetics400-b --init ViT-B_16.npz`
    """
    return Recipe(model="vivit-b-16x2", **KINETICS)


def kinetics400_b_fe() -> Recipe:
    """ViViT-B/16x2, model 2, the factorised encoder, on Kinetics-400: 78.8 % with 4 views (table 2); 13.6 EFLOP.

    `vivit train DATA --out run --recipe kinetics400-b-fe --init ViT-B_16.npz`
    """
    return Recipe(model="vivit-b-16x2-fe", **KINETICS)


def kinetics400_b_fsa() -> Recipe:
    """ViViT-B/16x2, model 3, factorised self-attention, on Kinetics-400: 77.4 % with 4 views (table 2); 17.8 EFLOP.

    `vivit train DATA --out run --recipe kinetics400-b-fsa --init ViT-B_16.npz`
    """
    return Recipe(model="vivit-b-16x2-fsa", **KINETICS)


def kinetics400_b_fdp() -> Recipe:
    """ViViT-B/16x2, model 4, factorised dot-product, on Kinetics-400: 76.3 % with 4 views (table 2); 13.3 EFLOP.

    `vivit train DATA --out run --recipe kinetics400-b-fdp --init ViT-B_16.npz`
    """
    return Recipe(model="vivit-b-16x2-fdp", **KINETICS)


def kinetics400_b_average() -> Recipe:
    """ViViT-B/16x2, the average-pooling baseline, on Kinetics-400: 75.8 % with 4 views (table 2); 13.6 EFLOP.

    `vivit train DATA --out run --recipe kinetics400-b-average --init ViT-B_16.npz`
    """
    return Recipe(model="vivit-b-16x2-fe", architecture={"temporal_layers": 0}, **KINETICS)


def kinetics400_l() -> Recipe:
    """ViViT-L/16x2, model 1, on Kinetics-400: 80.3 % with 4 views (table 5); 69.0 EFLOP.

    `vivit train DATA --out run --recipe kinetics400-l --init ViT-L_16.npz`; with `--image-size 320` the paper has
    81.0 %. That table's multiply-adds are those of model 1.
    """
    return Recipe(model="vivit-l-16x2", **KINETICS)


def kinetics400_l_fe() -> Recipe:
    """ViViT-L/16x2 factorised encoder on Kinetics-400: 81.7 % with 1x3 views (table 6a); 190 EFLOP.

    `vivit train DATA --out run --recipe kinetics400-l-fe --init ViT-L_16.npz`. Clips of 128 frames: table 6a counts
    3.98 TFLOPs for a view, which section 4.2 has for 128 frames. With 32 frames the authors' released weights have
    80.3 % with 4x3 views, and their configuration is `kinetics400-l-fe-official`.
    """
    return Recipe(model="vivit-l-16x2-fe", **KINETICS | {"num_frames": 128})


def kinetics400_h() -> Recipe:
    """ViViT-H/14x2, model 1, on Kinetics-400: 84.9 % with 4x3 views (table 6a); 190 EFLOP.

    `vivit train DATA --out run --recipe kinetics400-h --init SOURCE`; the authors' image model was trained on JFT,
    which is not public. One version of the paper writes H/14x2 and one H/16x2, and neither names the model: 3.98 TFLOPs
    for a view (table 6a) are those of model 1 with a patch of 14.
    """
    return Recipe(model="vivit-h-14x2", **KINETICS)


def kinetics600_l_fe() -> Recipe:
    """ViViT-L/16x2 factorised encoder on Kinetics-600: 82.9 % (table 6b); 79.3 EFLOP.

    `vivit train DATA --out run --recipe kinetics600-l-fe --init ViT-L_16.npz`. The table does not say how many frames
    and views it has; as in section 4.1, clips are of 32 frames. The released weights have 81.6 % with 4x3 views.
    """
    return Recipe(model="vivit-l-16x2-fe", **KINETICS)


def kinetics600_h() -> Recipe:
    """ViViT-H/14x2, model 1, on Kinetics-600: 85.8 % (table 6b); 318 EFLOP.

    `vivit train DATA --out run --recipe kinetics600-h --init SOURCE`; its settings are those of `kinetics400-h`.
    """
    return Recipe(model="vivit-h-14x2", **KINETICS)


def moments_l_fe() -> Recipe:
    """ViViT-L/16x2 factorised encoder on Moments in Time: 38.5 % (table 6c); 47.4 EFLOP.

    `vivit train DATA --out run --recipe moments-l-fe --init ViT-L_16.npz`
    """
    return Recipe(model="vivit-l-16x2-fe", **MOMENTS)


def epic_b() -> Recipe:
    """ViViT-B/16x2, model 1, on EPIC-Kitchens-100: 43.1 % of actions with 4 views (table 2); 9.1 EFLOP.

    `vivit train DATA --out run --recipe epic-b --init KINETICS`
    """
    return Recipe(model="vivit-b-16x2", **EPIC)


def epic_b_fe() -> Recipe:
    """ViViT-B/16x2, model 2, the factorised encoder, on EPIC-Kitchens-100: 43.7 % of actions (table 2); 5.7 EFLOP.

    `vivit train DATA --out run --recipe epic-b-fe --init KINETICS`, and 4 views.
    """
    return Recipe(model="vivit-b-16x2-fe", **EPIC)


def epic_b_fsa() -> Recipe:
    """ViViT-B/16x2, model 3, factorised self-attention, on EPIC-Kitchens-100: 39.1 % of actions (table 2); 7.5 EFLOP.

    `vivit train DATA --out run --recipe epic-b-fsa --init KINETICS`, and 4 views.
    """
    return Recipe(model="vivit-b-16x2-fsa", **EPIC)


def epic_b_fdp() -> Recipe:
    """ViViT-B/16x2, model 4, factorised dot-product, on EPIC-Kitchens-100: 39.5 % of actions (table 2); 5.6 EFLOP.

    `vivit train DATA --out run --recipe epic-b-fdp --init KINETICS`, and 4 views.
    """
    return Recipe(model="vivit-b-16x2-fdp", **EPIC)


def epic_b_average() -> Recipe:
    """ViViT-B/16x2, the average-pooling baseline, on EPIC-Kitchens-100: 38.8 % of actions (table 2); 5.7 EFLOP.

    `vivit train DATA --out run --recipe epic-b-average --init KINETICS`, and 4 views.
    """
    return Recipe(model="vivit-b-16x2-fe", architecture={"temporal_layers": 0}, **EPIC)


def epic_l_fe() -> Recipe:
    """ViViT-L/16x2 factorised encoder on EPIC-Kitchens-100: 44.0 % of actions (table 6d); 19.9 EFLOP.

    `vivit train DATA --out run --recipe epic-l-fe --init KINETICS`; verbs 66.4 %, nouns 56.8 %.
    """
    return Recipe(model="vivit-l-16x2-fe", **EPIC)


def ssv2_l_fe() -> Recipe:
    """ViViT-L/16x2 factorised encoder on Something-Something v2: 65.9 % (table 6e); 35.0 EFLOP.

    `vivit train DATA --out run --recipe ssv2-l-fe --init KINETICS`
    """
    return Recipe(model="vivit-l-16x2-fe", **SSV2)


# The authors' released configurations (Scenic: projects/vivit/configs), where they differ from the paper. Their
# grey-scale is part of colour jitter, so EPIC-Kitchens and Something-Something, which set it too, have none.
GREY = {"grey_scale": 0.1}


def kinetics400_b_official() -> Recipe:
    """`kinetics400-b` as released (kinetics400/vivit_base_k400.py): 79.9 % with 4x3 views; 21.7 EFLOP.

    `vivit train DATA --out run --recipe kinetics400-b-official --init ViT-B_16.npz`
    """
    return Recipe(model="vivit-b-16x2", **KINETICS | GREY)


def kinetics400_b_fe_official() -> Recipe:
    """`kinetics400-b-fe` as released (kinetics400/vivit_base_factorised_encoder.py): 78.4 % with 4x3 views; 13.6 EFLOP.

    `vivit train DATA --out run --recipe kinetics400-b-fe-official --init ViT-B_16.npz`
    """
    return Recipe(model="vivit-b-16x2-fe", **KINETICS | GREY | {"learning_rate": 0.05})


def kinetics400_l_fe_official() -> Recipe:
    """`kinetics400-l-fe` as released (kinetics400/vivit_large_factorised_encoder.py): 80.3 %, 4x3 views; 47.7 EFLOP.

    `vivit train DATA --out run --recipe kinetics400-l-fe-official --init ViT-L_16.npz`. Its temporal encoder has 24
    layers; the paper has 4 in all experiments.
    """
    return Recipe(model="vivit-l-16x2-fe", architecture={"temporal_layers": 24}, **KINETICS | GREY)


def kinetics600_l_fe_official() -> Recipe:
    """`kinetics600-l-fe` as released (kinetics600/vivit_large_factorised_encoder.py): 81.6 %, 4x3 views; 79.7 EFLOP.

    `vivit train DATA --out run --recipe kinetics600-l-fe-official --init ViT-L_16.npz`. Its temporal encoder has 24
    layers too.
    """
    return Recipe(
        model="vivit-l-16x2-fe", architecture={"temporal_layers": 24}, **KINETICS | GREY | {"learning_rate": 0.05}
    )


def epic_l_fe_official() -> Recipe:
    """`epic-l-fe` as released (epic_kitchens/vivit_large_factorised_encoder.py): 43.6 %, 4x1 views; 19.9 EFLOP.

    `vivit train DATA --out run --recipe epic-l-fe-official --init KINETICS`. Clips are of frames in a row.
    """
    return Recipe(model="vivit-l-16x2-fe", **EPIC | {"frame_stride": 1})


def ssv2_l_fe_official() -> Recipe:
    """`ssv2-l-fe` as released (something_something_v2/vivit_large_factorised_encoder.py), with no score; 46.2 EFLOP.

    `vivit train DATA --out run --recipe ssv2-l-fe-official --init KINETICS`. Clips are of frames in a row, and larger.
    """
    changes = {"learning_rate": 0.4, "frame_stride": 1, "image_size": 256, "resize": 288}
    return Recipe(model="vivit-l-16x2-fe", **SSV2 | changes)


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (
        finetune,
        small,
        demo,
        debug,
        kinetics400_b,
        kinetics400_b_fe,
        kinetics400_b_fsa,
        kinetics400_b_fdp,
        kinetics400_b_average,
        kinetics400_l,
        kinetics400_l_fe,
        kinetics400_h,
        kinetics600_l_fe,
        kinetics600_h,
        moments_l_fe,
        epic_b,
        epic_b_fe,
        epic_b_fsa,
        epic_b_fdp,
        epic_b_average,
        epic_l_fe,
        ssv2_l_fe,
        kinetics400_b_official,
        kinetics400_b_fe_official,
        kinetics400_l_fe_official,
        kinetics600_l_fe_official,
        epic_l_fe_official,
        ssv2_l_fe_official,
    )
}


def default_recipe(init: str | None) -> str:
    """The name of the recipe to use if none is given: it depends on whether training starts from weights."""
    return "small" if init is None else "finetune"
