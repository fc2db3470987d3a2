"""A recipe: every setting that decides what a training run learns."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from vivit.config import FrameRate, Frames, ModelConfig, Pixels, PositiveInt, Preprocessing, Rate, Shorter, Stride
from vivit.labels import head_fields

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]


def new_name(precision: object) -> object:
    """Rename float32, which recipes of older runs say, to f32."""
    return "f32" if precision == "float32" else precision


class Recipe(BaseModel):
    """Every setting that decides what a run learns; the defaults are the paper's for Kinetics-400 (table 7)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: str | None = None
    """A named size, such as vivit-ti-16x2-fe. None: the size of the --init weights, else vivit-b-16x2-fe."""
    num_frames: Frames | None = None
    """Frames in a clip. None: as the --init weights, else 32."""
    frame_stride: Stride | None = None
    """Take every n-th frame of the video. None: as the --init weights, else 2."""
    frame_rate: FrameRate | None = None
    """Sample every video at this many frames a second, for videos of different rates. None: as the --init weights, else
    each video's own rate."""
    image_size: Pixels | None = None
    """Side of the square crop in pixels. None: as the --init weights, else 224."""
    resize: Shorter | None = None
    """Shorter side in pixels before the crop. None: as the --init weights, else 256 for a crop of 224, in
    proportion."""
    architecture: dict[str, Any] = {}
    """Other fields of ModelConfig."""

    epochs: PositiveInt = 30
    """Passes over the training videos."""
    min_steps: Annotated[int, Field(ge=0)] = 0
    """Train for at least this many steps; with few videos, this means more epochs."""
    batch_size: PositiveInt = 64
    """Clips per update, over all processes."""
    accumulate: PositiveInt = 1
    """Compute each update in this many micro-batches, to save memory."""
    optimiser: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum 0.9, or AdamW."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """AdamW's β2: the decay rate of its mean of squared gradients."""
    learning_rate: Positive = 0.1
    """Peak learning rate, reached after warm-up; then it follows a cosine to 0."""
    learning_rate_batch: PositiveInt | None = None
    """Batch size that the learning rate is for; scale the rate linearly for other sizes. None: never."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Multiply the learning rate by this for each layer below the head; 1 gives all layers the same rate."""
    warmup_epochs: NotNegative = 2.5
    """Epochs of linear warm-up."""
    weight_decay: NotNegative = 0.0
    """Weight decay of kernels; biases, norms, tokens and positions have none."""
    clip_norm: Positive | None = 1.0
    """Clip the gradient to this norm; None never clips."""
    label_smoothing: Rate = 0.0
    """Spread this fraction of each label over all classes."""
    stochastic_depth: Rate = 0.0
    """Probability of skipping the last layer, falling linearly to 0 at the first."""
    dropout: Rate = 0.0
    """Dropout rate."""
    token_dropping: Rate = 0.0
    """Drop this fraction of each training clip's tokens, chosen anew each time; 0.75 leaves a quarter."""
    freeze_spatial: bool = False
    """Freeze the factorised encoder's spatial encoder and train the rest on its features, which are computed once."""
    probe: Literal["linear", "attentive"] | None = None
    """Freeze the whole encoder and train a new head on its features: linear, on the class token or the mean of the
    tokens, or one that attends to all tokens. Features are computed once."""
    adapter_size: PositiveInt | None = None
    """Width of a bottleneck between the factorised encoder's two encoders; None adds no bottleneck."""
    cached_clips: PositiveInt = 1
    """With --freeze-spatial or --probe: encode this many clips of each video and use them in turn, one per epoch."""
    ema: Rate = 0.0
    """Keep an exponential moving average of the weights with this decay; 0 keeps the last weights."""
    precision: Annotated[Literal["auto", "f32", "bf16", "fp16"], BeforeValidator(new_name)] = "f32"
    """Precision of most arithmetic; weights stay float32. auto: bf16 where the hardware makes it quicker, else f32."""
    position_std: Positive = 0.02
    """Standard deviation of new position embeddings. From scratch, a small model learns motion sooner if this is about
    the size of its tokens."""
    scale_jitter: tuple[Positive, Positive] | None = (0.9, 1.33)
    """Scale height and width of a clip, each by a random factor in this range, before the crop. None: off."""
    flip: Probability | None = None
    """Probability of mirroring a clip. None: 0.5, or 0 if a class name says left or right and no other class is its
    mirror image."""
    mirrored: dict[str, str] = {}
    """Pairs of classes that swap when a clip is mirrored, if their names do not show it."""
    colour_jitter: Probability = 0.8
    """Probability of changing a clip's brightness, saturation, contrast and hue."""
    grey_scale: Probability = 0.0
    """Probability of turning a clip grey."""
    randaugment: tuple[PositiveInt, NotNegative] | None = None
    """RandAugment: number of operations in a row, and their magnitude from 0 to 30. None: off."""
    mixup: NotNegative = 0.0
    """Mixup: blend pairs of clips with a weight from Beta(a, a), where a is this value; 0 is off."""
    cutmix: NotNegative = 0.0
    """CutMix: paste a box of one clip into another, its size from Beta(a, a); with Mixup, each batch gets either."""
    unreadable: Probability = 0.05
    """Stop if more than this fraction of the training videos is unreadable; otherwise replace them with others."""
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    """Seed for all random numbers."""

    @property
    def frozen(self) -> str | None:
        """The flag that freezes part of the model, as the user gives it; None if the whole model is trained."""
        return "--freeze-spatial" if self.freeze_spatial else None if self.probe is None else f"--probe {self.probe}"

    @property
    def mixes(self) -> bool:
        """Whether Mixup or CutMix mixes pairs of clips in a batch."""
        return bool(self.mixup or self.cutmix)

    def build_config(self, heads: Mapping[str, int], multi_label: bool = False) -> ModelConfig:
        """The architecture of a model trained from scratch.

        Args:
            heads: head → number of classes; a single head without a name is "classes".
            multi_label: whether a video may have any number of classes.

        Raises:
            ValueError: the fields contradict each other.
        """
        fields = {**head_fields(heads), **self.config_fields(multi_label)}
        return ModelConfig.named(self.model or "vivit-b-16x2-fe", **fields)

    def config_fields(self, multi_label: bool) -> dict[str, Any]:
        """The fields of ModelConfig that recipe and data set; None leaves a field to the weights or its default."""
        fields = ("num_frames", "image_size", "dropout", "stochastic_depth", "token_dropping", "adapter_size")
        given = {field: getattr(self, field) for field in fields}
        given |= {"attentive_pooling": True} if self.probe == "attentive" else {}
        return {**given, "attention_dropout": 0.0, "multi_label": multi_label, **self.architecture}

    def build_preprocessing(self) -> Preprocessing:
        side = self.image_size or 224
        return Preprocessing(
            frame_stride=self.frame_stride or 2,
            frame_rate=self.frame_rate,
            resize=self.resize or Preprocessing.of_crop((side, side)).resize,
        )


class PretrainRecipe(Recipe):
    """A recipe for pretraining on videos without labels; settings for labels and heads have no effect."""

    model: str | None = None
    """A named size of model 1 or 2, such as vivit-ti-16x2-fe. None: vivit-b-16x2-fe."""
    num_frames: Frames | None = None
    """Frames in a clip. None: 32."""
    frame_stride: Stride | None = None
    """Take every n-th frame of the video. None: 2."""
    frame_rate: FrameRate | None = None
    """Sample every video at this many frames a second, for videos of different rates. None: each video's own rate."""
    image_size: Pixels | None = None
    """Side of the square crop in pixels. None: 224."""
    resize: Shorter | None = None
    """Shorter side in pixels before the crop. None: 256 for a crop of 224, in proportion."""
    flip: Probability | None = None
    """Probability of mirroring a clip. None: 0.5."""
    mask_ratio: Rate = 0.9
    """Fraction of spatial positions to hide from the encoder, the same ones throughout a clip."""
    decoder_layers: PositiveInt = 4
    """Layers of the decoder, which predicts what is hidden and is discarded at the end."""
    decoder_size: Annotated[int, Field(ge=32, le=1 << 16, multiple_of=32)] = 384
    """Width of the decoder, a multiple of 32, the size of its attention heads."""
