"""The `vivit` command: one thin function for each verb. What a verb needs is imported when it is called."""

import io
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from functools import wraps
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from pydantic import ValidationError

from vivit.errors import Stopped, UserError, one_line

if TYPE_CHECKING:
    from vivit.inference.predictor import Predictor
    from vivit.training.recipe import Recipe

Device = Annotated[str, tyro.conf.arg(help="auto, cpu or cuda", metavar="NAME")]
Views = Annotated[str, tyro.conf.arg(help="clips x crops of each video, crops 1 or 3", metavar="TxS")]
Workers = Annotated[int, tyro.conf.arg(help="processes that read videos")]
Data = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(
        help="folder of class folders, list, public set's annotations or shards (docs/data.md)", metavar="DATA"
    ),
]
Source = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(
        help="model folder or run; transformers' ViViT or ViT; Scenic checkpoint; .npz or timm's weights; or a Hub id",
        metavar="SOURCE",
    ),
]


def _unset(help: str, metavar: str) -> object:
    """An option that is not set by default, of which the help need not say so."""
    return tyro.conf.arg(help=help, metavar=metavar, help_behavior_hint="")


Videos = Annotated[
    Path | None, _unset(help="folder with the videos that DATA lists, where it is another", metavar="FOLDER")
]
Timeout = Annotated[
    float | None,
    _unset(help="read each video in a process of its own, ended after so many seconds", metavar="SECONDS"),
]
ReadWith = Annotated[
    Literal["pyav", "torchcodec", "nvdec"],
    tyro.conf.arg(help="pyav needs nothing more; torchcodec and, on a GPU, nvdec need torchcodec and FFmpeg"),
]

# What Scenic's weights do not tell of themselves.
VariantOfWeights = Annotated[
    Literal["spatiotemporal", "factorised_encoder", "factorised_self_attention", "factorised_dot_product"] | None,
    _unset(
        help="the model to make of an image ViT, or what Scenic's weights are: spatiotemporal, factorised_encoder, "
        "factorised_self_attention or factorised_dot_product",
        metavar="NAME",
    ),
]
NumFrames = Annotated[int | None, _unset(help="frames of a clip", metavar="N")]
ImageSize = Annotated[int | tuple[int, int] | None, _unset(help="of the crop", metavar="HEIGHT [WIDTH]")]
SampledFrames = Annotated[int | None, _unset(help="frames taken uniformly, in place of tubelets", metavar="N")]
AttentionOrder = Annotated[
    Literal["space_time", "time_space"] | None,
    _unset(help="of factorised self-attention: space_time or time_space", metavar="ORDER"),
]
Heads = Annotated[tuple[str, ...], _unset(help="names of several heads, as in noun=300 verb=97", metavar="NAME=N")]
Model = Annotated[str, tyro.conf.arg(help="a model or run folder, or a Hub id", metavar="FOLDER")]


def demo(arguments: Sequence[str]) -> int:
    """Make camera-motion videos, learn to name them, and write a report"""

    def command(
        out: Annotated[Path, tyro.conf.arg(help="folder for videos, models and report.html")] = Path("demo"),
        videos: Annotated[int, tyro.conf.arg(help="videos to train on")] = 3000,
        device: Device = "auto",
        workers: Workers = 2,
    ) -> None:
        from vivit.experiments.demo import run

        run(out, videos, device, workers)

    _parse("demo", command, arguments)
    return 0


def train(arguments: Sequence[str]) -> int:
    """Train a model on labelled videos; train report RUN writes its page"""
    if arguments[:1] == ["report"]:
        return _train_report(arguments[1:])
    from vivit.training.recipe import Recipe
    from vivit.training.recipes import default_recipe

    # The recipe decides the defaults of the other flags, so it is read before them.
    words = [word for argument in arguments for word in argument.split("=", 1)]
    given = dict(pairwise(words))
    default = default_recipe(given.get("--init"))
    name = given.get("--recipe", default)
    settings = _recipe(name)

    def command(
        data: Data,
        init: Annotated[
            str | None,
            _unset(
                help="weights to start from: a ViViT or image ViT of any kind, as vivit convert takes it",
                metavar="SOURCE",
            ),
        ] = None,
        out: Annotated[
            Path | None,
            _unset(
                help="the run's folder; begun before, it is continued (default: runs/ and the data's name)",
                metavar="RUN",
            ),
        ] = None,
        settings: tyro.conf.OmitArgPrefixes[tyro.conf.FlagCreatePairsOff[Recipe]] = settings,
        recipe: Annotated[
            str, tyro.conf.arg(help="where the settings come from that are not given", metavar="NAME")
        ] = name,
        overfit: Annotated[
            int | None,
            _unset(help="learn so many batches by heart, to see that model and data are sound", metavar="BATCHES"),
        ] = None,
        videos: Videos = None,
        device: Device = "auto",
        workers: Workers = 2,
        compile: Annotated[
            tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(help="compile each transformer block")
        ] = False,
        activation_checkpointing: Annotated[
            tyro.conf.FlagCreatePairsOff[bool],
            tyro.conf.arg(help="less memory, more time: compute activations again for the gradient"),
        ] = False,
        shard: Annotated[
            tyro.conf.FlagCreatePairsOff[bool],
            tyro.conf.arg(help="under torchrun: spread weights and the optimiser's state over the processes (FSDP2)"),
        ] = False,
        checkpoint_every: Annotated[
            float, tyro.conf.arg(help="seconds between checkpoints within an epoch", metavar="SECONDS")
        ] = 600.0,
        track: Annotated[
            Literal["wandb", "trackio"] | None,
            _unset(help="where curves go besides TensorBoard: wandb or trackio", metavar="NAME"),
        ] = None,
        keep_decoded: Annotated[
            tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(help="keep decoded videos in memory, where they fit")
        ] = False,
        decoder: ReadWith = "pyav",
        timeout: Timeout = None,
    ) -> None:
        from vivit.report.run_page import write_report
        from vivit.training.train import train
        from vivit.video.source import name_of

        run = out or Path("runs") / name_of(data)
        train(
            data,
            run,
            settings,
            init=init,
            videos=videos,
            device=device,
            workers=workers,
            keep_decoded=keep_decoded,
            decoder=decoder,
            timeout=timeout,
            compile=compile,
            activation_checkpointing=activation_checkpointing,
            shard=shard,
            checkpoint_every=checkpoint_every,
            track=track,
            overfit=overfit,
        )
        if _rank() == 0:
            print(f"report: {write_report(run)}")
            print(f"the model is in {run}; try: vivit predict VIDEO --model {run}")

    _parse("train", command, arguments)
    return 0


def _recipe(name: str) -> "Recipe":
    from vivit.training.recipes import RECIPES

    if name not in RECIPES:
        raise UserError(f"recipe: no {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]


def _train_report(arguments: Sequence[str]) -> int:
    """Write a run's page: curves, scores, mistakes, settings, cost"""

    def command(
        run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="the run's folder", metavar="RUN")],
        data: Annotated[str | None, _unset(help="the run's data, where it lies elsewhere now", metavar="DATA")] = None,
        videos: Videos = None,
    ) -> None:
        from vivit.report.run_page import write_report

        print(f"written to {write_report(run, data, videos)}")

    _call("vivit train report", command, _train_report.__doc__, arguments)
    return 0


def evaluate(arguments: Sequence[str]) -> int:
    """Score a model on labelled videos, from several views of each"""

    def command(
        data: Data,
        model: Model,
        views: Views = "4x3",
        split: Annotated[
            Literal["val", "test", "train", "all"],
            tyro.conf.arg(help="val is what training held out; all: every video, where the data has no splits"),
        ] = "val",
        out: Annotated[
            Path | None,
            _unset(
                help="folder for scores.json, per_video.csv and pictures; by default in the model's", metavar="FOLDER"
            ),
        ] = None,
        average: Annotated[
            Literal["logits", "probabilities"], tyro.conf.arg(help="what is averaged over the views")
        ] = "logits",
        per_video: Annotated[
            Path | None, _unset(help="a .parquet or .csv file for the answer to each video", metavar="FILE")
        ] = None,
        videos: Videos = None,
        device: Device = "auto",
        workers: Workers = 2,
        decoder: ReadWith = "pyav",
        timeout: Timeout = None,
    ) -> None:
        from vivit.evaluation.score import score_model
        from vivit.inference.views import Views
        from vivit.video.options import ReadOptions

        score_model(
            data,
            model,
            views=Views.parse(views, average),
            split=split,
            out=out,
            per_video=per_video,
            videos_in=videos,
            device=device,
            read=ReadOptions(decoder, timeout, workers),
        )

    _parse("evaluate", command, arguments)
    return 0


def predict(arguments: Sequence[str]) -> int:
    """Label videos"""
    exit_status = 0

    def command(
        files: Annotated[tuple[Path, ...], tyro.conf.Positional, _unset(help="the videos", metavar="FILES…")],
        model: Model,
        views: Views = "1x1",
        top: Annotated[int, tyro.conf.arg(help="how many labels to show of each")] = 5,
        json: Annotated[
            tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(help="print a JSON object in a line for each file")
        ] = False,
        device: Device = "auto",
        decoder: ReadWith = "pyav",
        timeout: Timeout = None,
    ) -> None:
        nonlocal exit_status
        if not files:
            raise UserError("FILES: name at least one video")
        if top < 1:
            raise UserError(f"top: {top} labels cannot be shown; give 1 or more")
        from vivit.inference.predictor import Predictor
        from vivit.video.options import ReadOptions
        from vivit.video.sampling import parse_views

        parse_views(views)
        exit_status = _predict_files(files, Predictor(model, device, ReadOptions(decoder, timeout)), views, top, json)

    _parse("predict", command, arguments)
    return exit_status


def _predict_files(files: Sequence[Path], predictor: "Predictor", views: str, top: int, as_json: bool) -> int:
    """Print an answer for each file; 2 where one could not be read, else 0."""
    from vivit.video.source import VideoError

    exit_status = 0
    for file in files:
        try:
            prediction = predictor.predict(file, views)
        except VideoError as error:
            print(f"vivit: {error}", file=sys.stderr, flush=True)
            exit_status = 2
            continue
        if as_json:
            print(json.dumps(prediction.to_json(top), ensure_ascii=False), flush=True)
            continue
        print(file)
        for head, labels in prediction.heads.items():
            for scored in labels[:top]:
                part = "" if head == "classes" else f"  {head:10s}"
                print(f"{part}  {scored.score:6.1%}  {scored.label}", flush=True)
    return exit_status


def experiment(arguments: Sequence[str]) -> int:
    """Make the videos of an experiment: camera-motion"""

    def command(
        name: Annotated[Literal["camera-motion"], tyro.conf.Positional],
        out: Annotated[Path, tyro.conf.arg(help="folder for train/ and val/")],
        train_videos: Annotated[int, tyro.conf.arg(help="videos to train on")] = 3000,
        val_videos: Annotated[int, tyro.conf.arg(help="videos held out")] = 450,
        seed: int = 0,
    ) -> None:
        from vivit.experiments.demo import generate_with_progress

        generate_with_progress(out, train_videos, val_videos, seed)

    _parse("experiment", command, arguments)
    return 0


def convert(arguments: Sequence[str]) -> int:
    """Turn weights of any kind into a model folder"""

    def command(
        source: Source,
        out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="the folder to write", metavar="OUT")],
        to: Annotated[
            Literal["vivit", "huggingface"], tyro.conf.arg(help="our folder, or one that transformers loads")
        ] = "vivit",
        variant: VariantOfWeights = None,
        num_frames: NumFrames = None,
        image_size: ImageSize = None,
        tubelet_size: Annotated[
            tuple[int, int, int] | None, _unset(help="of a tubelet", metavar="FRAMES HEIGHT WIDTH")
        ] = None,
        tubelet_init: Annotated[
            Literal["central_frame", "filter_inflation", "random"] | None,
            _unset(
                help="where a longer tubelet's kernel comes from: central_frame, filter_inflation, random",
                metavar="HOW",
            ),
        ] = None,
        sampled_frames: SampledFrames = None,
        attention_order: AttentionOrder = None,
        num_classes: Annotated[int | None, _unset(help="for a fresh head", metavar="N")] = None,
        classes: Annotated[
            tuple[str, ...],
            _unset(help="file with a class name in each line; for several heads noun=FILE verb=FILE", metavar="FILE"),
        ] = (),
        heads: Heads = (),
        licence: Annotated[str | None, _unset(help="of the weights, for the model card", metavar="NAME")] = None,
    ) -> None:
        from vivit.weights.convert import convert

        model = convert(
            source,
            out,
            to,
            tubelet_init,
            _read_classes(classes),
            licence,
            variant=variant,
            num_frames=num_frames,
            image_size=image_size,
            tubelet_size=tubelet_size,
            sampled_frames=sampled_frames,
            attention_order=attention_order,
            num_classes=num_classes,
            heads=_read_heads(heads),
        )
        for line in model.report:
            print(line)
        print(f"written to {out}")

    _parse("convert", command, arguments)
    return 0


def _read_classes(files: Sequence[str]) -> list[str] | dict[str, list[str]] | None:
    """The names in one file, or head → the names in its file."""
    if len(files) == 1 and "=" not in files[0]:
        return _read_names(Path(files[0]))
    names = {}
    for file in files:
        head, equals, path = file.partition("=")
        if not equals or head in names:
            raise UserError(f"classes: {file!r}: give one file, or one for each head, as in noun=nouns.txt")
        names[head] = _read_names(Path(path))
    return names or None


def _read_names(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file in UTF-8"
        raise UserError(f"{path}: {reason}") from None
    if not names:
        raise UserError(f"{path}: no class names")
    return names


def _read_heads(heads: Sequence[str]) -> dict[str, int] | None:
    counts = {}
    for head in heads:
        name, _, count = head.partition("=")
        if not count.isdecimal():
            raise UserError(f"heads: {head!r}: give a name and a number of classes, as in noun=300")
        if name in counts:
            raise UserError(f"heads: {name} is named twice")
        counts[name] = int(count)
    return counts or None


def info(arguments: Sequence[str]) -> int:
    """Tell what a model is, and where its weights come from"""

    def command(
        source: Source,
        variant: VariantOfWeights = None,
        num_frames: NumFrames = None,
        image_size: ImageSize = None,
        sampled_frames: SampledFrames = None,
        attention_order: AttentionOrder = None,
        heads: Heads = (),
    ) -> None:
        from vivit.weights.describe import describe_source

        about = describe_source(
            source,
            variant=variant,
            num_frames=num_frames,
            image_size=image_size,
            sampled_frames=sampled_frames,
            attention_order=attention_order,
            heads=_read_heads(heads),
        )
        before = ""
        for name, value in about:
            print(f"{'' if name == before else name:15s}{value}")
            before = name

    _parse("info", command, arguments)
    return 0


def data(arguments: Sequence[str]) -> int:
    """Look at videos before training: show, check, pack"""
    if not arguments or arguments[0] in ("-h", "--help"):
        verbs = "\n".join(f"  {name:12s}{verb.__doc__}" for name, verb in DATA_VERBS.items())
        print(f"{data.__doc__}\n\nusage: vivit data VERB DATA …          vivit data VERB --help tells more\n\n{verbs}")
        return 0
    verb = DATA_VERBS.get(arguments[0])
    if verb is None:
        raise UserError(f"data: no verb {arguments[0]!r}; there are {', '.join(DATA_VERBS)}")
    return verb(arguments[1:])


def _data_show(arguments: Sequence[str]) -> int:
    """Make a picture of some clips, plain or as training augments them"""

    def command(
        data: Data,
        out: Annotated[Path, tyro.conf.arg(help="the picture", metavar="PNG")] = Path("clips.png"),
        augment: Annotated[
            tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(help="with rows of the same clips augmented")
        ] = False,
        recipe: Annotated[str, tyro.conf.arg(help="whose clips and augmentation to show", metavar="NAME")] = "small",
        randaugment: Annotated[
            tuple[int, float] | None, _unset(help="RandAugment besides", metavar="LAYERS MAGNITUDE")
        ] = None,
        split: Literal["train", "val", "test", "all"] = "train",
        count: Annotated[int, tyro.conf.arg(help="how many videos")] = 4,
        seed: int = 0,
        videos: Videos = None,
    ) -> None:
        from vivit.data.contact_sheet import show
        from vivit.data.datasets import open_split
        from vivit.training.plan import build_augmentation
        from vivit.video.clips import ClipSpec

        settings = _recipe(recipe)
        if randaugment is not None:
            settings = settings.model_copy(update={"randaugment": randaugment})
        preprocessing, side = settings.build_preprocessing(), settings.image_size or 224
        spec = ClipSpec(
            num_frames=settings.num_frames or 32,
            stride=preprocessing.frame_stride,
            size=(side, side),
            resize=preprocessing.resize,
            short=preprocessing.short_clips,
        )
        video_set = open_split(data, split, videos=videos)
        show(video_set, spec, build_augmentation(settings) if augment else None, out, count, seed)
        print(f"written to {out}")

    _parse("data show", command, arguments)
    return 0


def _data_check(arguments: Sequence[str]) -> int:
    """Read every file, and tell what the data holds and what is wrong with it"""
    exit_status = 0

    def command(
        data: Data,
        full: Annotated[
            tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(help="decode every frame, not only five of each file")
        ] = False,
        fix: Annotated[
            Path | None, _unset(help="a list to write, without the videos that cannot be read", metavar="CSV")
        ] = None,
        out: Annotated[
            Path | None, _unset(help="the manifest (default: manifest.json in the data's folder)", metavar="JSON")
        ] = None,
        videos: Videos = None,
        workers: Workers = 2,
    ) -> None:
        nonlocal exit_status
        from vivit.data.check import check

        exit_status = check(data, videos=videos, workers=workers, full=full, out=out, fix=fix)

    _parse("data check", command, arguments)
    return exit_status


def _data_pack(arguments: Sequence[str]) -> int:
    """Write the videos into WebDataset shards, as they are or encoded anew"""

    def command(
        data: Data,
        out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help="folder for the shards", metavar="OUT")],
        short_side: Annotated[
            int | None, _unset(help="encode anew with this shorter side, such as 320", metavar="PIXELS")
        ] = None,
        key_frames: Annotated[
            int | None, _unset(help="encode anew with a key frame in so many frames, such as 32", metavar="FRAMES")
        ] = None,
        crf: Annotated[int | None, _unset(help="encode anew at this quality; less is better", metavar="NUMBER")] = None,
        shard_size: Annotated[int, tyro.conf.arg(help="most mebibytes of a shard", metavar="MIB")] = 512,
        videos: Videos = None,
        workers: Workers = 2,
    ) -> None:
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

    _parse("data pack", command, arguments)
    return 0


DATA_VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "show": _data_show,
    "check": _data_check,
    "pack": _data_pack,
}

VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "demo": demo,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "data": data,
    "convert": convert,
    "info": info,
    "experiment": experiment,
}


# What tyro and Python say of a value, and what is said in its place.
REWORDED = (
    (r"^Error parsing ", ""),
    (r"^Missing from [^:]*: ", "missing: "),
    (r"^Unrecognized options: (.*)", r"no option \1"),
    (r"invalid literal for int\(\) with base 10: (.*)", r"\1 is no whole number"),
    (r"could not convert string to float: (.*)", r"\1 is no number"),
    (r"no type matching (?:\{None\}\|)?(.*) could be instantiated from \[(.*)\]", r"\2 is not \1"),
)


def _parse(verb: str, command: Callable[..., None], arguments: Sequence[str]) -> None:
    words = VERBS[verb] if verb in VERBS else DATA_VERBS[verb.removeprefix("data ")]
    _call(f"vivit {verb}", command, words.__doc__, arguments)


def _call(program: str, command: Callable[..., None], description: str | None, arguments: Sequence[str]) -> None:
    """Call a command with what its arguments say, or raise UserError where they cannot be meant."""
    given: dict[str, Any] = {}

    @wraps(command)
    def note(**fields: Any) -> None:
        given.update(fields)

    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            tyro.cli(note, prog=program, description=description, args=list(arguments))
    except SystemExit as end:
        if not end.code:  # of --help
            raise
        raise UserError(f"{_what_is_wrong(end, complaint.getvalue())}; see {program} --help") from None
    command(**given)


def _what_is_wrong(end: SystemExit, box: str) -> str:
    """What tyro, which prints a box of several lines and exits, has to say, in few words."""
    cause = end.__context__
    while cause is not None and not isinstance(cause, ValidationError):
        cause = cause.__context__
    if cause is not None:
        return one_line(cause)
    rows = [row.strip("|│ ") for row in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()[1:-1]]
    parts = [list(part) for rule, part in groupby(rows, lambda row: not row.strip("-─")) if not rule]
    complaint = " ".join(parts[0] if parts else ["wrong arguments"]).removesuffix(".")
    for theirs, ours in REWORDED:
        complaint = re.sub(theirs, ours, complaint)
    # Where no option has a name, a second part has those of similar names, each with its help.
    similar = [row.split()[0] for part in parts[1:2] for row in part if row.startswith("--")]
    if similar and complaint.startswith("no option"):
        complaint += f"; perhaps {similar[0]} was meant"
    return complaint


def _help() -> str:
    verbs = "\n".join(f"  {name:12s}{verb.__doc__}" for name, verb in VERBS.items())
    return f"""ViViT, a video vision transformer: from video files to labels.

usage: vivit VERB …          vivit VERB --help tells more

{verbs}

Begin with: vivit demo"""


def main() -> None:
    """Run the command line; a mistake of the user is one line on stderr and exit status 2."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return
    if arguments[0] == "--version":
        from vivit import __version__

        print(f"vivit {__version__}")
        return
    verb = VERBS.get(arguments[0])
    if verb is None:
        sys.exit(_complain(f"no verb {arguments[0]!r}; there are {', '.join(VERBS)}"))
    try:
        status = verb(arguments[1:])
    except UserError as error:
        status = _complain(str(error))
    except ValidationError as error:
        status = _complain(one_line(error))
    except Stopped as stopped:
        _complain(str(stopped))
        status = stopped.exit_status
    except KeyboardInterrupt:
        print("vivit: stopped", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        # Whoever read our output has had enough (head, a pager); Python would complain at exit.
        sys.stderr.close()
        status = 0
    sys.exit(status)


def _complain(message: str) -> int:
    # Of many processes any may be the one that has something to say.
    # And at the same time: so each line is written at once.
    sys.stderr.write(f"vivit: {f'process {_rank()}: ' if _rank() else ''}{message}\n")
    sys.stderr.flush()
    return 2


def _rank() -> int:
    """Which of the processes that torchrun started this is."""
    return int(os.environ.get("RANK", "0"))
