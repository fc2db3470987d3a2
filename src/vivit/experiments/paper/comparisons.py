"""The comparisons and their sizes: every number that determines how long a run takes.

A cell should take about two minutes on one core, so that three seeds of everything fit into an afternoon. On the core
used to choose these sizes, a step takes 0.05 s for BASE and 0.13 s for the first layers of a ViT-S.
"""

from collections.abc import Mapping
from typing import Any

from vivit.experiments.paper.cells import Claim, ImageStart, Pretrained, Row, Scale, Table
from vivit.training.recipe import PretrainRecipe, Recipe
from vivit.weights.adapt import TubeletInit
from vivit.weights.image_sources import read_image_vit
from vivit.weights.source import Source

# From scratch, models of this size learn in minutes where the objects are lit and the camera hardly moves. Small videos
# decode in 2 ms, and no row sees more than 60 pixels of a side.
BENCHMARK: dict[str, Any] = {
    "difficulty": "easy",
    "train_videos": 1600,
    "val_videos": 300,
    "test_videos": 600,
    "size": (64, 64),
}
FULL = Scale("full", seeds=3, rates=2, benchmark=BENCHMARK)
SHRUNKEN = Scale(
    "shrunken",
    seeds=1,
    rates=1,
    benchmark={**BENCHMARK, "train_videos": 240, "val_videos": 48, "test_videos": 48},
    steps=1 / 16,
)

# A small factorised encoder from scratch: 4 × 4 × 4 tokens, and a clip that spans 31 of a video's 32 frames. Large
# position embeddings and small batches shorten the initial plateau, on which nothing is learnt. With batches of 16 and
# a standard deviation of 0.3, it took most of a run of 6,400 clips.
BASE = Recipe(
    model="vivit-ti-16x2-fe",
    num_frames=16,
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
    epochs=1,
    # The plateau ends between step 300 (model 1) and 700 (the others). In runs of 1,000 steps, it decided the ranking.
    min_steps=2000,
    batch_size=8,
    optimiser="adamw",
    warmup_epochs=0.1,
    weight_decay=0.05,
    position_std=1.0,
    # Left and right are classes; scale and colour are those of the videos.
    flip=0.0,
    scale_jitter=None,
    colour_jitter=0.0,
)
# In runs of 1,000 steps, no model of Table 2 was at its best at 2.5e-4 or 2e-3.
RATES = (5e-4, 1e-3)


def all_tables(patch: int | None = 14) -> list[Table]:
    """Every comparison.

    Args:
        patch: the side of the image ViT's patches, in pixels; None leaves out the tables that start from it.
    """
    tables = [TABLE2, TABLE3, TABLE4, TABLE5, SIZES, FIGURE8, FIGURE9, NO_LABELS]
    return tables if patch is None else [table1(patch), *tables, probing(patch)]


def variant(name: str, **architecture: Any) -> Recipe:
    """BASE as another of the paper's models."""
    fields = {key: value for key, value in BASE.architecture.items() if key != "temporal_layers"}
    return BASE.model_copy(update={"architecture": {**fields, "variant": name, **architecture}})


def encoder(**architecture: Any) -> Recipe:
    """BASE, the factorised encoder, with another architecture."""
    return BASE.model_copy(update={"architecture": {**BASE.architecture, **architecture}})


# The paper studies regularisers, sizes and frames on the factorised encoder. Model 1 replaces it here, because it
# learns most in so few steps.
JOINT = variant("spatiotemporal")


FE = "2 factorised encoder"
ST = "1 spatio-temporal"
AVERAGE = "2 average pooling"

TABLE2 = Table(
    "table2",
    "Table 2: the models",
    "Which of the four models is the most accurate, and at what cost?",
    "Kinetics-400 80.0, 78.8, 77.4 and 76.3 % for models 1 to 4, and 75.8 % for average pooling; on EPIC-Kitchens, "
    "which is smaller, the factorised encoder leads.",
    (
        Row(ST, JOINT, RATES, "80.0 / 43.1"),
        Row(FE, BASE, RATES, "78.8 / 43.7"),
        Row("3 factorised self-attention", variant("factorised_self_attention"), RATES, "77.4 / 39.1"),
        Row("4 factorised dot-product", variant("factorised_dot_product"), RATES, "76.3 / 39.5"),
        Row(AVERAGE, encoder(temporal_layers=0), RATES, "75.8 / 38.8"),
    ),
    (
        Claim(FE, AVERAGE, "the tubelets of four frames may hold much of the motion by themselves."),
        Claim(ST, AVERAGE, "attention over all tokens has more to learn, and there are few steps to learn it in."),
        Claim(
            FE,
            ST,
            "it is so on EPIC-Kitchens only. From scratch, the temporal encoder can learn nothing until the spatial "
            "one tells it something; the paper starts from an image model, which does.",
        ),
        Claim(ST, "3 factorised self-attention", "model 3 has a third more parameters and an attention more a layer."),
        Claim(ST, "4 factorised dot-product", "both have as many parameters; the paper's difference is 3.7 points."),
    ),
)

TABLE3 = Table(
    "table3",
    "Table 3: depth of the temporal encoder",
    "How many temporal layers does the factorised encoder need?",
    "75.8 % without any, 78.6 % with one, and between 78.8 and 78.9 % with 4 to 12.",
    (
        Row("0 layers", encoder(temporal_layers=0), RATES, "75.8"),
        Row("1 layer", BASE, RATES, "78.6"),
        Row("2 layers", encoder(temporal_layers=2), RATES),
        Row("4 layers", encoder(temporal_layers=4), RATES, "78.8"),
    ),
    (
        Claim("1 layer", "0 layers", "the tubelets of four frames may hold much of the motion by themselves."),
        Claim("4 layers", "1 layer", "the paper's difference is 0.2 points, far less than three seeds can show."),
    ),
)


def _regularised() -> tuple[Row, ...]:
    """Rows that each add to the one above."""
    added: list[tuple[str, str, Mapping[str, Any]]] = [
        ("none", "", {}),
        ("scale and colour jitter", "38.4", {"scale_jitter": (0.9, 1.33), "colour_jitter": 0.8}),
        ("+ stochastic depth 0.2", "40.2", {"stochastic_depth": 0.2}),
        ("+ RandAugment", "41.1", {"randaugment": (2, 15)}),
        ("+ label smoothing 0.2", "43.1", {"label_smoothing": 0.2}),
        ("+ Mixup 0.1", "43.7", {"mixup": 0.1}),
    ]
    rows, recipe = [], JOINT
    for name, paper, change in added:
        recipe = recipe.model_copy(update=change)
        rows.append(Row(name, recipe, RATES, paper, fraction=0.2))
    return tuple(rows)


TABLE4 = Table(
    "table4",
    "Table 4: regularisation on little data",
    "What does each regulariser add when training videos are few?",
    "EPIC-Kitchens actions by the factorised encoder: 38.4 with crops and jitter, 39.6 from Kinetics, 40.2 "
    "with stochastic depth, 41.1 with RandAugment, 43.1 with label smoothing, 43.7 with Mixup.",
    _regularised(),
    (
        Claim("+ Mixup 0.1", "none", "regularisation slows learning down, and these runs are short."),
        Claim(
            "+ Mixup 0.1", "scale and colour jitter", "regularisation slows learning down, and these runs are short."
        ),
        Claim("scale and colour jitter", "none", "a change of scale or colour in the clip hides what is to be named."),
    ),
    delay=2,
)


def _cropped(side: int) -> Recipe:
    return JOINT.model_copy(update={"image_size": side, "resize": side})


TABLE5 = Table(
    "table5",
    "Table 5: size of the pictures",
    "Are larger pictures worth their cost?",
    "Large/16x2 factorised encoder on Kinetics-400: 80.3 % at 224 pixels, 80.7 at 288, 81.0 at 320.",
    (
        Row("36 pixels", _cropped(36), RATES, "80.3"),
        Row("48 pixels", JOINT, RATES, "80.7"),
        Row("60 pixels", _cropped(60), RATES, "81.0"),
    ),
    (
        Claim("48 pixels", "36 pixels", "objects are large in the picture, so few pixels may show enough."),
        Claim("60 pixels", "48 pixels", "objects are large in the picture, so few pixels may show enough."),
    ),
    delay=2,
)


def _sized(**architecture: Any) -> Recipe:
    return variant("spatiotemporal", **architecture)


SIZES = Table(
    "sizes",
    "Smaller and larger models",
    "Is a larger backbone better?",
    "Large is better than Base by 1.3 to 2 points where both start from ImageNet-21k; the paper regularises both.",
    (
        Row("64 wide, 2 layers", _sized(hidden_size=64, num_heads=2, num_layers=2, mlp_dim=256), RATES),
        Row("128 wide, 3 layers", JOINT, RATES, "Base"),
        Row("192 wide, 4 layers", _sized(hidden_size=192, num_heads=6, num_layers=4, mlp_dim=768), RATES, "Large"),
    ),
    (
        Claim("128 wide, 3 layers", "64 wide, 2 layers", "the small model may already learn what so few steps allow."),
        Claim("192 wide, 4 layers", "128 wide, 3 layers", "from scratch, a larger model needs more videos and steps."),
    ),
    delay=2,
)


def _tubelets(recipe: Recipe, frames: int) -> Recipe:
    shape = (frames, *BASE.architecture["tubelet_size"][1:])
    return recipe.model_copy(update={"architecture": {**recipe.architecture, "tubelet_size": shape}})


FIGURE8 = Table(
    "figure8",
    "Figure 8: length of the tubelets",
    "Are shorter tubelets, hence more tokens, better?",
    "Smaller tubelets are better for every model.",
    tuple(
        Row(f"{name}, {frames} frames", _tubelets(recipe, frames), RATES)
        for name, recipe in ((FE, BASE), (ST, JOINT))
        for frames in (2, 4, 8)
    ),
    tuple(
        Claim(f"{name}, {shorter} frames", f"{name}, {longer} frames", "a longer tubelet sees more motion by itself.")
        for name in (FE, ST)
        for shorter, longer in ((2, 4), (4, 8))
    ),
    delay=1,
)


# All training videos serve without labels, but only a fifth, about 300, with labels. With position embeddings as large
# as BASE's, the loss stays where the mean of a tube's neighbours brings it.
PRETRAINING = PretrainRecipe(
    **{
        **BASE.model_dump(),
        **{"batch_size": 32, "min_steps": 3000, "learning_rate": 1e-3, "adam_beta2": 0.95, "position_std": 0.3},
    },
    mask_ratio=0.75,
    decoder_layers=1,
    decoder_size=64,
)


def _no_labels() -> Table:
    few_steps = {"min_steps": 1000}
    factorised, joint = BASE.model_copy(update=few_steps), JOINT.model_copy(update=few_steps)

    def row(name: str, recipe: Recipe, start: Pretrained | None = None) -> Row:
        return Row(name, recipe, RATES, start=start, fraction=0.2)

    def pretrained(recipe: Recipe, **changes: Any) -> Pretrained:
        shape = {"model": recipe.model, "architecture": recipe.architecture}
        return Pretrained(PRETRAINING.model_copy(update={**shape, **changes}))

    probed = joint.model_copy(update={"probe": "attentive"})
    reason = "what fills a hidden tube may not be what a verb depends on."
    return Table(
        "pretraining",
        "Pretraining without labels",
        "Does pretraining on unlabelled videos (masked tubes) help where few have labels?",
        "left open; its authors name it as future work to do without pretrained image models.",
        (
            row(f"{FE}, from scratch", factorised),
            row(f"{FE}, 75 % hidden", factorised, pretrained(factorised)),
            row(f"{FE}, 90 % hidden", factorised, pretrained(factorised, mask_ratio=0.9)),
            row(f"{ST}, from scratch", joint),
            row(f"{ST}, 75 % hidden", joint, pretrained(joint)),
            row(f"{ST}, 75 % hidden, attentive probe", probed, pretrained(joint)),
        ),
        (
            Claim(f"{FE}, 75 % hidden", f"{FE}, from scratch", reason),
            Claim(f"{ST}, 75 % hidden", f"{ST}, from scratch", reason),
            Claim(
                f"{ST}, 75 % hidden, attentive probe",
                f"{ST}, from scratch",
                "a probe learns a head only, from features that were never told of verbs.",
            ),
        ),
        delay=2,
    )


NO_LABELS = _no_labels()


def _frames(frames: int) -> Recipe:
    return JOINT.model_copy(update={"num_frames": frames})


FIGURE9 = Table(
    "figure9",
    "Figure 9: frames and views",
    "Do more frames help, and do more views make up for fewer frames?",
    "More frames raise the accuracy of one view; several views help until they cover the video.",
    tuple(
        Row(f"{frames} frames", _frames(frames), RATES, views=views)
        # One view of 16 frames covers the video.
        for frames, views in ((4, ("1x1", "4x1")), (8, ("1x1", "4x1")), (16, ("1x1",)))
    ),
    (
        Claim("8 frames", "4 frames", "a video's middle may tell the verb already."),
        Claim("16 frames", "8 frames", "a video's middle may tell the verb already."),
        Claim("4 frames", "4 frames", "the mean of views does not know their order.", views=("4x1", "1x1")),
        Claim(
            "16 frames", "4 frames", "views that cover the video see all of it, if not in order.", views=("1x1", "4x1")
        ),
    ),
    delay=1,
)


def _from_image(patch: int, **architecture: Any) -> Recipe:
    """Fine-tuning of an image ViT: 4 × 4 × 4 tokens, as BASE has."""
    return BASE.model_copy(
        update={
            "model": None,
            "image_size": 4 * patch,
            "resize": 4 * patch,
            "architecture": {"tubelet_size": (4, patch, patch), **architecture},
            "min_steps": 1000,
            "precision": "bf16",
        }
    )


def probing(patch: int) -> Table:
    """How much of an image ViT to train, from a head to the whole model."""
    layers = 4
    whole = _from_image(patch, num_layers=layers, variant="factorised_encoder")
    tuned = whole.model_copy(update={"architecture": {**whole.architecture, "temporal_layers": 1}})

    def row(name: str, recipe: Recipe, **change: Any) -> Row:
        return Row(name, recipe.model_copy(update=change), (1e-3, 3e-4), start=ImageStart(None, layers))

    names = ("linear probe", "attentive probe", "temporal encoder", "all of it")
    return Table(
        "probing",
        "Probing, freezing and fine-tuning",
        "How much of an image model has to be trained?",
        "not a table of it; two of its authors found later (arXiv 2306.04822) that model 2's spatial encoder can stay "
        "frozen.",
        (
            row(names[0], whole, probe="linear"),
            row(names[1], whole, probe="attentive"),
            row(names[2], tuned, freeze_spatial=True),
            row(names[3], tuned),
        ),
        (
            Claim(names[1], names[0], "the mean over time, which a linear probe sees, does not know the order."),
            Claim(names[2], names[1], "a temporal encoder has more to learn than a head."),
            Claim(names[3], names[2], "the image model's first layers may tell all that the temporal encoder needs."),
        ),
        delay=2,
    )


def table1(patch: int) -> Table:
    """Table 1, from an image ViT with patches of this many pixels."""
    recipe = _from_image(patch, variant="spatiotemporal")
    frames = {"variant": "spatiotemporal", "tubelet_size": (1, patch, patch), "embedding": "uniform_frames"}
    sampled = recipe.model_copy(update={"architecture": {**frames, "sampled_frames": 4}})
    rates = (1e-3, 5e-4)

    def row(name: str, paper: str, recipe: Recipe, tubelet_init: TubeletInit) -> Row:
        return Row(name, recipe, rates, paper, start=ImageStart(tubelet_init, layers=2))

    names = ("uniform frames", "tubelets, random", "tubelets, filter inflation", "tubelets, central frame")
    return Table(
        "table1",
        "Table 1: embedding and initialisation",
        "How should tokens be made, and how should tubelets start from an image model's patches?",
        "Uniform frames 78.5; tubelets with a random kernel 73.2, with filter inflation 77.6, with the central frame "
        "79.2.",
        (
            row(names[0], "78.5", sampled, "central_frame"),
            row(names[1], "73.2", recipe, "random"),
            row(names[2], "77.6", recipe, "filter_inflation"),
            row(names[3], "79.2", recipe, "central_frame"),
        ),
        (
            Claim(names[3], names[1], "with few steps and few videos, either start may be too far from the goal."),
            Claim(names[3], names[2], "the paper's difference is 1.6 points, less than three seeds may show."),
            Claim(names[3], names[0], "the paper's difference is 0.7 points, less than three seeds may show."),
            Claim(names[2], names[1], "with few steps and few videos, either start may be too far from the goal."),
        ),
        delay=1,
    )


def image_patch(source: str) -> int:
    """The side of an image ViT's patches. Raises UserError if the source cannot be read."""
    return read_image_vit(Source.find(source)).model.config.tubelet_size[1]
