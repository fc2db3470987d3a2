"""The `vivit` command: one thin function for each verb. What a verb needs is imported when it is called."""

import json
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import ValidationError

from vivit.errors import UserError, one_line

Device = Annotated[str, tyro.conf.arg(help="auto, cpu or cuda", metavar="NAME")]
Views = Annotated[str, tyro.conf.arg(help="clips x crops of each video, crops 1 or 3", metavar="TxS")]
Workers = Annotated[int, tyro.conf.arg(help="processes that read videos")]
Data = Annotated[
    Path,
    tyro.conf.Positional,
    tyro.conf.arg(
        help="folder of class folders, with train/ and val/ or not; or a .csv with path,label", metavar="DATA"
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
    """Train a model on labelled videos"""
    from vivit.training.recipes import RECIPES, Recipe

    names = Literal["paper", "small", "demo"]
    # The recipe decides the defaults of the other flags, so it is read before them.
    words = [word for argument in arguments for word in argument.split("=", 1)]
    name = next((value for flag, value in pairwise(words) if flag == "--recipe"), "small")
    settings = RECIPES.get(name, RECIPES["small"])()

    def command(
        data: Data,
        out: Annotated[Path, tyro.conf.arg(help="the run's folder; begun before, it is continued", metavar="RUN")],
        settings: tyro.conf.OmitArgPrefixes[Recipe] = settings,
        recipe: Annotated[names, tyro.conf.arg(help="where the settings come from that are not given")] = "small",
        device: Device = "auto",
        workers: Workers = 2,
        keep_decoded: Annotated[
            tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(help="keep decoded videos in memory, where they fit")
        ] = False,
    ) -> None:
        from vivit.training.loop import train

        train(data, out, settings, device=device, workers=workers, keep_decoded=keep_decoded)
        print(f"the model is in {out}; try: vivit predict VIDEO --model {out}")

    _parse("train", command, arguments)
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
            Path | None, tyro.conf.arg(help="folder for scores.json and confusion.png (default: in the model's)")
        ] = None,
        device: Device = "auto",
        workers: Workers = 2,
    ) -> None:
        from vivit.evaluation.report import evaluate_and_report

        evaluate_and_report(data, model, views=views, split=split, out=out, device=device, workers=workers)

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
    ) -> None:
        nonlocal exit_status
        if not files:
            raise UserError("FILES: name at least one video")
        if top < 1:
            raise UserError(f"top: {top} labels cannot be shown; give 1 or more")
        exit_status = _predict_files(files, model, views, top, json, device)

    _parse("predict", command, arguments)
    return exit_status


def _predict_files(files: Sequence[Path], model: Path | str, views: str, top: int, as_json: bool, device: str) -> int:
    """Print an answer for each file; 2 where one could not be read, else 0."""
    from vivit.inference.predictor import Predictor
    from vivit.video.decode import VideoError
    from vivit.video.sampling import parse_views

    parse_views(views)
    predictor = Predictor(model, device)
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


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "demo": demo,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "convert": convert,
    "info": info,
    "experiment": experiment,
}


def _parse(verb: str, command: Callable[..., None], arguments: Sequence[str]) -> None:
    tyro.cli(command, prog=f"vivit {verb}", description=VERBS[verb].__doc__, args=list(arguments))


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
    except KeyboardInterrupt:
        print("vivit: stopped", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        # Whoever read our output has had enough (head, a pager); Python would complain at exit.
        sys.stderr.close()
        status = 0
    sys.exit(status)


def _complain(message: str) -> int:
    print(f"vivit: {message}", file=sys.stderr)
    return 2
