"""`vivit stream`"""

import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.errors import complain
from vivit.cli.options import (
    INPUT,
    OUTPUT,
    Background,
    Decoder,
    Device,
    Model,
    Precision,
    Smooth,
    Step,
    Threshold,
    check_step,
)
from vivit.cli.predict import CAMERA_MOTION, say_model
from vivit.cli.signals import on_signals
from vivit.cli.timeline import say_cost, window_line
from vivit.errors import Stopped
from vivit.text import clock, printable

if TYPE_CHECKING:
    from vivit.inference.live import Change, LiveWindows
    from vivit.inference.timeline import ScoredWindow
    from vivit.labels import LabelSpace

app = verb(
    "stream",
    "vivit stream /dev/video0",
    "vivit stream rtsp://camera.local/live --model run --background nothing",
    "vivit stream udp://0.0.0.0:5000 --json > scores.jsonl",
    "ffmpeg -loglevel error -i holiday.mp4 -f mpegts - | vivit stream -",
)
STDIN = "@-"  # what `vivit.cli.main` makes of -
# Seconds between lines about dropped frames.
NOW_AND_THEN = 10.0


@app.default
def stream(
    source: Annotated[str, Parameter(group=INPUT)],
    /,
    *,
    model: Model = CAMERA_MOTION,
    buffer: Annotated[Literal["wait", "drop-oldest"] | None, Parameter(group=INPUT, metavar="NAME")] = None,
    step: Step = None,
    smooth: Smooth = 1.0,
    threshold: Threshold = 0.5,
    background: Background = (),
    json_lines: Annotated[bool, Parameter(name="--json", group=OUTPUT, negative="")] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    decoder: Decoder = "pyav",
) -> int:
    """Label a video as it arrives.

    When the labels change, a line shows the time, and each label with its score. Ctrl-C ends the stream; the last
    frames are still labelled. At the end, the latency and the number of dropped frames go to stderr. If the connection
    is lost, it is retried six times within a minute. docs/stream.md has the details.

    Args:
        source: A file, - for stdin, a camera such as /dev/video0, or a URL: rtsp, rtsps, http, https, udp, tcp.
        buffer: If frames arrive faster than the model runs, make the source wait, or drop the oldest frames. By
            default, cameras and URLs drop and stdin waits; files always wait.
        json_lines: Print each window's scores as JSON, one line per window.
    """
    check_step(step)
    from vivit.inference.inputs import check_one
    from vivit.inference.live import LiveWindows, changes
    from vivit.inference.predictor import Predictor
    from vivit.inference.timeline import Rule

    source = "-" if source == STDIN else source
    check_one(source)
    predictor = Predictor(model, device, precision=precision)
    rule = Rule(smooth, threshold, background=frozenset(background))
    rule.check(predictor.labels)
    windows = LiveWindows(predictor, source, step, buffer, decoder, complain)
    say_model(model, predictor)
    say_cost(predictor, windows.step)
    heard: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if heard:  # a second Ctrl-C ends at once
            raise KeyboardInterrupt
        heard.append(number)
        windows.stop()

    try:
        with on_signals(stop, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if json_lines:
                for window in _watched(windows):
                    print(window_line(window, predictor.labels, as_json=True), flush=True)
            else:
                for change in changes(_watched(windows), predictor.labels, rule):
                    print(_line(change, predictor.labels), flush=True)
    finally:
        if windows.frames:
            print(_report(windows), file=sys.stderr)
    if heard and not windows.live:
        raise Stopped(f"stopped before the end of {windows.source}", heard[0] == signal.SIGINT)
    return 0


def _watched(windows: "LiveWindows") -> "Iterator[ScoredWindow]":
    """Pass the windows on, and report from time to time that more frames were dropped."""
    told, at = 0, time.monotonic() + NOW_AND_THEN
    for window in windows:
        yield window
        if windows.dropped > told and time.monotonic() > at:
            told, at = windows.dropped, time.monotonic() + NOW_AND_THEN
            print(_report(windows), file=sys.stderr)


def _report(windows: "LiveWindows") -> str:
    """How well the model keeps up, in one line."""
    usual, longest = windows.latency
    latency = f"latency {usual:.2f} s, {longest:.2f} s at most" if longest else "no window was full"
    dropped = f"{windows.dropped:,} of {windows.frames + windows.dropped:,} frames dropped"
    return f"{latency}; {dropped}{'; a longer --step drops fewer' if windows.dropped else ''}"


def _line(change: "Change", labels: "LabelSpace") -> str:
    """The time, and each label with its score."""
    title = labels.title(change.head)
    answers = "  ".join(f"{scored.score:6.1%}  {printable(scored.label)}" for scored in change.labels)
    return f"{clock(change.time)}  {f'{printable(title)}  ' if title else ''}{answers or '     –'}"
