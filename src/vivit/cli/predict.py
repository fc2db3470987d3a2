"""`vivit predict`"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import chain, repeat
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.errors import complain
from vivit.cli.options import (
    CLIPS,
    HARDWARE,
    INPUT,
    OUTPUT,
    Decoder,
    Device,
    Merge,
    MergeOver,
    Model,
    Precision,
    Timeout,
    Views,
    check_new,
)
from vivit.cli.signals import on_signals
from vivit.errors import Stopped, UserError
from vivit.labels import ONLY_HEAD
from vivit.text import counted, printable

if TYPE_CHECKING:
    from vivit.inference.answers import Layout
    from vivit.inference.pipeline import Video
    from vivit.inference.predictor import Prediction, Predictor
    from vivit.video.source import VideoError

app = verb(
    "predict",
    "vivit predict clip.mp4",
    "vivit predict clip.mp4 --model run",
    "vivit predict my_videos --model google/vivit-b-16x2-kinetics400 --views 4x3",
    "vivit predict 'clips/**/*.mp4' --model run --out answers.csv",
    "vivit predict clip.mp4 --top 3 --overlay labelled.mp4",
    "find . -name '*.mp4' | vivit predict - --model run --json > answers.jsonl",
)

Format = Literal["table", "json", "jsonl", "csv", "parquet"]
# The name of the packaged model; vivit.weights has it too, but takes seconds to import.
CAMERA_MOTION = "camera-motion"
FORMATS: dict[str, Format] = {".json": "json", ".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}
# Up to this many videos, starting processes takes longer than they save.
FEW = 16
MOST_WORKERS = 8  # by default; each takes some 300 MB
# More videos than this get a progress bar on a terminal, and a summary of unreadable ones.
SEVERAL = 3
HASH_DIGITS = 12


@app.default
def predict(
    *videos: Annotated[str, Parameter(group=INPUT, required=True)],
    model: Model = CAMERA_MOTION,
    allow_url: Annotated[bool, Parameter(group=INPUT, negative="")] = False,
    allow_private: Annotated[bool, Parameter(group=INPUT, negative="")] = False,
    max_size: Annotated[int, Parameter(group=INPUT, metavar="MB")] = 500,
    views: Views = "1x1",
    show_frames: Annotated[bool, Parameter(group=CLIPS, negative="")] = False,
    top: Annotated[int, Parameter(group=OUTPUT, metavar="N")] = 5,
    format: Annotated[Format | None, Parameter(group=OUTPUT, metavar="NAME")] = None,
    json_lines: Annotated[bool, Parameter(name="--json", group=OUTPUT, negative="")] = False,
    out: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FILE")] = None,
    resume: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False,
    overlay: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FILE")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    merge: Merge = 0.0,
    merge_over: MergeOver = None,
    workers: Annotated[int | None, Parameter(group=HARDWARE, metavar="N")] = None,
    decoder: Decoder = "pyav",
    timeout: Timeout = None,
) -> int:
    """Label videos.

    Without --model, the package's camera-motion model says whether the camera pans, tilts, zooms, rolls or stands
    still. A video that cannot be read is reported on stderr; the others are still labelled, and the exit status is 2.

    Args:
        videos: Files, folders, quoted patterns such as 'clips/**/*.mp4', http and https URLs, - for a list on stdin,
            @FILE for a list in a file. Folders are searched at any depth; a folder that holds only numbered frames is a
            video. A list has a file, folder or URL on each line.
        allow_url: Also download videos from URLs.
        allow_private: Also download from this machine and its private networks.
        max_size: The largest video to download.
        show_frames: Also show which frames of each clip were read, and their times.
        top: Labels to show for each video.
        format: table is for people, json is one array, jsonl has an object on each line, and csv and parquet have a row
            for each label. By default, the ending of --out decides; without --out, table.
        json_lines: Same as --format jsonl.
        out: Write to this file, which must not exist yet; each answer also records its model and views.
        resume: If the --out file exists, keep its answers and add those of the other videos.
        overlay: Also write the video, with its sound and its labels drawn on it, to this new .mp4 file; for one video.
        workers: Processes that read videos; if one crashes, only its video is lost. 0 reads in the main process. By
            default 0 for up to 16 videos, else one for each core, up to 8.
    """
    if top < 1:
        raise UserError(f"top: {top} labels cannot be shown; give 1 or more")
    if max_size < 1:
        raise UserError(f"max_size: {max_size} MB is out of range; give 1 or more")
    chosen = _format(format, json_lines, out)
    if resume and out is None:
        raise UserError("resume: continues after the answers in a file; name it with --out")
    from vivit.inference.answers import AnswerFile, Layout, check_out
    from vivit.inference.fetch import Fetching
    from vivit.inference.inputs import find_inputs
    from vivit.inference.merging import Merge as Merging
    from vivit.inference.predictor import Predictor
    from vivit.inference.views import Views as Parsed
    from vivit.progress import console, progress_bar
    from vivit.video.decode import ReadOptions
    from vivit.video.source import VideoError

    Parsed.parse(views)  # report mistakes before loading the model
    merging = Merging(merge, merge_over)
    if out is not None:
        check_out(out, chosen)
    inputs = list(find_inputs(videos, sys.stdin.buffer, allow_url, complain))
    if overlay is not None:
        _check_overlay(overlay, inputs)
    if workers is None:
        workers = 0 if len(inputs) <= FEW else min(_cores(), MOST_WORKERS)
    predictor = Predictor(model, device, ReadOptions(decoder, timeout, workers), precision, merging)
    say_model(model, predictor)
    fetching = Fetching(max_size * 1_000_000, allow_private)
    made_by = {}
    if out is not None:
        hashed = predictor.fingerprint()[:HASH_DIGITS]
        used = {"precision": predictor.precision.precision, "merge": str(merging)}
        made_by = {"model": hashed, "views": views, **used}
    layout = Layout(predictor.labels, top, show_frames, made_by)
    told: set[str] = set()
    unreadable = 0

    def how_far() -> str:
        where = f"; --resume continues after the answers in {out}" if out is not None else ""
        return f"stopped after {done} of {counted(len(inputs), 'video')}{where}"

    with ExitStack() as stack:
        done = 0
        stack.enter_context(stopping(how_far))
        if out is None:
            to_do, add = inputs, stack.enter_context(_on_stdout(chosen, layout))
        else:
            file = stack.enter_context(AnswerFile(out, chosen, layout, resume))
            to_do, add = list(file.left(inputs)), file.add
        done = len(inputs) - len(to_do)
        visible = len(to_do) > SEVERAL and (out is not None or chosen == "table" or not sys.stdout.isatty())
        bar = progress_bar("predict", len(inputs), visible, console(stderr=True))
        progress = stack.enter_context(bar)
        # Close it before the interpreter exits, so that no read is in progress then.
        answers = stack.enter_context(closing(predictor.predict_all(to_do, views, fetching)))
        for answer in answers:
            if not isinstance(answer, VideoError):
                add(answer)
                if overlay is not None:
                    _write_overlay(overlay, answer, top, decoder)
                    print(f"the video with its labels is in {printable(overlay)}", file=sys.stderr)
            else:
                unreadable += 1
                if str(answer) not in told:
                    complain(str(answer))
                told.add(str(answer))
            done += 1
            progress(done)
        if out is not None:
            file.finish()
    if unreadable and (unreadable > 1 or len(inputs) > SEVERAL):
        complain(f"{unreadable} of {counted(len(inputs), 'video')} cannot be read")
    return 2 if unreadable else 0


def say_model(name: str, predictor: "Predictor") -> None:
    """Say on stderr which model answers, if the user chose none, and on a terminal its precision."""
    if name == CAMERA_MOTION and predictor.about is not None:
        print(f"{name}: {predictor.about.about}; --model NAME answers something else", file=sys.stderr)
    if sys.stderr.isatty():
        print(f"{name} in {predictor.precision}", file=sys.stderr)


def _check_overlay(path: Path, inputs: "Sequence[Video | VideoError]") -> None:
    """Raise UserError if the overlay cannot be written."""
    from vivit.report.overlay import check_overlay

    if len(inputs) > 1:
        raise UserError(f"overlay: draws on one video, not on {len(inputs)}")
    if not isinstance(inputs[0], Path):
        raise UserError(f"overlay: {printable(inputs[0])} is no file on this machine; fetch it first")
    check_overlay(path, inputs[0])
    check_new(path)


def _write_overlay(path: Path, answer: "Prediction", top: int, decoder: Decoder) -> None:
    from vivit.report.overlay import with_labels, write_overlay

    write_overlay(path, Path(str(answer.video)), with_labels(answer, top), decoder)


def _format(format: Format | None, json_lines: bool, out: Path | None) -> Format:
    """The format to write. Raises UserError if the options contradict each other."""
    if json_lines and format not in (None, "jsonl"):
        raise UserError(f"json: is the same as --format jsonl, but --format is {format}; leave one out")
    chosen: Format = "jsonl" if json_lines else format or FORMATS.get(out.suffix.lower() if out else "", "table")
    if out is not None and chosen == "table":
        wanted = "a table is for the terminal" if format else f"its name must end in {', '.join(FORMATS)}"
        raise UserError(f"{out}: {wanted}; or choose a --format")
    if out is None and chosen == "parquet":
        raise UserError("format: parquet needs a file; name it with --out")
    return chosen


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Terminated(BaseException):
    """SIGTERM or SIGHUP came."""


@contextmanager
def stopping(how_far: Callable[[], str]) -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into `Stopped`, so that files are closed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    try:
        with on_signals(stop, signal.SIGTERM, signal.SIGHUP):
            yield
    except (KeyboardInterrupt, _Terminated) as asked:
        raise Stopped(how_far(), isinstance(asked, KeyboardInterrupt)) from None


@contextmanager
def _on_stdout(format: Format, layout: "Layout") -> Iterator[Callable[["Prediction"], None]]:
    """A function that prints answers."""
    if format == "table":
        yield lambda prediction: print("\n".join(_lines(prediction, layout)), flush=True)
        return
    from vivit.tables import csv_text, json_text

    def write(text: str) -> None:
        if sys.stdout.isatty():
            print(*map(printable, text.splitlines()), sep="\n", flush=True)
            return
        # Always UTF-8, keeping bytes of file names that are not valid text.
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()

    if format == "csv":
        write(csv_text((), layout.columns, head=True))
        yield lambda prediction: write(csv_text(layout.table(layout.row(prediction)), layout.columns))
    elif format == "jsonl":
        yield lambda prediction: write(f"{json_text(layout.row(prediction))}\n")
    else:
        separators = chain(["[\n"], repeat(",\n"))
        try:
            yield lambda prediction: write(next(separators) + json_text(layout.row(prediction)))
        finally:
            write("[]\n" if next(separators) == "[\n" else "\n]\n")


def _lines(prediction: "Prediction", layout: "Layout") -> Iterator[str]:
    """Lines that show an answer to people."""
    yield printable(prediction.video)
    if prediction.note:
        yield f"  note: {prediction.note}"
    for head, labels in prediction.heads.items():
        part = "" if head == ONLY_HEAD else f"  {printable(head):10s}"
        for scored in labels[: layout.top]:
            yield f"{part}  {scored.score:6.1%}  {printable(scored.label)}"
    if layout.frames:
        for number, (frames, times) in enumerate(zip(prediction.frames, prediction.times, strict=True), start=1):
            read = ", ".join(f"{frame} ({time:.3f} s)" for frame, time in zip(frames, times, strict=True))
            yield f"  clip {number}: {read}"
