"""`vivit data show`, `vivit data check` and `vivit data pack`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Group, Parameter

from vivit.cli.command import verb
from vivit.cli.options import AUGMENTATION, CLIPS, HARDWARE, INPUT, OUTPUT, Data, Videos, Workers
from vivit.cli.recipe import RecipeName, change_recipe, named_recipe
from vivit.progress import console
from vivit.training.recipes import RECIPES

if TYPE_CHECKING:
    from vivit.training.recipe import Recipe
    from vivit.video.clips import ClipSpec

app = App(
    name="data",
    help="Look at videos before training: show, check, pack.",
    help_epilogue="Options of a verb: vivit data VERB --help",
    usage="Usage: vivit data VERB DATA …",
    group_commands=Group("Verbs"),
)
app["--help"].show = False
show_app = verb("show", "vivit data show my_videos", "vivit data show my_videos --augment --recipe finetune")
check_app = verb("check", "vivit data check my_videos", "vivit data check my_videos --full --fix good.csv")
pack_app = verb(
    "pack",
    "vivit data pack my_videos shards",
    "vivit data pack my_videos shards --short-side 320 --key-frames 32",
)
for position, command in enumerate((show_app, check_app, pack_app)):
    command.sort_key = position
    app.command(command)


@show_app.default
def show(
    data: Data,
    /,
    *,
    split: Annotated[Literal["train", "val", "test", "all"], Parameter(group=INPUT, metavar="NAME")] = "train",
    count: Annotated[int, Parameter(group=INPUT, metavar="N")] = 4,
    seed: Annotated[int, Parameter(group=INPUT, metavar="N")] = 0,
    videos: Videos = None,
    recipe: Annotated[RecipeName, Parameter(group=AUGMENTATION)] = "small",
    augment: Annotated[bool, Parameter(group=AUGMENTATION, negative="")] = False,
    randaugment: Annotated[tuple[int, float] | None, Parameter(group=AUGMENTATION, metavar="LAYERS MAGNITUDE")] = None,
    out: Annotated[Path, Parameter(group=OUTPUT, metavar="PNG")] = Path("clips.png"),
) -> None:
    """Draw some clips, as they are or as training augments them.

    Args:
        split: Which videos to draw from.
        count: How many videos.
        seed: Random seed.
        recipe: The recipe whose clips and augmentation to show.
        augment: Add rows with the same clips, augmented.
        randaugment: Also use RandAugment: number of operations in a row, and their magnitude, up to 30.
        out: The picture.
    """
    from vivit.data.contact_sheet import show
    from vivit.data.readers.listing import open_data
    from vivit.training.plan import build_augmentation

    settings = named_recipe(recipe, RECIPES)
    if randaugment is not None:
        settings = change_recipe(settings, {"randaugment": randaugment})
    video_set = open_data(data, videos).split(split)
    show(video_set, _clip(settings), build_augmentation(settings) if augment else None, out, count, seed)
    console().print(f"written to {out}")


def _clip(settings: "Recipe") -> "ClipSpec":
    """The clips of a recipe."""
    from vivit.video.clips import ClipSpec

    preprocessing, side = settings.build_preprocessing(), settings.image_size or 224
    return ClipSpec(
        num_frames=settings.num_frames or 32,
        stride=preprocessing.frame_stride,
        size=(side, side),
        resize=preprocessing.resize,
        short=preprocessing.short_clips,
        rate=preprocessing.frame_rate,
    )


@check_app.default
def check(
    data: Data,
    /,
    *,
    videos: Videos = None,
    full: Annotated[bool, Parameter(group=INPUT, negative="")] = False,
    recipe: Annotated[RecipeName, Parameter(group=CLIPS)] = "small",
    num_frames: Annotated[int | None, Parameter(group=CLIPS, metavar="N")] = None,
    frame_stride: Annotated[int | None, Parameter(group=CLIPS, metavar="N")] = None,
    frame_rate: Annotated[float | None, Parameter(group=CLIPS, metavar="N")] = None,
    fix: Annotated[Path | None, Parameter(group=OUTPUT, metavar="CSV")] = None,
    out: Annotated[Path | None, Parameter(group=OUTPUT, metavar="JSON")] = None,
    workers: Annotated[int, Parameter(group=HARDWARE, metavar="N", help="Processes that read videos, 1 or more.")] = 2,
) -> int:
    """Read every file, and report what the data holds and what is wrong with it.

    The exit status is 1 if something needs fixing, and 2 if one video has two labels.

    Args:
        full: Decode every frame; otherwise five frames of each file.
        recipe: The recipe whose clips the videos must provide.
        num_frames: Frames in a clip, if not the recipe's.
        frame_stride: Take every n-th frame of the video, if not as in the recipe.
        frame_rate: Sample every video at this many frames a second, if not as in the recipe.
        fix: Write a list of the usable videos only.
        out: The manifest; by default in the user's cache, where train looks for it.
    """
    from vivit.data.check import check

    given = {"num_frames": num_frames, "frame_stride": frame_stride, "frame_rate": frame_rate}
    settings = change_recipe(named_recipe(recipe, RECIPES), {name: n for name, n in given.items() if n is not None})
    return check(data, videos=videos, clip=_clip(settings), workers=workers, full=full, out=out, fix=fix)


@pack_app.default
def pack(
    data: Data,
    out: Annotated[str, Parameter(group=OUTPUT)],
    /,
    *,
    videos: Videos = None,
    short_side: Annotated[int | None, Parameter(group=OUTPUT, metavar="PIXELS")] = None,
    key_frames: Annotated[int | None, Parameter(group=OUTPUT, metavar="N")] = None,
    crf: Annotated[int | None, Parameter(group=OUTPUT, metavar="N")] = None,
    shard_size: Annotated[int, Parameter(group=OUTPUT, metavar="MIB")] = 512,
    workers: Workers = 2,
) -> None:
    """Write the videos into WebDataset shards, as they are or re-encoded.

    With --short-side, --key-frames or --crf, the videos are re-encoded, so training has less to decode.

    Args:
        out: Folder for the shards.
        short_side: Shorter side of the encoded videos, such as 320.
        key_frames: At most this many frames from one key frame to the next, such as 32.
        crf: Quality of the encoded videos; lower is better.
        shard_size: Largest size of a shard, in mebibytes.
    """
    from vivit.data.pack import pack_and_tell

    pack_and_tell(
        data,
        out,
        videos=videos,
        short_side=short_side,
        key_frames=key_frames,
        crf=crf,
        shard_size=shard_size * 2**20,
        workers=workers,
    )
