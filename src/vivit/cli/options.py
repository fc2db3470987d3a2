"""Options that several verbs share, each declared once, and the groups of the help pages."""

from pathlib import Path
from typing import Annotated, Literal, TypedDict

from cyclopts import Group, Parameter

from vivit.errors import UserError

INPUT = Group("Input", sort_key=1)
MODEL = Group("Model", sort_key=2)
CLIPS = Group("Clips", sort_key=3)
TIMELINE = Group("Timeline", sort_key=3)
TRAINING = Group("Training", sort_key=4)
REGULARISATION = Group("Regularisation", sort_key=5)
AUGMENTATION = Group("Augmentation", sort_key=6)
OUTPUT = Group("Output", sort_key=7)
HARDWARE = Group("Hardware", sort_key=8)
ARCHITECTURE = Group("Architecture", sort_key=9)

Variant = Literal["spatiotemporal", "factorised_encoder", "factorised_self_attention", "factorised_dot_product"]

Data = Annotated[
    str,
    Parameter(
        group=INPUT,
        help="Labelled videos: a folder with a subfolder for each class, a list, the annotations of a public data set, "
        "or shards (see docs/data.md).",
    ),
]
Videos = Annotated[
    Path | None,
    Parameter(group=INPUT, metavar="FOLDER", help="Folder with the videos that DATA lists, if they are not beside it."),
]
Source = Annotated[
    str,
    Parameter(
        group=INPUT,
        help="A model folder or run, transformers' ViViT, ViT or DINOv2, a Scenic checkpoint, an .npz file, timm's "
        "weights, an ONNX file of an image ViT, or a Hub id.",
    ),
]
Model = Annotated[
    str, Parameter(group=INPUT, metavar="FOLDER", help="A model folder, a run, an exported model, or a Hub id.")
]
# For verbs that an exported model cannot serve.
WeightsModel = Annotated[str, Parameter(group=INPUT, metavar="FOLDER", help="A model folder, a run, or a Hub id.")]

IndexModel = Annotated[
    str | None,
    Parameter(
        group=INPUT,
        metavar="FOLDER",
        help="A model folder, a run, or a Hub id; by default the one that made the index; for a new one camera-motion.",
    ),
]

Views = Annotated[
    str, Parameter(group=CLIPS, metavar="TxS", help="T clips of each video, S crops of each clip; S is 1 or 3.")
]

Device = Annotated[str, Parameter(group=HARDWARE, metavar="NAME", help="auto, cpu or cuda.")]
Precision = Annotated[
    Literal["auto", "f32", "bf16", "fp16", "int8"],
    Parameter(
        group=HARDWARE,
        metavar="NAME",
        help="Precision of most arithmetic: auto is bf16 where the hardware makes it faster, else f32; int8 is for "
        "exported models.",
    ),
]
Merge = Annotated[
    float,
    Parameter(
        group=HARDWARE,
        metavar="RATIO",
        help="Merge this part of the tokens into similar ones, 0 to 0.95: faster, less accurate; see "
        "docs/predicting.md.",
    ),
]
MergeOver = Annotated[
    Literal["space", "time", "both"] | None,
    Parameter(
        group=HARDWARE,
        metavar="AXIS",
        help="Which tokens may merge: those of one moment (space), those of one place (time), or all (both). By "
        "default both in the spatio-temporal model, else space.",
    ),
]
Workers = Annotated[
    int, Parameter(group=HARDWARE, metavar="N", help="Processes that read videos; 0 reads in the main process.")
]
Decoder = Annotated[
    Literal["pyav", "torchcodec", "nvdec"],
    Parameter(
        group=HARDWARE,
        metavar="NAME",
        help="Video decoder. torchcodec needs the packages torchcodec and FFmpeg; nvdec needs a GPU, too.",
    ),
]
Timeout = Annotated[
    float | None,
    Parameter(
        group=HARDWARE,
        metavar="SECONDS",
        help="Read each video in its own process, and kill that process after this time.",
    ),
]

KeepDecoded = Annotated[
    bool, Parameter(group=HARDWARE, negative="", help="Keep decoded videos in memory; for data that fits.")
]
CheckpointEvery = Annotated[
    float, Parameter(group=OUTPUT, metavar="SECONDS", help="Time between checkpoints within an epoch.")
]

# How scores over time become segments; vivit.inference.timeline repeats the defaults.
Step = Annotated[
    int | None,
    Parameter(
        group=TIMELINE,
        metavar="FRAMES",
        help="Frames from one window to the next. By default one tubelet for a factorised encoder, whose windows share "
        "work, and a quarter of a window for other models.",
    ),
]
Smooth = Annotated[float, Parameter(group=TIMELINE, metavar="SECONDS", help="Average the scores over this time.")]
Threshold = Annotated[float, Parameter(group=TIMELINE, metavar="P", help="The lowest probability of a label.")]
Shortest = Annotated[
    float,
    Parameter(group=TIMELINE, metavar="SECONDS", help="Drop shorter segments, and close shorter gaps within one."),
]
Background = Annotated[
    tuple[str, ...],
    Parameter(group=TIMELINE, metavar="CLASS…", consume_multiple=True, help="Classes that do not count as segments."),
]


class Fields(TypedDict, total=False):
    """Fields of ModelConfig that weights do not determine or that can be changed."""

    variant: Annotated[
        Variant | None,
        Parameter(
            group=MODEL,
            metavar="NAME",
            help="The variant to make from an image ViT, or that a Scenic checkpoint holds.",
        ),
    ]
    attention_order: Annotated[
        Literal["space_time", "time_space"] | None,
        Parameter(group=MODEL, metavar="ORDER", help="Which attention comes first in factorised self-attention."),
    ]
    heads: Annotated[
        tuple[str, ...],
        Parameter(
            group=MODEL,
            metavar="NAME=N…",
            consume_multiple=True,
            help="Names and sizes of several heads, such as noun=300 verb=97.",
        ),
    ]
    num_frames: Annotated[int | None, Parameter(group=CLIPS, metavar="N", help="Frames of a clip.")]
    image_size: Annotated[
        tuple[int, int] | int | None,
        Parameter(group=CLIPS, metavar="HEIGHT [WIDTH]", help="Size of the crop, in pixels."),
    ]
    sampled_frames: Annotated[
        int | None,
        Parameter(group=CLIPS, metavar="N", help="Embed this many uniformly sampled frames instead of tubelets."),
    ]


FieldFlags = Annotated[Fields | None, Parameter(name="*")]


def check_new(path: Path) -> None:
    """Raise UserError if the file exists already, or its folder does not."""
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; create it first")
    if path.exists():
        raise UserError(f"{path}: exists already; choose another name")


def check_step(step: int | None) -> None:
    """Raise UserError if windows cannot start this many frames apart."""
    if step is not None and step < 1:
        raise UserError(f"step: {step} frames is out of range; give 1 or more")
