"""`vivit attention`"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.options import CLIPS, INPUT, MODEL, OUTPUT, Decoder, Device, Precision, WeightsModel, check_new
from vivit.cli.predict import CAMERA_MOTION, say_model, stopping
from vivit.errors import UserError
from vivit.text import clock, counted, printable

if TYPE_CHECKING:
    from vivit.inference.attention import ClipAttention

app = verb(
    "attention",
    "vivit attention clip.mp4",
    "vivit attention clip.mp4 --model run --out overlaid.mp4",
    "vivit attention clip.mp4 --model run --class jump --span 3 5 --out jump.png",
    "vivit attention clip.mp4 --model run --method rollout --out maps.npz",
)
ENDINGS = (".mp4", ".png", ".npz", ".safetensors")
BARS = "▁▂▃▄▅▆▇█"
LEAST_SIDE, MOST_SIDE = 160, 320  # pixels of the frames in a .png


@app.default
@stopping(lambda: "stopped")
def attention(
    video: Annotated[Path, Parameter(group=INPUT)],
    *,
    model: WeightsModel = CAMERA_MOTION,
    method: Annotated[Literal["raw", "rollout", "gradient"], Parameter(group=MODEL, metavar="NAME")] = "gradient",
    class_: Annotated[str | None, Parameter(name="--class", group=MODEL, metavar="LABEL")] = None,
    span: Annotated[tuple[float, float] | None, Parameter(group=CLIPS, metavar="START END")] = None,
    json_lines: Annotated[bool, Parameter(name="--json", group=OUTPUT, negative="")] = False,
    out: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FILE")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    decoder: Decoder = "pyav",
) -> None:
    """Show where and when a model looks in a video.

    Consecutive clips cover the video. For each clip, the command shows how the model's attention is spread over space
    and time. docs/attention.md has the formulas for each of the four models, and measures how faithful they are.

    Args:
        video: A file, or a folder of numbered frames.
        method: raw is the last layer's attention, rollout that of all layers; gradient weights all layers by their
            effect on a class.
        class_: The class for the method gradient; by default each clip's most probable one.
        span: Only these seconds of the video.
        json_lines: Print JSON.
        out: Write to this new file. Its ending sets the content: .mp4 (the video, with its sound, overlaid with the
            attention), .png (frames overlaid with the attention, and the attention over time), .npz or .safetensors
            (the maps).
    """
    if out is not None:
        _check(out, video)
    from vivit.inference.attention import attention as attention_of
    from vivit.inference.inputs import check_one
    from vivit.inference.predictor import Predictor
    from vivit.tables import json_text

    check_one(video)
    predictor = Predictor(model, device, precision=precision)
    say_model(model, predictor)
    found: list[ClipAttention] = []
    for clip in attention_of(predictor, video, method, class_, span, decoder):
        found.append(clip)
        if out is None and not json_lines:
            if len(found) == 1:
                print(printable(str(video)))
            print("\n".join(_lines(clip)), flush=True)
    if json_lines:
        print(json_text({"video": str(video), "method": method, "clips": [clip.to_json() for clip in found]}))
    if out is not None:
        _write(out, video, method, found, decoder)
        print(f"the attention of {counted(len(found), 'clip')} is in {printable(str(out))}", file=sys.stderr)


def _check(out: Path, video: Path) -> None:
    """Raise UserError if the file cannot be written."""
    if out.suffix.lower() not in ENDINGS:
        raise UserError(f"{out}: its name must end in {', '.join(ENDINGS)}")
    if out.suffix.lower() == ".mp4":
        from vivit.report.overlay import check_overlay

        check_overlay(out, video)
    elif out.suffix.lower() == ".png":
        import vivit.report.attention_picture  # noqa: F401, needs matplotlib: say so before the model runs
    check_new(out)


def _lines(clip: "ClipAttention") -> Iterator[str]:
    """Lines that describe a clip to people."""
    labels = (clip.about or clip.labels).values()
    named = ", ".join(f"{scored.score:.1%}  {printable(scored.label)}" for scored in labels)
    yield f"  {clock(clip.start)} – {clock(clip.end)}  {named}"
    curve, (seconds, _, _), (x, y) = clip.curve, clip.peak, clip.centre
    heights = (curve / curve.max() * (len(BARS) - 1)).round().astype(int)
    yield f"    when   {''.join(BARS[height] for height in heights)}  most at {clock(seconds)}"
    yield f"    where  half of it in {clip.half:.1%} of the clip, around {x:.0%} from the left and {y:.0%} from the top"


def _write(out: Path, video: Path, method: str, clips: "Sequence[ClipAttention]", decoder: Decoder) -> None:
    ending = out.suffix.lower()
    if ending in (".npz", ".safetensors"):
        from vivit.files import write_files
        from vivit.inference.attention import array_content

        write_files({out: array_content(ending, str(video), method, clips)})
        return
    from vivit.report.attention_picture import moments, with_attention, write_attention_png

    if ending == ".mp4":
        from vivit.report.overlay import write_overlay

        write_overlay(out, video, with_attention(clips, method), decoder)
        return
    from vivit.video.decode import open_video

    shown = moments(clips)
    with open_video(video, decoder) as opened:
        rate, side = opened.info.frame_rate, min(opened.info.height, opened.info.width)
        numbers = [round(clips[clip].times[index] * rate) for clip, index in shown]
        frames = opened.frames(numbers, short_side=min(max(side, LEAST_SIDE), MOST_SIDE))
    labels = dict.fromkeys(scored.label for clip in clips for scored in (clip.about or clip.labels).values())
    title = f"{video.name}   {method}   {', '.join(labels)}"
    write_attention_png(out, title, clips, shown, list(frames.permute(0, 2, 3, 1).numpy()))
