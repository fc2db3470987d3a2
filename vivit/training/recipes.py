"""How to train: one value says all. Each recipe's docstring has its command, hardware, time and score."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vivit.config import ModelConfig, PositiveInt, Preprocessing, Rate
from vivit.video.augment import Augmentation

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Recipe(BaseModel):
    """Everything that decides what a training run gives."""

    # Without anything given it is the paper's for Kinetics-400 (table 7).

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "vivit-b-16x2-fe"
    """A named size, such as vivit-ti-16x2-fe."""
    num_frames: PositiveInt = 32
    """Frames of a clip."""
    frame_stride: PositiveInt = 2
    """Frames of the video from one frame of the clip to the next."""
    image_size: PositiveInt = 224
    """Side of the square crop, in pixels."""
    resize: PositiveInt | None = None
    """Shorter side before the crop, in pixels; by default in the paper's ratio, 256 to 224."""
    architecture: dict[str, Any] = {}
    """Further fields of ModelConfig."""

    epochs: PositiveInt = 30
    batch_size: PositiveInt = 64
    optimiser: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum 0.9, or AdamW."""
    learning_rate: Positive = 0.1
    """The highest, after warm-up; it falls to 0 along a cosine."""
    warmup_epochs: NotNegative = 2.5
    weight_decay: NotNegative = 0.0
    """On kernels only, not on biases, norms, tokens and positions."""
    clip_norm: Positive | None = 1.0
    """The gradient's norm is scaled down to this."""
    label_smoothing: Rate = 0.0
    stochastic_depth: Rate = 0.0
    position_std: Positive = 0.02
    """Deviation of fresh position embeddings. A small model that learns from scratch where things move starts faster
    with more, of the size of its tokens."""
    scale_jitter: tuple[Positive, Positive] | None = (0.9, 1.33)
    """Height and width of a clip are each scaled by a factor between these two before the crop."""
    flip: Probability | None = None
    """How often a clip is mirrored: by default half the time, but never where a class name speaks of left or right and
    no other class is its mirror."""
    mirrored: dict[str, str] = {}
    """Classes that become each other in a mirrored clip, where their names do not tell."""
    colour_jitter: Probability = 0.8
    """How often brightness, saturation, contrast and hue of a clip change."""
    grey_scale: Probability = 0.0
    """How often a clip loses its colours."""
    randaugment: tuple[PositiveInt, NotNegative] | None = None
    """How many operations in a row, and their magnitude up to 30."""
    mixup: NotNegative = 0.0
    """Two clips are averaged, by a share of Beta(this, this)."""
    cutmix: NotNegative = 0.0
    """A box of one clip is put into another, by a share of Beta(this, this); with Mixup, either for each batch."""
    unreadable: Probability = 0.05
    """Training stops when a larger share of the videos cannot be read; until then others are drawn in their place."""
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0

    def build_config(self, heads: Mapping[str, int], multi_label: bool = False) -> ModelConfig:
        """The architecture for so many classes of each head; the one without a name is "classes".

        Raises ValueError where the fields contradict each other.
        """
        fields = {
            "num_frames": self.num_frames,
            "image_size": self.image_size,
            "stochastic_depth": self.stochastic_depth,
            "multi_label": multi_label,
            **({"num_classes": heads["classes"]} if list(heads) == ["classes"] else {"heads": dict(heads)}),
        }
        return ModelConfig.named(self.model, **{**fields, **self.architecture})

    def build_augmentation(self) -> Augmentation:
        """Raises UserError where the fields contradict each other."""
        return Augmentation(
            scale_jitter=self.scale_jitter,
            flip=0.5 if self.flip is None else self.flip,
            colour_jitter=self.colour_jitter,
            grey_scale=self.grey_scale,
            randaugment=self.randaugment,
        )

    def build_preprocessing(self) -> Preprocessing:
        default = Preprocessing.of_crop((self.image_size, self.image_size))
        return Preprocessing(frame_stride=self.frame_stride, resize=self.resize or default.resize)


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
