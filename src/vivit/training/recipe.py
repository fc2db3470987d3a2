"""How to train: one value says all that decides what a run gives."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vivit.config import ModelConfig, PositiveInt, Preprocessing, Rate

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Recipe(BaseModel):
    """Everything that decides what a training run gives."""

    # Without anything given it is the paper's for Kinetics-400 (table 7).

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = None
    """A named size, such as vivit-ti-16x2-fe. By default it is that of the weights that training starts from, else
    vivit-b-16x2-fe."""
    num_frames: PositiveInt | None = None
    """Frames of a clip; by default as the weights have it that training starts from, else 32."""
    frame_stride: PositiveInt | None = None
    """Frames of the video from one frame of the clip to the next; by default as the start has it, else 2."""
    image_size: PositiveInt | None = None
    """Side of the square crop, in pixels; by default as the start has it, else 224."""
    resize: PositiveInt | None = None
    """Shorter side before the crop, in pixels; by default as the start has it, or as 256 is to a crop of 224."""
    architecture: dict[str, Any] = {}
    """Further fields of ModelConfig."""

    epochs: PositiveInt = 30
    min_steps: Annotated[int, Field(ge=0)] = 0
    """Where the epochs have fewer steps than this, as with few videos, there are more epochs."""
    batch_size: PositiveInt = 64
    """Clips of an update, of all processes together."""
    accumulate: PositiveInt = 1
    """Parts in which each process computes its clips of an update, one after the other, to save memory."""
    optimiser: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum 0.9, or AdamW."""
    learning_rate: Positive = 0.1
    """The highest, after warm-up; it falls to 0 along a cosine."""
    learning_rate_batch: PositiveInt | None = None
    """The batch that this learning rate is for; with another batch it changes in proportion."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of each layer as a share of that of the one above it; 1 is the same for all."""
    warmup_epochs: NotNegative = 2.5
    weight_decay: NotNegative = 0.0
    """On kernels only, not on biases, norms, tokens and positions."""
    clip_norm: Positive | None = 1.0
    """The gradient's norm is scaled down to this."""
    label_smoothing: Rate = 0.0
    stochastic_depth: Rate = 0.0
    dropout: Rate = 0.0
    token_dropping: Rate = 0.0
    """Share of each training clip's tokens that is dropped, drawn anew each time; 0.75 keeps a quarter."""
    freeze_spatial: bool = False
    """Train only what follows the factorised encoder's spatial encoder, from features that are computed once."""
    adapter_size: PositiveInt | None = None
    """Width of a bottleneck between the factorised encoder's two encoders; None leaves it out."""
    cached_clips: PositiveInt = 1
    """With a frozen spatial encoder: how many clips of each video are seen, in turn, over the epochs."""
    ema: Rate = 0.0
    """The model that is kept is an average of the weights over the steps, which decays by this; 0 is the last."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "float32"
    """Of most arithmetic; the weights are float32. auto is bf16 on a GPU that has it, else float32."""
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

    @property
    def mixes(self) -> bool:
        """Whether clips of a batch are put together in pairs."""
        return bool(self.mixup or self.cutmix)

    def build_config(self, heads: Mapping[str, int], multi_label: bool = False) -> ModelConfig:
        """The architecture for so many classes of each head; the one without a name is "classes".

        Raises ValueError where the fields contradict each other.
        """
        fields = {
            "num_frames": self.num_frames or 32,
            "image_size": self.image_size or 224,
            "dropout": self.dropout,
            "stochastic_depth": self.stochastic_depth,
            "token_dropping": self.token_dropping,
            "adapter_size": self.adapter_size,
            "multi_label": multi_label,
            **({"num_classes": heads["classes"]} if list(heads) == ["classes"] else {"heads": dict(heads)}),
        }
        return ModelConfig.named(self.model or "vivit-b-16x2-fe", **{**fields, **self.architecture})

    def build_preprocessing(self) -> Preprocessing:
        side = self.image_size or 224
        return Preprocessing(
            frame_stride=self.frame_stride or 2, resize=self.resize or Preprocessing.of_crop((side, side)).resize
        )
