"""A model's architecture, and how videos are prepared for it."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from vivit.errors import did_you_mean

Variant = Literal[
    "spatiotemporal", "factorised_encoder", "factorised_self_attention", "factorised_dot_product"
]  # models 1 to 4 of the paper, section 3.3

# Bounds far above any model, so that a damaged or hostile config.json cannot claim all memory.
PositiveInt = Annotated[int, Field(ge=1, le=1 << 24)]
Frames = Annotated[int, Field(ge=1, le=1 << 16)]
Stride = Annotated[int, Field(ge=1, le=10_000)]
Pixels = Annotated[int, Field(ge=1, le=1 << 12)]
FrameRate = Annotated[float, Field(gt=0.0, le=1000.0)]
Shorter = Annotated[int, Field(ge=1, le=1 << 13)]  # twice the largest crop
CLIP_BYTES = 1 << 30  # of uint8
Layers = Annotated[int, Field(le=1024)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]


class ModelConfig(BaseModel):
    """The architecture of a ViViT. Frozen; unknown fields and contradictions raise `pydantic.ValidationError`.

    Lengths are in frames and pixels. The defaults are the paper's: ViViT-B/16x2 on 32 frames of 224 × 224.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    variant: Variant = "spatiotemporal"
    """One of the paper's models 1 to 4."""
    num_frames: Frames = 32
    """Frames of a clip."""
    image_size: tuple[Pixels, Pixels] = (224, 224)
    """(height, width); a single number means a square."""
    tubelet_size: tuple[Frames, Pixels, Pixels] = (2, 16, 16)
    """(frames, height, width); `uniform_frames` embeds single frames, so it sets the first to 1."""
    embedding: Literal["tubelet", "uniform_frames"] = "tubelet"
    """What becomes tokens: tubelets, or patches of uniformly sampled frames."""
    sampled_frames: Frames | None = None
    """Number of the clip's frames that `uniform_frames` takes."""
    hidden_size: PositiveInt = 768
    """Width of the tokens."""
    num_layers: Annotated[Layers, Field(ge=1)] = 12
    """Layers of the encoder; in a factorised encoder, of its spatial encoder."""
    num_heads: PositiveInt = 12
    """Attention heads of a layer."""
    mlp_dim: PositiveInt = 3072
    """Width of a layer's MLP."""
    temporal_layers: Annotated[Layers, Field(ge=0)] | None = None
    """Layers of the factorised encoder's temporal encoder (default 4); 0 is the average-pooling baseline."""
    adapter_size: PositiveInt | None = None
    """Width of a bottleneck between the factorised encoder's two encoders; None: no bottleneck."""
    pooling: Literal["token", "mean"] | None = None
    """Classify a class token (`token`, the default of models 1 and 2) or the mean of all tokens (`mean`)."""
    attentive_pooling: bool = False
    """Pool all tokens by cross-attention with a learned query, instead of `pooling`."""
    attention_order: Literal["space_time", "time_space"] | None = None
    """Which attention comes first in a layer of the factorised self-attention model; default `space_time`."""
    representation_size: PositiveInt | None = None
    """Width of a tanh layer between the encoder and the heads; None: no such layer."""
    num_classes: Annotated[int, Field(ge=0, le=1 << 24)] | None = None
    """Classes of the only head; 400 by default. 0: the model has no head, as after pretraining without labels."""
    heads: dict[str, PositiveInt] | None = None
    """Named heads and their class counts, instead of `num_classes`."""
    multi_label: bool = False
    """Whether a video may have any number of classes; each logit then has its own sigmoid."""
    activation: Literal["gelu_tanh", "gelu"] = "gelu_tanh"
    """The tanh form of GELU, as in the official code, or the exact one, as in most image models in PyTorch."""
    norm_eps: Annotated[float, Field(ge=0.0, le=1.0)] = 1e-6
    """Epsilon of the LayerNorms; the official weights use Flax's 1e-6."""
    dropout: Rate = 0.0
    """Dropout rate of embeddings and layers."""
    attention_dropout: Rate = 0.0
    """Dropout rate of attention weights."""
    stochastic_depth: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Rate at the last layer; the rate grows linearly from 0 at the first layer."""
    token_dropping: Rate = 0.0
    """Fraction of each clip's tokens that training drops; 0.75 keeps a quarter."""

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_variant(cls, data: Any) -> Any:
        """Fill in defaults that depend on the variant, so that a built config shows every value in use."""
        if not isinstance(data, Mapping):
            return data
        filled = {key: value for key, value in data.items() if value is not None}
        variant = filled.get("variant", "spatiotemporal")
        filled.setdefault("pooling", "token" if variant in ("spatiotemporal", "factorised_encoder") else "mean")
        if variant == "factorised_encoder":
            filled.setdefault("temporal_layers", 4)
        if variant == "factorised_self_attention":
            filled.setdefault("attention_order", "space_time")
        if filled.get("heads") is None:
            filled.setdefault("num_classes", 400)
        tubelet_size = filled.get("tubelet_size", cls.model_fields["tubelet_size"].default)
        if filled.get("embedding") == "uniform_frames" and isinstance(tubelet_size, list | tuple):
            filled["tubelet_size"] = (1, *tubelet_size[1:])
        return filled

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        # Each message says which field to change, and to what; pydantic adds the class.
        height, width = self.image_size
        if (size := self.num_frames * height * width * 3) > CLIP_BYTES:
            raise ValueError(
                f"num_frames: {self.num_frames} frames of {height} × {width} take {size / 2**30:.1f} GiB, but a clip "
                f"may take {CLIP_BYTES >> 30}; use {CLIP_BYTES // (height * width * 3)} or fewer"
            )
        if self.embedding == "tubelet" and self.sampled_frames is not None:
            raise ValueError('sampled_frames goes with embedding="uniform_frames"; leave it out for tubelets')
        names = ("num_frames:", "image_size: the height", "image_size: the width")
        for name, size, part in zip(names, (self.num_frames, *self.image_size), self.tubelet_size, strict=True):
            if size % part:
                below = size // part * part
                use = f"{below} or {below + part}" if below else part
                raise ValueError(f"{name} {size} is not a multiple of the tubelet's {part}; use {use}")
        if self.embedding == "uniform_frames":
            if self.sampled_frames is None:
                raise ValueError('sampled_frames: embedding="uniform_frames" needs the number of frames to take')
            if self.sampled_frames > self.num_frames:
                raise ValueError(
                    f"sampled_frames: cannot take {self.sampled_frames} frames from a clip of {self.num_frames}; "
                    "lower it or raise num_frames"
                )
        if self.hidden_size % self.num_heads:
            raise ValueError(f"num_heads: {self.num_heads} heads do not divide hidden_size {self.hidden_size}")
        if self.variant == "factorised_dot_product" and self.num_heads % 2:
            raise ValueError(
                f"num_heads: the factorised dot-product model gives half its heads to space and half to time; "
                f"use an even number, not {self.num_heads}"
            )
        if self.pooling == "token" and self.variant in ("factorised_self_attention", "factorised_dot_product"):
            raise ValueError(f'pooling: {self.variant} has no class token; use pooling="mean"')
        owners = {"temporal_layers": "factorised_encoder", "attention_order": "factorised_self_attention"}
        for field, variant in owners.items():
            if getattr(self, field) is not None and self.variant != variant:
                raise ValueError(f"{field} goes with the {variant} model; leave it out for {self.variant}")
        if self.adapter_size is not None and not self.temporal_layers:
            raise ValueError("adapter_size goes with a factorised_encoder that has temporal layers; leave it out")
        if self.attentive_pooling and self.token_dropping:
            raise ValueError("token_dropping: attentive pooling places tokens in time, so it needs all; leave it at 0")
        if self.heads is not None:
            if self.num_classes is not None:
                raise ValueError("num_classes and heads: give one of them, not both")
            if not self.heads:
                raise ValueError('heads: name at least one, as in {"verb": 97, "noun": 300}')
            for name in self.heads:
                if not name.isidentifier():
                    raise ValueError(f"heads: {name!r} is not a valid name; use letters, digits and underscores")
        return self

    @property
    def grid(self) -> tuple[int, int, int]:
        """Number of tokens of a clip along time, height and width: (n_t, n_h, n_w)."""
        frames, height, width = self.tubelet_size
        if self.sampled_frames is None:
            times = self.num_frames // frames
        else:
            times = len(uniform_frame_indices(self.num_frames, self.sampled_frames))
        return times, self.image_size[0] // height, self.image_size[1] // width

    @property
    def class_counts(self) -> dict[str, int]:
        """head → number of classes; a single head without a name is "classes". Empty if the model has no head."""
        return self.heads or ({"classes": self.num_classes} if self.num_classes else {})

    @classmethod
    def named(cls, name: str, **overrides: Any) -> Self:
        """A model by its name in the paper: `vivit-<size>-<patch>x<frames>[-fe|-fsa|-fdp]`, such as `vivit-b-16x2-fe`.

        Sizes are ti, s, b, l and h; no suffix means the spatio-temporal model. `overrides` are fields of the config;
        for uniformly sampled frames, override `embedding` and `sampled_frames`.

        Raises:
            ValueError: the name does not have this form; the message lists the known sizes and variants.
        """
        match = re.fullmatch(r"vivit-([a-z]+)-(\d+)x(\d+)(?:-([a-z]+))?", name)
        size, patch, frames, suffix = match.groups("") if match else [""] * 4
        if size not in SIZES or suffix not in SUFFIXES:
            tubelet = next(iter(re.findall(r"\d+x\d+", name)), "16x2")
            known = (f"vivit-{size}-{tubelet}-{suffix}".rstrip("-") for size in SIZES for suffix in SUFFIXES)
            meant = did_you_mean(name, known)
            raise ValueError(
                f"no model is named {name!r}: use vivit-SIZE-PATCHxFRAMES[-VARIANT] with SIZE one of "
                f"{', '.join(SIZES)} and VARIANT one of {', '.join(filter(None, SUFFIXES))}"
                f"{'; ' + meant if meant else ', such as vivit-b-16x2-fe'}"
            )
        tubelet_size = (int(frames), int(patch), int(patch))
        return cls(**{"variant": SUFFIXES[suffix], "tubelet_size": tubelet_size, **SIZES[size], **overrides})


def uniform_frame_indices(num_frames: int, sampled_frames: int) -> list[int]:
    """Indices of the frames that uniform sampling takes from a clip (Scenic: `video_utils.sample_frames_uniformly`).

    Steps add up in float32 as in the official code, because weights depend on the result: if the sum ends just short of
    the clip's length, there is one frame more than asked for, as for 2 of 8 frames (3, 5 and 7).
    """
    if sampled_frames == num_frames:
        return list(range(num_frames))
    step = num_frames / (sampled_frames + 1)
    times = np.arange(step, num_frames, step, dtype=np.float32)
    return np.minimum(np.round(times).astype(int), num_frames - 1).tolist()


# Base, Large and Huge are the paper's (section 4.1); Tiny and Small are DeiT's, for small hardware.
SIZES: dict[str, dict[str, int]] = {
    "ti": {"hidden_size": 192, "num_layers": 12, "num_heads": 3, "mlp_dim": 768},
    "s": {"hidden_size": 384, "num_layers": 12, "num_heads": 6, "mlp_dim": 1536},
    "b": {"hidden_size": 768, "num_layers": 12, "num_heads": 12, "mlp_dim": 3072},
    "l": {"hidden_size": 1024, "num_layers": 24, "num_heads": 16, "mlp_dim": 4096},
    "h": {"hidden_size": 1280, "num_layers": 32, "num_heads": 16, "mlp_dim": 5120},
}
SUFFIXES: dict[str, Variant] = {
    "": "spatiotemporal",
    "fe": "factorised_encoder",
    "fsa": "factorised_self_attention",
    "fdp": "factorised_dot_product",
}


class Preprocessing(BaseModel):
    """How a video becomes the clips that the weights were trained on; saved with the weights.

    `num_frames` and `image_size` of the config give a clip's frames and crop; pixels are always in [−1, 1].
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    frame_stride: Stride = 2
    """Step, in frames of the video, from one frame of the clip to the next."""
    frame_rate: FrameRate | None = None
    """Frames a second to resample a video to, by skipping or repeating frames. None: the video's own rate."""
    resize: Shorter
    """Length of the shorter side before the crop, in pixels."""
    short_clips: Literal["loop", "pad"] = "loop"
    """A video with too few frames starts again (`loop`) or repeats its last frame (`pad`)."""

    @classmethod
    def of_crop(cls, image_size: tuple[int, int]) -> Self:
        """As in the paper: a shorter side of 256 for a crop of 224, and in proportion for other crops."""
        return cls(resize=max(round(min(image_size) * 256 / 224), *image_size))
